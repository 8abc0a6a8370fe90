"""Precision-recall curves of many candidates and many resamples at once.

A detection that stands w times in a resample is w points of its curve, one right after the other. They are all correct
or all wrong, since every copy of an image brings its own labels, so the first and the last of them say everything.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float, Int

from jaxprune.evaluation._matching import THRESHOLDS
from jaxprune.evaluation._ranking import Counts, Ranking, before

CONFIDENCES = np.linspace(0, 1, 1000)
RECALLS = np.linspace(0, 1, 101)


def at_confidences(ranking: Ranking, counts: Counts) -> tuple[Float[np.ndarray, 'r s k'], Float[np.ndarray, 'r s k']]:
    """Precision and recall at IoU 0.5 and each of `CONFIDENCES`, read from straight lines between the detections.

    Above the highest confidence precision is 1 and recall 0; in a segment without detections both are 0.
    """
    spot, segment, expand = _spots(ranking)
    start, end = ranking.ends[segment], ranking.ends[segment + 1]
    hits = np.flatnonzero(ranking.correct[:, 0])
    hits_before = before(np.take(counts.copies, hits, axis=1))
    found = hits_before[:, np.searchsorted(hits, spot)] - hits_before[:, np.searchsorted(hits, start)]
    made, total = counts.before[:, spot] - counts.before[:, start], counts.before[:, end] - counts.before[:, start]
    last, next_ = _neighbours(counts.before, spot)
    inside = (made > 0) & (made < total)
    scores, correct = np.append(ranking.scores, 0), np.append(ranking.correct[:, 0], False)[next_]
    distance = np.where(inside, scores[last] - scores[next_], np.inf)
    precision = np.where(made > 0, found / np.maximum(made, 1), total > 0)
    targets = np.maximum(counts.targets, 1)[:, segment]
    recall = found / targets
    falls = ((found + correct) / (made + 1) - precision) / distance, ((found + correct) / targets - recall) / distance
    step = scores[last][:, expand] - CONFIDENCES
    return falls[0][:, expand] * step + precision[:, expand], falls[1][:, expand] * step + recall[:, expand]


def _spots(ranking: Ranking) -> tuple[Int[np.ndarray, ' u'], Int[np.ndarray, ' u'], Int[np.ndarray, 's k']]:
    """The first detection of each segment below each confidence.

    Returns:
        The different ones among them, the segment of each, and which of them belongs to each segment and confidence.
    """
    numbers = [
        # plus the segment: its own end and the start of the next one are two spots
        segment + first + np.searchsorted(-ranking.scores[first:last], -CONFIDENCES, side='right')
        for segment, (first, last) in enumerate(itertools.pairwise(ranking.ends))
    ]
    spots, expand = np.unique(numbers, return_inverse=True)
    segment = np.searchsorted(ranking.ends[1:] + np.arange(ranking.segments), spots)
    return spots - segment, segment, expand.reshape(ranking.segments, -1)


def _neighbours(
    sums: Int[np.ndarray, 'r n1'], spots: Int[np.ndarray, ' u']
) -> tuple[Int[np.ndarray, 'r u'], Int[np.ndarray, 'r u']]:
    """The last detection before each spot and the first from it on that has copies; -1 and n for none."""
    sides = [[np.searchsorted(row, row[spots], side=side) - 1 for row in sums] for side in ('left', 'right')]
    return np.array(sides[0]), np.array(sides[1])


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The correct detections, the only ones that raise recall: threshold by threshold, segment by segment.

    A group is one segment at one threshold.

    Attributes:
        ends: `int64 [g + 1]`, of the groups.
        before: `int64 [r, m + 1]`, correct copies before each, whatever their group.
        precision: `float64 [r, m + 1]`, the largest from here to the end of the group; 0 at the very end.
    """

    ends: Int[np.ndarray, ' g1']
    before: Int[np.ndarray, 'r m1']
    precision: Float[np.ndarray, 'r m1']


def _steps(ranking: Ranking, counts: Counts) -> _Steps:
    threshold, hit = np.nonzero(ranking.correct.T)
    segment = np.searchsorted(ranking.ends, hit, side='right') - 1
    group = threshold * ranking.segments + segment
    ends = np.searchsorted(group, np.arange(len(THRESHOLDS) * ranking.segments + 1))
    hits = before(np.take(counts.copies, hit, axis=1))
    found = hits[:, 1:] - hits[:, ends[group]]
    made = counts.before[:, hit + 1] - counts.before[:, ranking.ends[segment]]
    precision = np.zeros(hits.shape)
    np.divide(found, made, out=precision[:, :-1], where=made > 0)
    for first, last in itertools.pairwise(ends):
        from_right = precision[:, first:last][:, ::-1]
        np.maximum.accumulate(from_right, axis=1, out=from_right)
    return _Steps(ends, hits, precision)


def average_precisions(ranking: Ranking, counts: Counts) -> Float[np.ndarray, 'r s 10']:
    """Area under each precision-recall curve: trapezoids over `RECALLS` under the running maximum from the right.

    That maximum is level between two correct detections, since a wrong one lowers precision and a correct one raises
    it: at each recall it is that of the first correct detection that leads beyond.
    """
    steps = _steps(ranking, counts)
    targets = np.tile(np.maximum(counts.targets, 1), len(THRESHOLDS))[..., None]
    made = np.tile(np.diff(counts.before[:, ranking.ends], axis=1), len(THRESHOLDS))[..., None]
    total = np.diff(steps.before[:, steps.ends], axis=1)[..., None]
    found = np.minimum(_found(targets), total)  # [r, g, 101], where recall has just reached each of `RECALLS`
    wanted = (found + steps.before[:, steps.ends[:-1], None]).reshape(len(found), -1)
    hits = steps.before[:, 1:]
    place = np.array([np.searchsorted(row, some, side='right') for row, some in zip(hits, wanted, strict=True)])
    height = np.take_along_axis(steps.precision, place, axis=1).reshape(found.shape)
    last = total / np.maximum(made, 1)
    fall = (0.0 - last) / ((total / targets + 0.01) - total / targets) * (RECALLS - total / targets) + last
    beyond = np.where(total / targets + 0.01 > RECALLS, fall, 0)  # after the last detection
    height = np.where(found < total, height, beyond)
    return np.trapezoid(height, RECALLS, axis=-1).reshape(len(found), len(THRESHOLDS), -1).swapaxes(1, 2)


def _found(targets: Int[np.ndarray, 'r g 1']) -> Int[np.ndarray, 'r g 101']:
    """How many targets are found where recall has just reached each of `RECALLS`: the largest m, m / targets <= it."""
    found = (RECALLS * targets).astype(np.int64)
    found += (found + 1) / targets <= RECALLS
    return found - (found / targets > RECALLS)
