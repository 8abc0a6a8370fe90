"""Evaluation batches: images resized, letterboxed and stacked, in few shapes, so that few programs are compiled.

The shapes are those of the PyTorch YOLOv7's rectangular evaluation: images are sorted by aspect ratio, and every 32 in
that order share the smallest shape that holds them.
"""

import concurrent.futures
import dataclasses
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxprune.data._letterbox import letterbox, load_image
from jaxprune.data._store import BatchFile, EvalBatch
from jaxprune.data.datasets import DetectionDataset
from jaxprune.errors import UserError

GROUP = 32
PREFETCH = 2
KEEP_BYTES = 64 << 20
_LOG = logging.getLogger(__name__)
_NO_ROOM = (
    'decoded images take %s bytes and cannot be kept (%s): they are decoded in every pass, which is slower; '
    'make room, or set TMPDIR to a folder that has it'
)


@dataclasses.dataclass(frozen=True)
class _Part:
    """The images of one batch and their common height and width."""

    indices: Int[np.ndarray, ' n']
    shape: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class _Picture:
    """One image, ready to be stacked."""

    pixels: UInt8[np.ndarray, 'h w 3']
    size: tuple[int, int]
    gain: float
    pad: tuple[float, float]


class EvalBatches:
    """The batches of a data set for one image size; iterate as often as needed.

    Every batch has exactly `batch` rows. Images are decoded once, in threads, and kept as `uint8`: in memory, or, where
    they take more than `keep_bytes`, in a temporary file. Several passes may go on at once.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        image_size: int,
        *,
        batch: int = GROUP,
        group: int = GROUP,
        rect: bool = True,
        pad: float = 0.5,
        stride: int = 32,
        shuffle: int | None = None,
        keep_bytes: int | None = KEEP_BYTES,
        workers: int | None = None,
    ) -> None:
        """Plans the batches; nothing is decoded yet.

        Args:
            dataset: the split to evaluate.
            image_size: longer side of the resized images, in pixels; a multiple of `stride`.
            batch: rows per batch on the device; it does not change any shape.
            group: how many images, in the order of the aspect ratio, share one shape.
            rect: whether shapes follow the aspect ratio; False makes all of them square.
            pad: how much larger than needed rectangular shapes are, in strides.
            stride: largest stride of the model, in pixels.
            shuffle: seed of a random order, in which any first part of the batches is a random part of the data: images
                of one shape are mixed among its batches, and the batches are mixed; None: by aspect ratio. It does not
                change any shape.
            keep_bytes: the most memory that decoded images may take between passes; more of them go to a file in the
                folder for temporary files (`TMPDIR`). None: nothing is kept, for a single pass.
            workers: decoding threads; None: one per core.

        Raises:
            UserError: a size that the stride does not divide, a batch below 1, or a `shuffle` that is no seed.
        """
        if image_size < stride or image_size % stride:
            below = max(image_size // stride, 1) * stride
            raise UserError(
                f'image size {image_size}: the stride {stride} does not divide it; take {below} or {below + stride}'
            )
        if batch < 1 or group < 1:
            raise UserError(f'batch size {batch}: it must be 1 or more')
        if shuffle is not None and (not isinstance(shuffle, int | np.integer) or shuffle < 0):
            raise UserError(f'shuffle {shuffle!r}: give a seed, a whole number, 0 or more; or None')
        self.dataset = dataset
        self.image_size = image_size
        self.batch = batch
        shapes = _rectangles(dataset.sizes, image_size, group, pad, stride) if rect else _squares(dataset, image_size)
        self._parts = _split(*shapes, batch, None if shuffle is None else np.random.default_rng(shuffle))
        self._workers = workers or os.cpu_count() or 1
        self._store = None if keep_bytes is None else _store([3 * pixels for pixels in self.pixels], keep_bytes)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """The distinct shapes `(batch, height, width, 3)`: as many programs are compiled."""
        return tuple(dict.fromkeys((self.batch, *part.shape, 3) for part in self._parts))

    @property
    def pixels(self) -> tuple[int, ...]:
        """Pixels of every batch, filled rows counted."""
        return tuple(self.batch * part.shape[0] * part.shape[1] for part in self._parts)

    @property
    def order(self) -> Int[np.ndarray, ' n']:
        """Index into the data set of every image, in the order of the batches."""
        return np.concatenate([part.indices for part in self._parts])

    def __iter__(self) -> Iterator[EvalBatch]:
        return self.some(slice(None))

    def some(self, part: slice) -> Iterator[EvalBatch]:
        """Some of the batches: nothing else is decoded."""
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            waiting: deque[Callable[[], EvalBatch]] = deque()
            for number in range(len(self))[part]:
                waiting.append(self._started(pool, number))
                if len(waiting) > PREFETCH:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()

    def _started(self, pool: concurrent.futures.Executor, number: int) -> Callable[[], EvalBatch]:
        """Starts to read or decode a batch; what is returned waits for it."""
        store = self._store
        if store is not None and number in store:
            return pool.submit(store.__getitem__, number).result
        part = self._parts[number]
        pictures = pool.map(self._picture, part.indices.tolist(), [part.shape] * len(part.indices))
        return lambda: self._kept(number, self._stack(part, pictures))

    def _kept(self, number: int, batch: EvalBatch) -> EvalBatch:
        """The batch, for the next pass too; without room for it, all are decoded in every pass from now on."""
        store = self._store
        try:
            if store is not None:
                store[number] = batch
        except OSError as error:
            if self._store is store:  # no other pass has said so
                self._store = None  # passes that read from it keep it until they have
                _LOG.warning(_NO_ROOM, f'{3 * sum(self.pixels):,}', str(error))
        return batch

    def _picture(self, index: int, shape: tuple[int, int]) -> _Picture:
        image, size, resized = load_image(self.dataset.images[index], self.image_size)
        boxed, ratio, pad = letterbox(image, shape, scale_up=False)
        return _Picture(np.ascontiguousarray(boxed[..., ::-1]), size, resized[0] / size[0] * ratio, pad)

    def _stack(self, part: _Part, pictures: Iterator[_Picture]) -> EvalBatch:
        rows = list(pictures)
        fill = self.batch - len(rows)
        labels = [self.dataset.labels[index] for index in part.indices.tolist()]
        return EvalBatch(
            images=_padded(np.stack([row.pixels for row in rows]), fill, 0),
            valid=_padded(np.ones(len(rows), bool), fill, False),
            indices=_padded(part.indices, fill, -1),
            sizes=_padded(np.array([row.size for row in rows], np.int64), fill, 1),
            gains=_padded(np.array([row.gain for row in rows], np.float32), fill, 1),
            pads=_padded(np.array([row.pad for row in rows], np.float32), fill, 0),
            labels=(*labels, *[np.zeros((0, 5), np.float32)] * fill),
        )


def label_boxes(
    dataset: DetectionDataset, image_size: int
) -> tuple[Int[np.ndarray, ' n'], Int[np.ndarray, ' n'], Float[np.ndarray, 'n 4']]:
    """All labels of a data set as boxes in original pixels, for the metric.

    A resized image has whole sides, so its two axes are scaled a little differently, but detections are scaled back by
    the height's factor alone. Labels take the same way, so that both are off by the same.

    Args:
        dataset: the split.
        image_size: longer side of the resized images, in pixels.

    Returns:
        Image index `int64 [n]`, class `int64 [n]`, box `float32 [n, 4]` (left, top, right, bottom, cut to the image).
    """
    counts = [len(rows) for rows in dataset.labels]
    owner = np.repeat(np.arange(len(counts)), counts)
    rows = np.concatenate([*dataset.labels, np.zeros((0, 5), np.float32)])
    size = dataset.sizes.astype(np.float64)
    resized = np.maximum(np.floor(size * (image_size / size.max(axis=1, keepdims=True))), 1)
    scale = (resized / (resized[:, :1] / size[:, :1]))[owner][:, ::-1]
    centre, half = rows[:, 1:3] * scale, rows[:, 3:] * scale / 2
    limit = size[owner][:, ::-1]
    boxes = np.concatenate([np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)], axis=1)
    return owner, rows[:, 0].astype(np.int64), boxes.astype(np.float32)


def _store(sizes: Sequence[int], keep_bytes: int) -> dict[int, EvalBatch] | BatchFile:
    return {} if sum(sizes) <= keep_bytes else BatchFile(sizes)


def _rectangles(
    sizes: Int[np.ndarray, 'n 2'], image_size: int, group: int, pad: float, stride: int
) -> tuple[Int[np.ndarray, ' n'], list[tuple[int, int]]]:
    """Images in the order of their aspect ratio (height / width), and the shape of each."""
    aspect = sizes[:, 0] / sizes[:, 1]
    order = np.argsort(aspect, kind='stable')
    starts = np.arange(0, len(order), group)
    lowest, highest = aspect[order][starts], np.maximum.reduceat(aspect[order], starts)
    relative = np.stack([np.minimum(highest, 1), 1 / np.maximum(lowest, 1)], axis=1)  # wide and tall ones: a square
    shapes = (np.ceil(relative * image_size / stride + pad) * stride).astype(np.int64)
    return order, [(int(shapes[index // group, 0]), int(shapes[index // group, 1])) for index in range(len(order))]


def _squares(dataset: DetectionDataset, image_size: int) -> tuple[Int[np.ndarray, ' n'], list[tuple[int, int]]]:
    return np.arange(len(dataset)), [(image_size, image_size)] * len(dataset)


def _split(
    order: Int[np.ndarray, ' n'], shapes: Sequence[tuple[int, int]], batch: int, rng: np.random.Generator | None
) -> tuple[_Part, ...]:
    """Cuts every run of equal shapes into batches: only the last of a run has rows to fill."""
    table = np.array(shapes)
    ends = np.flatnonzero((table[1:] != table[:-1]).any(axis=1)) + 1
    runs = [run if rng is None else rng.permutation(run) for run in np.split(order, ends)]
    parts = [
        _Part(run[start : start + batch], shapes[first])
        for first, run in zip([0, *ends.tolist()], runs, strict=True)
        for start in range(0, len(run), batch)
    ]
    return tuple(parts if rng is None else (parts[place] for place in rng.permutation(len(parts))))


def _padded(rows: np.ndarray, fill: int, value: float) -> np.ndarray:
    return np.concatenate([rows, np.full((fill, *rows.shape[1:]), value, rows.dtype)]) if fill else rows
