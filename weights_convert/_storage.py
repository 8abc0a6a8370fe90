"""Opens a checkpoint file, zip or legacy, and reads the tensors in it.

Both formats hold one pickle, which refers to storages (flat arrays), and the bytes of the storages. The elements read
in all are limited by the size of the file, so that no file takes more memory or time than its size warrants.
"""

import contextlib
import dataclasses
import functools
import io
import math
import mmap
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, cast

import numpy as np

from weights_convert._errors import ConversionError
from weights_convert._pickle import Unpickled, unpickle
from weights_convert._plain import Storage
from weights_convert._tensors import STORAGE_TYPES, Arrange, TensorRef, values

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_EXPANSION = 32  # bytes that a compressed archive may unpack to, per byte of the file
_SPARE_ELEMENTS = 1 << 20  # elements that even a tiny file may have, as expanded views of one number
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CACHED = 4  # storages that are kept; tensors that share one mostly follow each other
_BIG_ENDIAN = 'written on a big-endian machine; save it again on another'


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An open file.

    Attributes:
      value: what the pickle stands for, as plain data.
      unexpected_calls: functions that the pickle asks for and no checkpoint needs; none was called.
      size: of the file, in bytes.
    """

    value: Any
    unexpected_calls: tuple[str, ...]
    size: int
    _bytes: Callable[[str], bytes]
    _budget: '_Budget'

    def read(self, tensor: TensorRef, arrange: Arrange = np.asarray) -> np.ndarray:
        """The tensor's values; floating-point types as float32 (exact but for float64), others as they are.

        Args:
          tensor: which to read.
          arrange: how to lay them out; done first, because half precision is moved in half the time.
        """
        self._budget.spend(math.prod(tensor.shape))
        return values(tensor, self._bytes(tensor.storage.key), arrange)

    def read_storage(self, storage: Storage) -> bytes:
        """All of a storage, as it is."""
        if storage.type_name not in STORAGE_TYPES:
            raise ConversionError(f'a storage of type {storage.type_name!r:.60} cannot be read')
        size = np.dtype(STORAGE_TYPES[storage.type_name]).itemsize
        content = bytes(self._bytes(storage.key)[storage.offset * size : (storage.offset + storage.size) * size])
        if len(content) != storage.size * size:
            raise ConversionError(f'storage {storage.key!r:.40} is truncated or damaged')
        self._budget.spend(storage.size)
        return content


class _Budget:
    """Elements that may still be read."""

    def __init__(self, elements: int) -> None:
        self._left = elements

    def spend(self, elements: int) -> None:
        self._left -= elements
        if self._left < 0:
            raise ConversionError('its tensors are larger than the file can hold')


@contextlib.contextmanager
def open_checkpoint(path: pathlib.Path) -> Iterator[Checkpoint]:
    """Opens a `.pt` file; nothing in it is executed.

    Raises:
      ConversionError: no such file, or not a checkpoint, or a damaged one.
    """
    if not path.is_file():
        raise ConversionError('not a file' if path.exists() else 'no such file')
    with path.open('rb') as file:
        start = file.read(4)
        file.seek(0)
        if start == b'PK\x03\x04':
            with _open_zip(file) as archive:
                yield _from_zip(archive, path.stat().st_size)
        elif start[:1] == b'\x80':
            yield _from_legacy(file, path.stat().st_size)
        elif start:
            raise ConversionError('not a PyTorch checkpoint: neither the zip nor the legacy format')
        else:
            raise ConversionError('the file is empty')


def _open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _DAMAGED as error:
        raise ConversionError('the zip archive is truncated or damaged') from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file in the archive: as many bytes as the archive says, however many more it would unpack to."""
    try:
        entry = archive.getinfo(name)
        if entry.compress_type not in _COMPRESSION:
            raise ConversionError(f'{name!r:.60} in the zip archive is compressed in a way that PyTorch never uses')
        with archive.open(entry) as member:
            return member.read(entry.file_size)
    except ConversionError:
        raise
    except _DAMAGED as error:
        raise ConversionError(f'{name!r:.60} in the zip archive is missing or damaged') from error


def _from_zip(archive: zipfile.ZipFile, size: int) -> Checkpoint:
    names = archive.namelist()
    pickles = [name for name in names if name.split('/')[1:] == ['data.pkl']]
    if any(name.split('/')[1:] == ['constants.pkl'] for name in names):
        raise ConversionError(
            'a TorchScript archive (torch.jit.save), which holds a program; save the model itself with torch.save'
        )
    if len(pickles) != 1:
        raise ConversionError('a zip archive, but not a PyTorch checkpoint: data.pkl is not in it')
    if sum(entry.file_size for entry in archive.infolist()) > _EXPANSION * size:
        raise ConversionError(f'the zip archive unpacks to more than {_EXPANSION} times its size')
    folder = pickles[0].removesuffix('data.pkl')
    if f'{folder}byteorder' in names and _member(archive, f'{folder}byteorder') != b'little':
        raise ConversionError(_BIG_ENDIAN)
    unpickled = unpickle(io.BytesIO(_member(archive, pickles[0])))
    return _checkpoint(unpickled, lambda key: _member(archive, f'{folder}data/{key}'), size)


def _checkpoint(unpickled: Unpickled, storage_bytes: Callable[[str], bytes], size: int) -> Checkpoint:
    """A file of `size` bytes, with a function that reads the storage of a key."""
    budget = _Budget(_EXPANSION * size + _SPARE_ELEMENTS)

    @functools.lru_cache(maxsize=_CACHED)
    def read(key: str) -> bytes:
        content = storage_bytes(key)
        budget.spend(len(content))
        return content

    return Checkpoint(unpickled.value, unpickled.unexpected_calls, size, read, budget)


def _from_legacy(file: IO[bytes], size: int) -> Checkpoint:
    """The format before PyTorch 1.6: five pickles (magic, version, machine, value, keys), then the storages."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # reads no more than there is
        pickles = cast(IO[bytes], content)
        if unpickle(pickles).value != _LEGACY_MAGIC:
            raise ConversionError('a pickle, but not a PyTorch checkpoint')
        _, machine, unpickled, keys = (unpickle(pickles) for _ in range(4))
        position = content.tell()
    if not isinstance(machine.value, dict) or machine.value.get('little_endian') is not True:
        raise ConversionError(_BIG_ENDIAN)
    places = _legacy_places(file, position, size, keys.value, unpickled.storages)

    def read(key: str) -> bytes:
        start, length = places.get(key, (0, 0))
        file.seek(start)
        return file.read(length)

    return _checkpoint(unpickled, read, size)


def _legacy_places(
    file: IO[bytes], position: int, size: int, keys: Any, storages: Mapping[str, Storage]
) -> dict[str, tuple[int, int]]:
    """First byte and length of every storage: from `position` on as in `keys`, each after its length (8 bytes)."""
    places = {}
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(key) if isinstance(key, str) else None
        file.seek(position)
        count = file.read(8)
        if storage is None or storage.type_name not in STORAGE_TYPES or len(count) < 8:
            raise ConversionError('the list of storages is truncated or damaged')
        length = int.from_bytes(count, 'little', signed=True) * np.dtype(STORAGE_TYPES[storage.type_name]).itemsize
        position += 8 + length
        if length < 0 or position > size:
            raise ConversionError(f'storage {key!r:.40} is truncated or damaged')
        places[key] = (position - length, length)
    return places
