"""Precision, recall and average precision as the PyTorch YOLOv7 computes them."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxprune.evaluation._boxes import Predictions, Targets
from jaxprune.evaluation._matching import THRESHOLDS, match

CONFIDENCES = np.linspace(0, 1, 1000)
RECALLS = np.linspace(0, 1, 101)
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
    correct = match(predictions, targets)
    order = np.lexsort((-predictions.scores, predictions.classes))
    scores, correct = predictions.scores[order], correct[order]
    ends = np.searchsorted(predictions.classes[order], np.arange(classes + 1))
    counts = np.bincount(targets.classes, minlength=classes)
    present = np.flatnonzero(counts)
    curves = [
        _class_curves(scores[ends[c] : ends[c + 1]], correct[ends[c] : ends[c + 1]], int(counts[c])) for c in present
    ]
    precision = np.array([curve[0] for curve in curves]).reshape(-1, len(CONFIDENCES))
    recall = np.array([curve[1] for curve in curves]).reshape(-1, len(CONFIDENCES))
    average = np.array([curve[2] for curve in curves]).reshape(-1, len(THRESHOLDS))
    f1 = 2 * precision * recall / (precision + recall + SMALL)
    best = int((f1.sum(axis=0) / max(len(f1), 1)).argmax())
    return DetectionMetrics(
        precision=_mean(precision[:, best]),
        recall=_mean(recall[:, best]),
        map50=_mean(average[:, 0]),
        map50_95=_mean(average),
        confidence=float(CONFIDENCES[best]),
        per_class_map50_95=_spread(average.mean(axis=1), present, classes),
        per_class_map50=_spread(average[:, 0], present, classes),
        per_class_precision=_spread(precision[:, best], present, classes),
        per_class_recall=_spread(recall[:, best], present, classes),
        targets=counts,
    )


def _class_curves(
    scores: Float[np.ndarray, ' n'], correct: Bool[np.ndarray, 'n 10'], targets: int
) -> tuple[Float[np.ndarray, ' 1000'], Float[np.ndarray, ' 1000'], Float[np.ndarray, ' 10']]:
    """Of one class: precision and recall by confidence at IoU 0.5, and average precision by IoU threshold."""
    if not len(scores):
        return np.zeros(len(CONFIDENCES)), np.zeros(len(CONFIDENCES)), np.zeros(len(THRESHOLDS))
    found = correct.cumsum(axis=0)
    recall = found / (targets + SMALL)
    precision = found / np.arange(1, len(scores) + 1)[:, None]
    # np.interp wants rising abscissas: both confidences are negated
    precision_at = np.interp(-CONFIDENCES, -scores, precision[:, 0], left=1)
    recall_at = np.interp(-CONFIDENCES, -scores, recall[:, 0], left=0)
    return precision_at, recall_at, _average_precision(recall, precision)


def _average_precision(
    recall: Float[np.ndarray, 'n 10'], precision: Float[np.ndarray, 'n 10']
) -> Float[np.ndarray, ' 10']:
    """Area under the precision-recall curve, per column."""
    columns = recall.shape[1]
    recall = np.concatenate([np.zeros((1, columns)), recall, recall[-1:] + 0.01])
    precision = np.concatenate([np.ones((1, columns)), precision, np.zeros((1, columns))])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    sampled = [np.interp(RECALLS, x, y) for x, y in zip(recall.T, envelope.T, strict=True)]
    return np.trapezoid(np.array(sampled), RECALLS, axis=1)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def _spread(values: Float[np.ndarray, ' k'], present: Int[np.ndarray, ' k'], classes: int) -> np.ndarray:
    full = np.full(classes, np.nan)
    full[present] = values
    return full


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return [None if math.isnan(number) else number for number in value.tolist()]
