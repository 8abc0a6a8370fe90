"""PyTorch's zip format: one pickle, and the bytes of every storage that it refers to, each where it can be mapped."""

import zipfile
from collections.abc import Callable
from typing import Any

from jaxprune import files
from weights_convert._dump import dump
from weights_convert._plain import Storage

_FOLDER = 'archive'
_ALIGNMENT = 64  # bytes
_HEADER = 30  # bytes of a member's header, before its name
_FIELD = b'FB'  # of the extra field that fills the gap, as PyTorch names it
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_archive(path: files.Path, value: Any, contents: Callable[[Storage], bytes]) -> None:
    """Writes a file that `torch.load` reads; one storage at a time is in memory.

    Args:
      path: of the file, which appears whole or not at all.
      value: plain data, as `_pickle` makes it.
      contents: gives the bytes of a storage.

    Raises:
      UserError: where the file cannot be written, such as on a full disk.
      ConversionError: data that cannot be written.
    """
    dumped = dump(value)
    with files.atomic_file(path) as file, zipfile.ZipFile(file, 'w') as archive:
        members = {'data.pkl': dumped.content, '.storage_alignment': str(_ALIGNMENT).encode(), 'byteorder': b'little'}
        for name, content in members.items():
            _add(archive, name, content)
        for key, storage in enumerate(dumped.storages):
            _add(archive, f'data/{key}', contents(storage))
        _add(archive, 'version', b'3\n')


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Appends a member whose content starts at a multiple of the alignment."""
    entry = zipfile.ZipInfo(f'{_FOLDER}/{name}', _EPOCH)
    start = archive.fp.tell() + _HEADER + len(entry.filename) + 4  # type: ignore[union-attr]
    gap = -start % _ALIGNMENT
    entry.extra = _FIELD + gap.to_bytes(2, 'little') + b'Z' * gap
    archive.writestr(entry, content)
