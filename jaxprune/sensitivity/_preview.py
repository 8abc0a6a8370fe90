"""A preview of a scan: what the derivative of the loss says that every candidate costs, without running any."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxprune import pruning
from jaxprune.sensitivity._rows import Candidate, Row


def preview(candidates: Iterable[Candidate], evidence: pruning.Evidence) -> list[Row]:
    """Estimates the change of the loss without the channels of every candidate.

    A gate is a factor of value 1 of all that reads a channel; a plan sets the gates of what it removes to 0. Estimates
    rank candidates and no more: removing many channels is not a small step. On a trained detector `taylor` ranked them
    as a scan of the loss did, and `fisher` as one of the mAP.

    Args:
      candidates: of one graph, that of the evidence.
      evidence: with gates, of `pruning.gather_gates`.

    Returns:
      For every candidate a row: `layer`, `rate`, the columns of its cost, and (0 for the unpruned model)

      - `taylor`: first-order change of an example's loss, the sum of the derivatives to the gates that go; the mean
        over the examples of its absolute value, as the mean change itself is near zero wherever training has converged.
      - `fisher`: second-order change, each channel for itself: half the mean over the examples of the squared
        derivative, summed over the channels that go.

    Raises:
      UserError: where the gates were not gathered, or for another model.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference (2017), section
    2.2, and Importance Estimation for Neural Network Pruning (2019), section 3, for the gates; Theis et al., Faster
    gaze prediction with dense networks and Fisher pruning (2018), section 2.
    """
    return [each.row(_estimates(each.plan, evidence)) for each in candidates]


def _estimates(plan: pruning.Plan, evidence: pruning.Evidence) -> dict[str, float]:
    groups = [(evidence.graph.group_of(layer.name), list(layer.removed)) for layer in plan.layers]
    gone = [evidence.gates_of(group)[:, removed] for group, removed in groups]
    if not gone:
        return {'taylor': 0.0, 'fisher': 0.0}
    derivatives: Float[np.ndarray, 'examples channels'] = np.concatenate(gone, axis=1)
    return {
        'taylor': float(np.abs(derivatives.sum(axis=1)).mean()),
        'fisher': float(np.square(derivatives).sum(axis=1).mean() / 2),
    }


def order(candidates: Sequence[Candidate], rows: Iterable[Mapping[str, Any]]) -> list[Candidate]:
    """The candidates in the order in which a scan that may be interrupted should measure them.

    First the unpruned model, then by what they promise: removed / (1 + fisher / mean fisher of all). So what removes
    most comes first among those that cost little, and a candidate of mean cost counts half. What is removed is counted
    in every numeric column of the cost (parameters, FLOPs); a candidate's best place among them counts.

    Args:
      candidates: what to measure.
      rows: of `preview`, of the same candidates.
    """
    fisher = {(row['layer'], row['rate']): row['fisher'] for row in rows}
    cost = np.array([fisher[each.key] for each in candidates], np.float64)
    relative = cost / max(cost.mean(), np.finfo(np.float64).tiny)
    best = np.full(len(candidates), np.inf)
    for left in _numbers(candidates):
        promise = (left.max() - left) / (1 + relative)
        best = np.minimum(best, np.searchsorted(np.sort(-promise), -promise))  # equal ones share a place
    pruned = np.array([each.layer is not None for each in candidates])
    return [candidates[index] for index in np.lexsort((cost, best, pruned))]


def _numbers(candidates: Sequence[Candidate]) -> Iterator[Float[np.ndarray, ' candidates']]:
    """The columns of the cost that are numbers."""
    for column in candidates[0].cost:
        values = [each.cost[column] for each in candidates]
        if all(isinstance(value, int | float) for value in values):
            yield np.array(values, np.float64)
