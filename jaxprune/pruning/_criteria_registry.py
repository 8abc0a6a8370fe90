"""The contract of criteria, their names, and how the members of a group are combined.

A criterion gives one row per member of the group (a kernel, a scale), and `score` combines the rows. Rows are computed
and combined in fp64 and rounded once, to fp32, also of half-precision variables, so that a score depends neither on the
order of summation nor on whether removed input channels are zero or cut out. Among equal scores the channel of lower
index is removed first.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

import numpy as np
from jaxtyping import Float32, Float64

from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group
from jaxprune.pruning._evidence import Evidence

Rows = Float64[np.ndarray, 'members channels']
Scores = Float32[np.ndarray, 'channels']
Reduction = Literal['sum', 'mean', 'max', 'l2']
Needs = Literal['variables', 'gates', 'activations']


class Criterion(Protocol):
    """`(group, evidence) -> rows`: for every member of the group one row, with a value for each of its channels."""

    def __call__(self, group: Group, evidence: Evidence, /) -> Rows: ...


@dataclasses.dataclass(frozen=True)
class Registered:
    """A criterion as users name it.

    Attributes:
      factors: their combined rows are multiplied; a single one for most criteria.
      largest_first: whether the channels with the highest values go, not those with the lowest.
      needs: what has to be in the evidence besides the variables.
    """

    factors: tuple[Criterion, ...]
    largest_first: bool = False
    needs: Needs = 'variables'


CRITERIA: dict[str, Registered] = {}
"""Every criterion by the name that users give."""

REDUCTIONS: dict[str, Callable[[Rows], Float64[np.ndarray, 'channels']]] = {
    'sum': lambda rows: np.sum(rows, axis=0),
    'mean': lambda rows: np.mean(rows, axis=0),
    'max': lambda rows: np.max(rows, axis=0),
    'l2': lambda rows: np.sqrt(np.sum(np.square(rows), axis=0)),
}
"""How the members of a group are combined."""

_CULPRIT = {'variables': 'weights', 'gates': 'gradients', 'activations': 'activations'}


def register(name: str, *, needs: Needs = 'variables') -> Callable[[Criterion], Criterion]:
    """Adds a criterion under a name that is still free.

    Args:
      name: what users write.
      needs: what has to be in the evidence besides the variables.

    Example:
      A criterion of one's own, the largest weight of each filter::

          @register('largest-weight')
          def largest_weight(group, evidence):
              return np.stack([np.abs(kernel).max(axis=1) for kernel in evidence.kernels(group)])
    """

    def add(criterion: Criterion) -> Criterion:
        add_registered(name, Registered((criterion,), needs=needs))
        return criterion

    return add


def add_registered(name: str, registered: Registered) -> None:
    """Adds a criterion that is made of others; a `ValueError` where the name is taken."""
    if name in CRITERIA:
        raise ValueError(f'criterion {name!r} is registered already')
    CRITERIA[name] = registered


def score(
    name: str,
    graph: Graph,
    group: Group,
    variables: Any,
    seed: int = 0,
    *,
    reduce: Reduction = 'sum',
    evidence: Evidence | None = None,
) -> Scores:
    """Scores of a group's channels by the criterion called `name`.

    Args:
      name: in `CRITERIA`.
      graph: connectivity of the model.
      group: whose channels to score.
      variables: of the model.
      seed: of the criterion `random`.
      reduce: how the members of the group (kernels, scales) are combined: `sum`, `mean`, `max` or `l2`.
      evidence: gradients or activations, from `gather_gates` or `gather_activations`, where the criterion needs them;
        of the rest of it, graph, variables and seed given here take the place.

    Raises:
      UserError: for an unknown criterion or reduction, a model or evidence without what the criterion looks at, or
        scores that are not finite.
    """
    return scores_from(gathered(graph, variables, seed, evidence), name, group, reduce)


def gathered(graph: Graph, variables: Any, seed: int, evidence: Evidence | None) -> Evidence:
    """Evidence of these variables, with what is gathered in `evidence`."""
    if evidence is not None and not isinstance(evidence, Evidence):
        what = type(evidence).__name__
        raise UserError(f'evidence is a {what}: give what gather_gates or gather_activations returned')
    held = evidence or Evidence(graph, variables)
    return dataclasses.replace(held, graph=graph, variables=variables, seed=seed, leaves=None)


def scores_from(evidence: Evidence, name: str, group: Group, reduce: Reduction) -> Scores:
    """As `score`, for evidence that is complete: variables are flattened once for all groups."""
    if name not in CRITERIA:
        raise UserError(f'criterion {name!r} does not exist: give one of {", ".join(CRITERIA)}')
    if reduce not in get_args(Reduction):
        raise UserError(f'reduction {reduce!r} does not exist: give one of {", ".join(REDUCTIONS)}')
    registered = CRITERIA[name]
    factors = [REDUCTIONS[reduce](_rows(name, factor, group, evidence)) for factor in registered.factors]
    scores = math.prod([factor.astype(np.float32) for factor in factors], start=_sign(registered))
    if not np.all(np.isfinite(scores)):
        what = _CULPRIT[registered.needs]
        raise UserError(f'layer {group.layers[0]} has {what} that are not finite: it cannot be ranked by {name!r}')
    return scores


def _sign(registered: Registered) -> Any:
    return np.float32(-1 if registered.largest_first else 1)


def _rows(name: str, criterion: Criterion, group: Group, evidence: Evidence) -> Rows:
    rows = np.asarray(criterion(group, evidence), np.float64)
    if rows.ndim != 2 or rows.shape[0] == 0 or rows.shape[1] != group.channels:
        raise UserError(
            f'criterion {name!r} gave an array of shape {rows.shape} for layer {group.layers[0]}: '
            f'it has to give [members, {group.channels}], one row or more'
        )
    return rows
