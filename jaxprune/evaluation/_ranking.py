"""Detections in the order of a precision-recall curve, and how often each of them stands in a resampled data set."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxprune.evaluation._matching import Matched


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The detections of one or more candidates, segment by segment and by falling confidence.

    A segment is one class of one candidate.

    Attributes:
        images: `int64 [n]`.
        scores: `float64 [n]`.
        correct: `bool [n, 10]`, by IoU threshold.
        ends: `int64 [s + 1]`; the detections of segment i are `ends[i]` … `ends[i + 1] - 1`.
    """

    images: Int[np.ndarray, ' n']
    scores: Float[np.ndarray, ' n']
    correct: Bool[np.ndarray, 'n 10']
    ends: Int[np.ndarray, ' s1']

    @property
    def segments(self) -> int:
        """Number of segments."""
        return len(self.ends) - 1


@dataclasses.dataclass(frozen=True)
class Counts:
    """How often each detection and label stands in each of r resamples of the images.

    Attributes:
        copies: `int64 [r, n]`, of each detection.
        before: `int64 [r, n + 1]`, copies of all detections before each one, whatever their segment.
        targets: `int64 [r, s]`, labels of the class of each segment.
    """

    copies: Int[np.ndarray, 'r n']
    before: Int[np.ndarray, 'r n1']
    targets: Int[np.ndarray, 'r s']


def rank(detections: Matched, segment: Int[np.ndarray, ' n'], segments: int) -> Ranking:
    """Orders the detections; equal confidences keep their order.

    Args:
        detections: as they were matched.
        segment: the segment of each; one of `segments` or more leaves the detection out.
        segments: number of segments.
    """
    order = np.lexsort((-detections.scores, segment))
    ends = np.searchsorted(segment[order], np.arange(segments + 1))
    order = order[: ends[-1]]
    scores = detections.scores[order].astype(np.float64)
    return Ranking(detections.images[order], scores, detections.correct[order], ends)


def count_copies(ranking: Ranking, weights: Int[np.ndarray, 'r images'], targets: Int[np.ndarray, 'r s']) -> Counts:
    """Counts the detections of resamples in which image i stands `weights[:, i]` times."""
    copies = np.take(weights, ranking.images, axis=1)
    return Counts(copies, before(copies), targets)


def before(values: Int[np.ndarray, 'r n']) -> Int[np.ndarray, 'r n1']:
    """Sums of the values before each place."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1), np.int64)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums
