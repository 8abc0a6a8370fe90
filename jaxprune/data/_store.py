"""Decoded batches, and the file that keeps them between passes where memory is not enough."""

import dataclasses
import errno
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from typing import IO

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """Images for the device, and what leads back to the original pixels: `original = (network - pads) / gains`.

    Attributes:
        images: `uint8 [b, h, w, 3]`, RGB; rows of zeros where `valid` is False.
        valid: `bool [b]`, False for the rows that only fill the batch.
        indices: `int64 [b]`, index into the data set, -1 where not valid.
        sizes: `int64 [b, 2]`, height and width of the original image.
        gains: `float32 [b]`, network pixels per original pixel.
        pads: `float32 [b, 2]`, grey border left and above, in network pixels.
        labels: per row `float32 [n, 5]`, the data set's labels.
    """

    images: UInt8[np.ndarray, 'b h w 3']
    valid: Bool[np.ndarray, ' b']
    indices: Int[np.ndarray, ' b']
    sizes: Int[np.ndarray, 'b 2']
    gains: Float[np.ndarray, ' b']
    pads: Float[np.ndarray, 'b 2']
    labels: tuple[Float[np.ndarray, 'n 5'], ...]


class BatchFile:
    """Batches by number: their pixels in an anonymous temporary file, all else in memory.

    Every batch has a place of its own in the file, so that any thread may write and read at any time. The file has no
    name: it is gone when this object or the process is. It is read, not mapped, so that its pages do not count as
    memory of the process.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        """Plans the places; the file is made when the first batch comes.

        Args:
            sizes: bytes of the pixels of every batch.
        """
        self._starts = [0, *np.cumsum(sizes).tolist()]
        self._kept: dict[int, tuple[tuple[int, ...], EvalBatch]] = {}
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def __contains__(self, number: int) -> bool:
        return number in self._kept

    def __setitem__(self, number: int, batch: EvalBatch) -> None:
        """Raises `OSError`, which names the folder, where there is no room."""
        folder = tempfile.gettempdir()
        try:
            _write(self._opened(folder).fileno(), batch.images, self._starts[number])
        except OSError as error:
            raise OSError(error.errno, error.strerror, folder) from error
        self._kept[number] = batch.images.shape, dataclasses.replace(batch, images=np.zeros((0, 0, 0, 3), np.uint8))

    def __getitem__(self, number: int) -> EvalBatch:
        shape, batch = self._kept[number]
        assert self._file is not None  # made before anything was kept
        return dataclasses.replace(batch, images=_read(self._file.fileno(), shape, self._starts[number]))

    def _opened(self, folder: str) -> IO[bytes]:
        with self._lock:
            if self._file is None:
                self._file = _open(folder, self._starts[-1])
                weakref.finalize(self, self._file.close)
            return self._file


def _open(folder: str, size: int) -> IO[bytes]:
    if shutil.disk_usage(folder).free < size:  # else the disk would be full for all others, too, until it is noticed
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return tempfile.TemporaryFile(dir=folder, buffering=0)


def _write(file: int, pixels: UInt8[np.ndarray, 'b h w 3'], start: int) -> None:
    rest = np.ascontiguousarray(pixels).data.cast('B')
    while rest:
        written = os.pwrite(file, rest, start)
        rest, start = rest[written:], start + written


def _read(file: int, shape: tuple[int, ...], start: int) -> UInt8[np.ndarray, 'b h w 3']:
    pixels = np.empty(shape, np.uint8)
    rest = pixels.data.cast('B')
    while rest:
        read = os.preadv(file, [rest], start)
        if not read:
            raise OSError(errno.EIO, 'the temporary file of decoded images is too short')
        rest, start = rest[read:], start + read
    return pixels
