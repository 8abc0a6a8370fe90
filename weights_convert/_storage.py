"""Opens a checkpoint file, zip or legacy, and reads the tensors in it.

Both formats hold one pickle, which refers to storages (flat arrays), and the bytes of the storages. The elements read
in all are limited by the size of the file, so that no file takes more memory or time than its size warrants.
"""

import contextlib
import dataclasses
import functools
import io
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from weights_convert._errors import ConversionError
from weights_convert._pickle import unpickle
from weights_convert._plain import Storage
from weights_convert._tensors import STORAGE_TYPES, TensorRef, values

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
_BIG_ENDIAN = 'written on a big-endian machine; save it again on another'


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An open file.

    Attributes:
      value: what the pickle stands for, as plain data.
      unexpected_calls: functions that the pickle asks for and no checkpoint needs; none was called.
    """

    value: Any
    unexpected_calls: tuple[str, ...]
    _bytes: Callable[[Storage], Any]
    _budget: '_Budget'

    def read(self, tensor: TensorRef) -> np.ndarray:
        """The tensor's values; floating-point types as float32 (exact but for float64), others as they are."""
        self._budget.spend(math.prod(tensor.shape))
        return values(tensor, self._bytes(tensor.storage))


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
        raise ConversionError('no such file')
    with path.open('rb') as file:
        start = file.read(4)
        file.seek(0)
        if start == b'PK\x03\x04':
            with _open_zip(file) as archive:
                yield _from_zip(archive, path.stat().st_size)
        elif start[:1] == b'\x80':
            yield _from_legacy(file.read())
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
    try:
        return archive.read(name)
    except _DAMAGED as error:
        raise ConversionError(f'{name!r:.60} in the zip archive is missing or damaged') from error


def _from_zip(archive: zipfile.ZipFile, size: int) -> Checkpoint:
    names = archive.namelist()
    pickles = [name for name in names if name.split('/')[1:] == ['data.pkl']]
    if len(pickles) != 1:
        raise ConversionError('a zip archive, but not a PyTorch checkpoint: data.pkl is not in it')
    if sum(entry.file_size for entry in archive.infolist()) > _EXPANSION * size:
        raise ConversionError(f'the zip archive unpacks to more than {_EXPANSION} times its size')
    folder = pickles[0].removesuffix('data.pkl')
    if f'{folder}byteorder' in names and _member(archive, f'{folder}byteorder') != b'little':
        raise ConversionError(_BIG_ENDIAN)
    unpickled = unpickle(io.BytesIO(_member(archive, pickles[0])))
    budget = _Budget(_EXPANSION * size + _SPARE_ELEMENTS)

    @functools.lru_cache(maxsize=4)
    def read(key: str) -> bytes:
        content = _member(archive, f'{folder}data/{key}')
        budget.spend(len(content))
        return content

    return Checkpoint(unpickled.value, unpickled.unexpected_calls, lambda storage: read(storage.key), budget)


def _from_legacy(content: bytes) -> Checkpoint:
    """The format before PyTorch 1.6: five pickles (magic, version, machine, value, keys), then the storages."""
    file = io.BytesIO(content)
    if unpickle(file).value != _LEGACY_MAGIC:
        raise ConversionError('a pickle, but not a PyTorch checkpoint')
    _, machine, unpickled, keys = (unpickle(file) for _ in range(4))
    if not isinstance(machine.value, dict) or machine.value.get('little_endian') is not True:
        raise ConversionError(_BIG_ENDIAN)
    places = _legacy_places(content, file.tell(), keys.value, unpickled.storages)
    budget = _Budget(_EXPANSION * len(content) + _SPARE_ELEMENTS)
    return Checkpoint(unpickled.value, unpickled.unexpected_calls, lambda storage: places.get(storage.key, b''), budget)


def _legacy_places(content: bytes, position: int, keys: Any, storages: Mapping[str, Storage]) -> dict[str, memoryview]:
    """The bytes of every storage: they stand in the order of `keys`, each after its number of elements (8 bytes)."""
    places = {}
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.type_name not in STORAGE_TYPES or position + 8 > len(content):
            raise ConversionError('the list of storages is truncated or damaged')
        (elements,) = struct.unpack_from('<q', content, position)
        end = position + 8 + elements * np.dtype(STORAGE_TYPES[storage.type_name]).itemsize
        if elements < 0 or end > len(content):
            raise ConversionError(f'storage {key!r:.40} is truncated or damaged')
        places[key] = memoryview(content)[position + 8 : end]
        position = end
    return places
