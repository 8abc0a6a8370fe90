"""Precision, recall and average precision as the PyTorch YOLOv7 computes them."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from jaxprune.errors import UserError
from jaxprune.evaluation._boxes import Predictions, Targets
from jaxprune.evaluation._curves import CONFIDENCES, RECALLS, at_confidences, average_precisions
from jaxprune.evaluation._matching import THRESHOLDS, Matched, matched
from jaxprune.evaluation._ranking import Ranking, count_copies, rank

MAX_CELLS = 1 << 18  # of the arrays in use at a time: faster than larger ones, and memory stays flat
CELLS_PER_CLASS = len(CONFIDENCES) + len(RECALLS) * len(THRESHOLDS)
SMALL = 1e-16  # keeps 0 / 0 at 0


@dataclasses.dataclass(frozen=True)
class DetectionMetrics:
    """The metric of a data set: means over the classes that have targets, and per class; nan for a class without.

    Attributes:
        precision: mean precision at `confidence`, IoU 0.5.
        recall: mean recall at `confidence`, IoU 0.5.
        map50: mean average precision at IoU 0.5.
        map50_95: mean average precision over IoU 0.5, 0.55, …, 0.95.
        confidence: the one confidence, of 1,000 between 0 and 1, with the largest mean F1 at IoU 0.5.
        per_class_map50_95: `float64 [classes]`.
        per_class_map50: `float64 [classes]`.
        per_class_precision: `float64 [classes]`.
        per_class_recall: `float64 [classes]`.
        targets: `int64 [classes]`, number of labels.
    """

    precision: float
    recall: float
    map50: float
    map50_95: float
    confidence: float
    per_class_map50_95: Float[np.ndarray, ' classes']
    per_class_map50: Float[np.ndarray, ' classes']
    per_class_precision: Float[np.ndarray, ' classes']
    per_class_recall: Float[np.ndarray, ' classes']
    targets: Int[np.ndarray, ' classes']

    def to_json(self) -> dict[str, Any]:
        """The figures as plain numbers and lists; None for a class without targets."""
        return {key: _plain(value) for key, value in vars(self).items()}


@dataclasses.dataclass(frozen=True)
class StackedMetrics:
    """The metrics of several candidates or resamples: the fields of `DetectionMetrics` with a leading axis.

    `stacked[i]` is the metric of one of them.
    """

    precision: Float[np.ndarray, ' r']
    recall: Float[np.ndarray, ' r']
    map50: Float[np.ndarray, ' r']
    map50_95: Float[np.ndarray, ' r']
    confidence: Float[np.ndarray, ' r']
    per_class_map50_95: Float[np.ndarray, 'r classes']
    per_class_map50: Float[np.ndarray, 'r classes']
    per_class_precision: Float[np.ndarray, 'r classes']
    per_class_recall: Float[np.ndarray, 'r classes']
    targets: Int[np.ndarray, 'r classes']

    def __len__(self) -> int:
        return len(self.precision)

    def __getitem__(self, index: int) -> DetectionMetrics:
        row: dict[str, Any] = {name: column[index] for name, column in vars(self).items()}
        figures: dict[str, Any] = {name: value if value.ndim else float(value) for name, value in row.items()}
        return DetectionMetrics(**figures)


def detection_metrics(predictions: Predictions, targets: Targets, classes: int) -> DetectionMetrics:
    """Computes the metric over a whole data set.

    Per class, precision and recall run over all detections by falling confidence. The recall curve gets (0,
    precision 1) before and (last recall + 0.01, precision 0) after, precision becomes its running maximum from the
    right, and the average precision is the trapezoid integral over 101 points of it. `match` says what is correct.

    Args:
        predictions: all detections, in original pixels.
        targets: all labels, in original pixels.
        classes: number of classes.

    Returns:
        The metric; zeros if nothing is correct or there are no targets.
    """
    return metrics_of_many(predictions, targets, classes, np.zeros(len(predictions), np.int64), count=1)[0]


def metrics_of_many(
    predictions: Predictions, targets: Targets, classes: int, candidates: Int[np.ndarray, ' n'], *, count: int
) -> StackedMetrics:
    """Computes `detection_metrics` of each of several networks on one data set, in one go.

    Args:
        predictions: the detections of all networks, in any order; those of one image and network in the order that
            non-maximum suppression gave.
        targets: all labels.
        classes: number of classes.
        candidates: `int64 [n]`, the network that made each detection, from 0.
        count: number of networks; one without detections gets zeros.

    Returns:
        The metrics `[count, ...]`.

    Raises:
        UserError: a number in `candidates` is not one of 0 … count - 1.
    """
    if count < 1 or not 0 <= candidates.min(initial=0) <= candidates.max(initial=0) < count:
        raise UserError(
            f'candidates: numbers to {candidates.max(initial=0)} for {count} candidates; number them from 0'
        )
    order = np.argsort(candidates, kind='stable')
    ends = np.searchsorted(candidates[order], np.arange(count + 1))
    labels = _labels(targets, classes, 1 + int(max(predictions.images.max(initial=0), targets.images.max(initial=0))))
    block = np.cumsum(np.diff(ends) + CELLS_PER_CLASS * classes) // MAX_CELLS
    parts = []
    for members in np.split(np.arange(count), np.flatnonzero(np.diff(block)) + 1):
        chosen = order[ends[members[0]] : ends[members[-1] + 1]]
        some = Predictions(*(column[chosen] for column in vars(predictions).values()))
        makers = candidates[chosen] - members[0]
        ranking = _ranked(matched(some, targets, candidates=makers), classes, makers, len(members))
        parts.append(_stacked(ranking, np.ones((1, len(labels)), np.int64), labels))
    return _joined(parts)


def resampled_metrics(
    predictions: Predictions | Matched, targets: Targets, classes: int, weights: Num[np.ndarray, 'r images']
) -> StackedMetrics:
    """Computes `detection_metrics` of r data sets in which image i stands `weights[:, i]` times, as a bootstrap does.

    The same as with every image, its detections and its labels written down that many times under different indices.
    Where confidences are equal, the copies of a detection stand right after one another, in the place of the original.
    Weights of 1 give the plain metric, 0 leaves the image out, and a class without labels in a resample is left out
    of that resample's means.

    Args:
        predictions: all detections; those that are `Matched` already are not matched again.
        targets: all labels.
        classes: number of classes.
        weights: whole numbers, 0 or more.

    Returns:
        The metrics `[r, ...]`.

    Raises:
        UserError: a weight is negative or no whole number, there are none, or an image has none.
    """
    images = 1 + int(max(predictions.images.max(initial=-1), targets.images.max(initial=-1)))
    if weights.ndim != 2 or not len(weights) or weights.shape[1] < images:
        raise UserError(
            f'weights: their shape is {weights.shape}; give at least one row of {images}, one for each image'
        )
    wrong = weights[(weights < 0) | (weights != np.floor(weights)) | ~np.isfinite(weights)]
    if len(wrong):
        raise UserError(f'weights: {wrong[0]} is not a number of copies; use whole numbers from 0')
    whole = weights.astype(np.int64)
    detections = predictions if isinstance(predictions, Matched) else matched(predictions, targets)
    ranking = _ranked(detections, classes, np.zeros(len(detections), np.int64), 1)
    labels = _labels(targets, classes, whole.shape[1])
    rows = max(1, MAX_CELLS // (len(predictions) + CELLS_PER_CLASS * classes))
    return _joined([_stacked(ranking, whole[i : i + rows], labels) for i in range(0, len(whole), rows)])


def _ranked(detections: Matched, classes: int, candidates: Int[np.ndarray, ' n'], count: int) -> Ranking:
    """Orders the detections, with a segment for each class of each candidate."""
    segment = np.where(detections.classes < classes, candidates * classes + detections.classes, count * classes)
    return rank(detections, segment, count * classes)


def _labels(targets: Targets, classes: int, images: int) -> Int[np.ndarray, 'images classes']:
    """Number of labels."""
    labels = np.zeros((images, classes), np.int64)
    np.add.at(labels, (targets.images, targets.classes), 1)
    return labels


def _stacked(
    ranking: Ranking, weights: Int[np.ndarray, 'r images'], labels: Int[np.ndarray, 'images classes']
) -> StackedMetrics:
    """The metrics of several candidates, or of several resamples of one."""
    classes = labels.shape[1]
    targets = np.tile(weights @ labels, (1, ranking.segments // classes))
    counts = count_copies(ranking, weights, targets)
    curves = (*at_confidences(ranking, counts), average_precisions(ranking, counts))
    precision, recall, average = (curve.reshape(-1, classes, curve.shape[-1]) for curve in curves)
    targets = targets.reshape(-1, classes)
    f1 = 2 * precision * recall / (precision + recall + SMALL)
    best = _class_mean(f1, targets).argmax(axis=1)
    each = {
        'precision': np.take_along_axis(precision, best[:, None, None], axis=2)[..., 0],
        'recall': np.take_along_axis(recall, best[:, None, None], axis=2)[..., 0],
        'map50': average[..., 0],
        'map50_95': average.mean(axis=2),
    }
    return StackedMetrics(
        **{name: _class_mean(values, targets) for name, values in each.items()},
        **{f'per_class_{name}': np.where(targets > 0, values, np.nan) for name, values in each.items()},
        confidence=CONFIDENCES[best],
        targets=targets,
    )


def _class_mean(
    values: Float[np.ndarray, 'r classes *k'], targets: Int[np.ndarray, 'r classes']
) -> Float[np.ndarray, 'r *k']:
    """Mean over the classes that have targets; 0 if there are none."""
    present = (targets > 0).reshape(*targets.shape, *[1] * (values.ndim - 2))
    return np.where(present, values, 0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)


def _joined(parts: list[StackedMetrics]) -> StackedMetrics:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return StackedMetrics(*(np.concatenate(column) for column in columns))


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return [None if math.isnan(number) else number for number in value.tolist()]
