"""Budgets: how many channels each group keeps so that the most importance fits into limits of cost."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxprune.errors import UserError
from jaxprune.graph import Cost
from jaxprune.pruning import _budget_bound as bounds
from jaxprune.pruning._budget_problem import Problem, build

EXACT = 1e-9
"""Relative gap that counts as none."""


@dataclasses.dataclass(frozen=True, eq=False)
class Limit:
    """A cost and what it may be at most.

    Attributes:
      name: for messages and results, such as `macs`.
      cost: a function of the kept counts of all groups (`Graph.costs`), or a table `[group][option]` of measured costs,
        summed over groups.
      limit: in the unit of the cost.
    """

    name: str
    cost: Cost | Sequence[np.ndarray]
    limit: float


@dataclasses.dataclass(frozen=True)
class Allocation:
    """Kept channels under limits, and how good they are at least.

    Attributes:
      kept: number of channels that each group keeps.
      choice: index of the option that each group takes.
      value: sum of the values of the options taken.
      bound: proven: no choice within the limits is worth more (up to the tolerance of floating-point arithmetic and,
        where the mixed-integer program had the last word, that of HiGHS, 1e-6 of a limit).
      gap: `(bound - value) / |bound|`, so the value is at most this share below the best possible.
      optimal: whether the gap is none.
      costs: name of each limit -> cost reached.
    """

    kept: tuple[int, ...]
    choice: tuple[int, ...]
    value: float
    bound: float
    gap: float
    optimal: bool
    costs: Mapping[str, float]


def kept_options(channels: int, *, min_channels: int = 1, round_to: int = 1) -> Int[np.ndarray, 'options']:
    """Counts that a group may keep: multiples of `round_to` from `min_channels` on, and all; rising.

    Raises:
      UserError: for a `min_channels` or `round_to` below 1.
    """
    for name, value in (('min_channels', min_channels), ('round_to', round_to)):
        if value < 1:
            raise UserError(f'{name} is {value}: give a whole number, 1 or more')
    first = -(-min_channels // round_to) * round_to
    return np.append(np.arange(first, channels, round_to), channels)


def kept_values(
    scores: Float[np.ndarray, 'channels'], options: Int[np.ndarray, 'options']
) -> Float[np.ndarray, 'options']:
    """Importance that each option keeps: the sum of as many of the best scores."""
    best = np.sort(np.asarray(scores, float))[::-1]
    return np.cumsum(best)[options - 1]


def allocate(
    values: Sequence[np.ndarray],
    options: Sequence[np.ndarray],
    constraints: Sequence[Limit],
    *,
    gap: float = 1e-4,
    time_limit: float = 20.0,
    rule: str = 'these options',
) -> Allocation:
    """One option per group with the highest total value within all limits, with a proven bound on the best possible.

    A bounded-gap method: a linear relaxation with cuts gives the bound and, with a local search, the choice; options
    that the bound excludes are dropped, and a mixed-integer program (HiGHS) over those that are left closes the gap
    where it is small enough. With `gap=0` it goes on until the choice is proven optimal or an effort limit is reached.
    Measured tables alone make a multiple-choice knapsack, which the mixed-integer program solves exactly. The result
    is the same on every run unless the time limit is what ends it.

    Source: tables and knapsack, Shen et al., Structural Pruning via Latency-Saliency Knapsack (2022), section 3; the
    relaxation, see `_budget_bound.py`.

    Args:
      values: for each group, what each of its options is worth; any numbers.
      options: for each group, the counts of channels to choose from, rising; a group that cannot be pruned has one.
        Groups stand in the order of `Graph.groups`.
      constraints: costs and their limits.
      gap: stop when the value is proven to be at most this share below the best possible.
      time_limit: seconds after which no new step begins; a step ends soon after it.
      rule: where the options come from, for messages, such as `min_channels=8 round_to=8`.

    Raises:
      UserError: for a limit that no choice meets (the message says the least that can be reached), arguments that do
        not fit together, or a `Cost` with negative parts.
    """
    _check(values, options, constraints)
    problem = build(values, options, [limit.cost for limit in constraints], [limit.limit for limit in constraints])
    least = _least(problem)
    _check_reachable(problem, least, constraints, rule)
    begin = time.monotonic()
    state = bounds.begin(problem)
    for start in [*least, problem.start[1:] - 1]:
        state.offer(start if problem.fits(problem.cost(start)) else None)
    bounds.relax(state, gap, begin + 0.7 * time_limit)
    if not bounds.close(state, gap, begin + time_limit):
        bounds.relax(state, gap, begin + time_limit)
    if state.best is None:
        names = ' and '.join(f'{limit.name} <= {limit.limit:,}' for limit in constraints)
        how = 'cannot be met together' if state.bound == -np.inf else f'were not met together in {time_limit} s'
        raise UserError(f'{names} {how} with {rule}: raise a limit')
    return _allocation(state, problem, constraints)


def _allocation(state: bounds.State, problem: Problem, constraints: Sequence[Limit]) -> Allocation:
    chosen = state.best
    assert chosen is not None
    kept = problem.count[chosen].astype(int)
    costs = [
        float(limit.cost(kept))
        if isinstance(limit.cost, Cost)
        else float(problem.cost(chosen)[row] * problem.scale[row])
        for row, limit in enumerate(constraints)
    ]
    gap = (state.bound - state.value) / max(abs(state.bound), 1e-300)
    return Allocation(
        kept=tuple(kept.tolist()),
        choice=tuple((chosen - problem.start[:-1]).tolist()),
        value=state.value,
        bound=state.bound,
        gap=gap,
        optimal=gap <= EXACT,
        costs=dict(zip([limit.name for limit in constraints], costs, strict=True)),
    )


def _least(problem: Problem) -> list[Int[np.ndarray, 'groups']]:
    """For each cost the choice that costs least: the smallest options for a function, the cheapest ones for a table."""
    smallest = problem.start[:-1]
    found = []
    for row in range(len(problem.limit)):
        cheap = problem.unary[row] <= np.minimum.reduceat(problem.unary[row], smallest)[problem.group]
        places = np.flatnonzero(cheap)
        last = np.searchsorted(problem.group[places], np.arange(problem.groups), side='right') - 1
        product = problem.weight[row].any() or problem.rest[row] is not None
        found.append(smallest.copy() if product else places[last])
    return found


def _check_reachable(
    problem: Problem, least: Sequence[Int[np.ndarray, 'groups']], constraints: Sequence[Limit], rule: str
) -> None:
    for row, (chosen, limit) in enumerate(zip(least, constraints, strict=True)):
        cost = problem.cost(chosen)[row]
        if cost > problem.limit[row]:
            raise UserError(
                f'{limit.name}: {cost * problem.scale[row]:,.10g} is the least with {rule}, asked for '
                f'{limit.limit:,.10g}: raise the limit or let more groups keep fewer channels'
            )


def _check(values: Sequence[np.ndarray], options: Sequence[np.ndarray], constraints: Sequence[Limit]) -> None:
    if not constraints:
        raise UserError('no limit is given: give at least one cost and its limit')
    sizes = [len(option) for option in options]
    if [len(value) for value in values] != sizes or 0 in sizes or not sizes:
        raise UserError('values and options must have the same groups, with the same number of entries, 1 or more')
    for group, option in enumerate(options):
        if option[0] < 1 or np.any(np.diff(option) <= 0):
            raise UserError(f'options of group {group} are {list(option)}: give counts that rise, from 1 on')
    if not all(np.all(np.isfinite(value)) for value in values):
        raise UserError('some values are not finite: every option needs a number')
    for limit in constraints:
        _check_limit(limit, sizes)


def _check_limit(limit: Limit, sizes: list[int]) -> None:
    if not np.isfinite(limit.limit):
        raise UserError(f'{limit.name}: the limit is {limit.limit}: give a number')
    if isinstance(limit.cost, Cost):
        if limit.cost.share.shape[1] != len(sizes):
            raise UserError(
                f'{limit.name} is a cost of {limit.cost.share.shape[1]} groups, options are of {len(sizes)}'
            )
        if min(limit.cost.scale.min(), limit.cost.fixed.min(), limit.cost.share.data.min(initial=0)) < 0:
            raise UserError(f'{limit.name} has negative parts: only costs that rise with kept channels can be limited')
    elif [len(entry) for entry in limit.cost] != sizes or not all(np.all(np.isfinite(entry)) for entry in limit.cost):
        raise UserError(f'{limit.name}: the table must hold a finite number for every option of every group')
