"""Which detections are correct, by the rule of the PyTorch YOLOv7."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxprune.evaluation._boxes import Predictions, Targets

THRESHOLDS = np.linspace(0.5, 0.95, 10, dtype=np.float32)
MAX_PAIRS = 1 << 15  # at a time, so that they stay in the cache


@dataclasses.dataclass(frozen=True)
class Matched:
    """Detections of which it is known whether they are correct: all that a metric needs.

    Attributes:
        images: `int64 [n]`, index of the image.
        classes: `int64 [n]`.
        scores: `float32 [n]`, confidence.
        correct: `bool [n, 10]`, by IoU threshold.
    """

    images: Int[np.ndarray, ' n']
    classes: Int[np.ndarray, ' n']
    scores: Float[np.ndarray, ' n']
    correct: Bool[np.ndarray, 'n 10']

    def __len__(self) -> int:
        return len(self.images)


def matched(predictions: Predictions, targets: Targets, *, candidates: Int[np.ndarray, ' n'] | None = None) -> Matched:
    """The detections with what `match` says of them."""
    correct = match(predictions, targets, candidates=candidates)
    return Matched(predictions.images, predictions.classes, predictions.scores, correct)


def match(
    predictions: Predictions, targets: Targets, *, candidates: Int[np.ndarray, ' n'] | None = None
) -> Bool[np.ndarray, 'n 10']:
    """Per detection and IoU threshold (0.5, 0.55, …, 0.95), whether it is correct.

    A detection looks only at the target of its image and class that it overlaps most. It is correct, at the thresholds
    that this IoU exceeds, if the IoU exceeds the lowest of them and no detection of higher confidence took the target.

    Args:
        predictions: detections, n of them; equal confidences keep their order.
        targets: labels, the same for all candidates.
        candidates: the network that made each detection, from 0; None where there is one. Detections of one candidate
            do not see those of another.

    Returns:
        `bool [n, 10]` in the order of `predictions`.
    """
    maker = np.zeros(len(predictions), np.int64) if candidates is None else candidates
    classes = 1 + max(predictions.classes.max(initial=0), targets.classes.max(initial=0))
    key = predictions.images * classes + predictions.classes
    target_key = targets.images * classes + targets.classes
    by_key = np.argsort(target_key, kind='stable')
    target_key, target_edges = target_key[by_key], _edges(targets.boxes_xyxy[by_key])
    order = np.lexsort((-predictions.scores, key, maker))
    first = np.searchsorted(target_key, key[order], side='left')
    count = np.searchsorted(target_key, key[order], side='right') - first
    seen = count > 0
    order, first, count = order[seen], first[seen], count[seen]
    parts = np.array_split(np.arange(len(order)), 1 + int(count.sum()) // MAX_PAIRS)
    edges = _edges(predictions.boxes_xyxy[order])
    best = [_best_target(edges[:, p], first[p], count[p], target_edges) for p in parts if len(p)]
    correct = np.zeros((len(predictions), len(THRESHOLDS)), bool)
    if best:
        overlap, taken = (np.concatenate(column) for column in zip(*best, strict=True))
        winners = _first_come(overlap, maker[order] * len(targets) + taken)
        correct[order[winners]] = overlap[winners, None] > THRESHOLDS
    return correct


def _best_target(
    boxes: Float[np.ndarray, '5 n'],
    first: Int[np.ndarray, ' n'],
    count: Int[np.ndarray, ' n'],
    targets: Float[np.ndarray, '5 m'],
) -> tuple[Float[np.ndarray, ' n'], Int[np.ndarray, ' n']]:
    """Largest IoU of each box with targets `first` … `first + count - 1` (one at least), and the first that has it."""
    start = np.cumsum(count) - count
    target = np.arange(count.sum()) + np.repeat(first - start, count)
    overlap = _iou(np.repeat(boxes, count, axis=1), np.take(targets, target, axis=1))
    best = np.maximum.reduceat(overlap, start)
    place = np.flatnonzero(overlap == np.repeat(best, count))
    return best, target[place[np.searchsorted(place, start)]]


def _first_come(overlap: Float[np.ndarray, ' n'], taken: Int[np.ndarray, ' n']) -> Int[np.ndarray, ' k']:
    """The detections, in order, that overlap enough and come first to their target."""
    candidates = np.flatnonzero(overlap > THRESHOLDS[0])
    _, leading = np.unique(taken[candidates], return_index=True)
    return candidates[leading]


def _edges(boxes: Float[np.ndarray, 'n 4']) -> Float[np.ndarray, '5 n']:
    """Left, top, right, bottom and area."""
    left, top, right, bottom = boxes.T
    return np.stack([left, top, right, bottom, (right - left) * (bottom - top)])


def _iou(a: Float[np.ndarray, '5 n'], b: Float[np.ndarray, '5 n']) -> Float[np.ndarray, ' n']:
    """Overlap of each pair of boxes, in float32; 0 where both are empty."""
    inner = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), 0)
    inner *= np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), 0)
    union = a[4] + b[4] - inner
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
