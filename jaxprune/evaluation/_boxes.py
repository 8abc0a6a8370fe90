"""What the metrics read: detections and labels of a whole data set as flat arrays, boxes in original pixels."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Detections of a data set, those of one image in the order that non-maximum suppression gave.

    Attributes:
        images: `int64 [n]`, index of the image.
        classes: `int64 [n]`.
        scores: `float32 [n]`, confidence.
        boxes_xyxy: `float32 [n, 4]`, left, top, right, bottom in pixels of the original image.
    """

    images: Int[np.ndarray, ' n']
    classes: Int[np.ndarray, ' n']
    scores: Float[np.ndarray, ' n']
    boxes_xyxy: Float[np.ndarray, 'n 4']

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class Targets:
    """Labels of a data set.

    Attributes:
        images: `int64 [n]`, index of the image.
        classes: `int64 [n]`.
        boxes_xyxy: `float32 [n, 4]`, left, top, right, bottom in pixels of the original image.
    """

    images: Int[np.ndarray, ' n']
    classes: Int[np.ndarray, ' n']
    boxes_xyxy: Float[np.ndarray, 'n 4']

    def __len__(self) -> int:
        return len(self.images)


class BatchDetections(Protocol):
    """What non-maximum suppression gives for a batch: `[b, k, 4]` network pixels, `[b, k]`, `[b, k]`, `[b, k]`."""

    @property
    def boxes_xyxy(self) -> ArrayLike: ...
    @property
    def scores(self) -> ArrayLike: ...
    @property
    def classes(self) -> ArrayLike: ...
    @property
    def valid(self) -> ArrayLike: ...


class Frames(Protocol):
    """How the images of a batch were resized and padded: `original = (network - pads) / gains`, cut to `sizes`."""

    @property
    def valid(self) -> Bool[np.ndarray, ' b']: ...
    @property
    def indices(self) -> Int[np.ndarray, ' b']: ...
    @property
    def sizes(self) -> Int[np.ndarray, 'b 2']: ...
    @property
    def gains(self) -> Float[np.ndarray, ' b']: ...
    @property
    def pads(self) -> Float[np.ndarray, 'b 2']: ...


def collect(detections: BatchDetections, frames: Frames) -> Predictions:
    """Takes the detections of a batch back to the original pixels, as the PyTorch YOLOv7 does, in float32.

    Args:
        detections: boxes `[b, k, 4]` in network pixels, scores, classes and validity `[b, k]`.
        frames: the batch that they were made from; rows that only fill it are left out.

    Returns:
        The valid detections, image by image.
    """
    valid = np.asarray(detections.valid) & frames.valid[:, None]
    row, column = np.nonzero(valid)
    boxes = np.asarray(detections.boxes_xyxy, np.float32)[row, column]
    boxes = (boxes - np.tile(frames.pads, 2)[row]) / frames.gains[row, None]
    limits = np.tile(frames.sizes[:, ::-1], 2)[row].astype(np.float32)
    return Predictions(
        images=np.asarray(frames.indices, np.int64)[row],
        classes=np.asarray(detections.classes)[row, column].astype(np.int64),
        scores=np.asarray(detections.scores, np.float32)[row, column],
        boxes_xyxy=np.clip(boxes, 0, limits),
    )


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Joins the detections of several batches; an empty sequence gives no detections."""
    empty = Predictions(
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 4), np.float32)
    )
    columns = [field.name for field in dataclasses.fields(Predictions)]
    return Predictions(*(np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in columns))
