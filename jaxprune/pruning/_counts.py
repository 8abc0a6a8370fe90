"""How many channels each group keeps: by shares, or by a budget."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxprune.errors import UserError
from jaxprune.graph import Cost
from jaxprune.pruning import _pools
from jaxprune.pruning._budget import Limit, allocate, kept_values
from jaxprune.pruning._pools import Candidate
from jaxprune.pruning._shares import Share

Counts = dict[int, int]
"""Index of a group -> how many channels it keeps."""
HALVINGS = 40
"""Steps of the search for the largest share within a budget; so close, no two shares give different counts."""


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What was asked for.

    Attributes:
      candidates: index of a group -> the group, for those that may lose channels.
      shares: index of a group -> what it was asked to keep.
      scope: `layer`, `global` or `isomorphic`.
      kinds: for each group of the graph, what it shares with those that it may be ranked with.
      rule: where the options come from, for messages.
    """

    candidates: Mapping[int, Candidate]
    shares: Mapping[int, Share]
    scope: str
    kinds: Sequence[Any]
    rule: str


def by_shares(request: Request, shares: Mapping[int, Share], *, check: bool = True) -> Counts:
    """What each candidate with a share keeps.

    Raises:
      UserError: with `check`, where groups that share a threshold cannot keep as little as asked for.
    """
    asked = [candidate for index, candidate in request.candidates.items() if index in shares]
    if request.scope == 'layer':
        wanted = {each.group.index: shares[each.group.index].keep * each.group.channels for each in asked}
        return {each.group.index: _pools.nearest(each.options, wanted[each.group.index]) for each in asked}
    pools: dict[Any, list[Candidate]] = {}
    for candidate in asked:
        index = candidate.group.index
        pools.setdefault((shares[index], request.kinds[index]), []).append(candidate)
    counts: Counts = {}
    for (share, _), pool in pools.items():
        if check:
            _pools.check_reachable(pool, share.keep, request.rule)
        counts |= zip([each.group.index for each in pool], _pools.one_threshold(pool, share.keep), strict=True)
    return counts


def by_budget(
    request: Request, whole: Int[np.ndarray, 'groups'], limit: Callable[[list[np.ndarray]], Sequence[Limit]]
) -> Counts:
    """What each candidate keeps within a budget: its share where it has one, otherwise what fits best.

    Args:
      request: what was asked for.
      whole: for each group of the graph, what it keeps where it is no candidate.
      limit: for each group the counts that it may keep -> limits.

    Raises:
      UserError: for limits that cannot be met.
    """
    fixed = by_shares(request, request.shares)
    free = {index: candidate for index, candidate in request.candidates.items() if index not in fixed}
    options = [np.array([fixed.get(index, size)]) for index, size in enumerate(whole)]
    values = [np.zeros(1) for _ in options]
    lowest = min(
        [0.0, *(float(np.min(each.scores, where=np.isfinite(each.scores), initial=0)) for each in free.values())]
    )
    for index, candidate in free.items():
        options[index] = candidate.options
        # Keeping a channel is never worth less than removing it, also where scores are negative.
        values[index] = kept_values(candidate.scores - lowest, candidate.options)
    limits = limit(options)
    if request.scope == 'global':
        kept = allocate(values, options, limits, rule=request.rule).kept
        return fixed | {index: kept[index] for index in free}
    return fixed | _largest_share(request, free, options, limits)


def _largest_share(
    request: Request, free: Mapping[int, Candidate], options: Sequence[np.ndarray], limits: Sequence[Limit]
) -> Counts:
    """What the candidates keep with the largest share, the same for all, that meets the limits."""

    def counts(keep: float) -> Counts:
        return by_shares(request, dict.fromkeys(free, Share(keep, '*')), check=False)

    def costs(found: Counts) -> list[float]:
        kept = [found.get(index, int(option[0])) for index, option in enumerate(options)]
        return [_cost(limit, kept, options) for limit in limits]

    least, whole = counts(0), counts(1)
    for limit, cost in zip(limits, costs(least), strict=True):
        if cost > limit.limit:
            raise UserError(
                f'{limit.name}: {cost:,.10g} is the least with {request.rule}, asked for {limit.limit:,.10g}: '
                'raise the limit or let more groups keep fewer channels'
            )
    low, high, found = 0.0, 1.0, least
    for step in range(HALVINGS):
        middle = high if step == 0 else (low + high) / 2
        tried = whole if step == 0 else counts(middle)
        if all(cost <= limit.limit for cost, limit in zip(costs(tried), limits, strict=True)):
            low, found = middle, tried
        else:
            high = middle
    return found


def _cost(limit: Limit, kept: Sequence[int], options: Sequence[np.ndarray]) -> float:
    if isinstance(limit.cost, Cost):
        return float(limit.cost(np.array(kept)))
    entries = zip(limit.cost, options, kept, strict=True)
    return float(sum(costs[np.searchsorted(option, count)] for costs, option, count in entries))
