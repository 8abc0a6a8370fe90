"""Costs under limits as arrays over all options of all groups, and a local search for good choices."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from jaxprune.graph import Cost

SLACK = 1e-12
"""Share of a limit by which rounding may exceed it."""
CANDIDATES = 40
"""First halves of exchanges that the local search tries, the most promising ones."""


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Choose one option per group: highest total value with every cost within its limit.

    The options of all groups stand one behind the other (`options` axis). Cost c of a choice is `constant[c]`, plus
    `unary[c]` at the chosen options, plus `weight[c, p] * count * count` of the two groups of every pair p, plus
    `rest[c]` of the kept counts. Costs and limits are divided by `scale`.

    Attributes:
      start: `[groups + 1]`, where the options of a group begin.
      group: the group of each option.
      count: channels that each option keeps; rises within a group.
      value: what each option is worth.
      pairs: groups i < j whose counts are multiplied with each other in some cost.
      interaction: `weight` as a symmetric matrix with an empty diagonal.
      rest: products of three groups and more, unscaled.
    """

    start: Int[np.ndarray, 'groups_and_end']
    group: Int[np.ndarray, 'options']
    count: Float[np.ndarray, 'options']
    value: Float[np.ndarray, 'options']
    constant: Float[np.ndarray, 'costs']
    unary: Float[np.ndarray, 'costs options']
    pairs: Int[np.ndarray, '2 pairs']
    weight: Float[np.ndarray, 'costs pairs']
    interaction: Float[np.ndarray, 'costs groups groups']
    rest: tuple[Cost | None, ...]
    limit: Float[np.ndarray, 'costs']
    scale: Float[np.ndarray, 'costs']

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.start) - 1

    def worth(self, chosen: Int[np.ndarray, 'groups']) -> float:
        """Total value of a choice."""
        return float(self.value[chosen].sum())

    def cost(self, chosen: Int[np.ndarray, 'groups']) -> Float[np.ndarray, 'costs']:
        """Scaled costs of a choice."""
        kept = self.count[chosen]
        products = np.einsum('cgh,g,h->c', self.interaction, kept, kept) / 2
        rest = [0.0 if cost is None else float(cost(kept)) for cost in self.rest]
        return self.constant + self.unary[:, chosen].sum(axis=1) + products + np.array(rest) / self.scale

    def fits(self, cost: Float[np.ndarray, '... costs']) -> Bool[np.ndarray, '...']:
        """Whether scaled costs lie within all limits."""
        return np.all(cost <= self.limit + SLACK, axis=-1)

    def changes(self, chosen: Int[np.ndarray, 'groups']) -> Float[np.ndarray, 'costs options']:
        """What each cost changes by where one group takes another option and all others stay."""
        kept = self.count[chosen]
        step = self.count - kept[self.group]
        change = self.unary - self.unary[:, chosen][:, self.group]
        change += (self.interaction @ kept)[:, self.group] * step
        for row, cost in enumerate(self.rest):
            if cost is not None:
                self._add_rest(change[row], cost, kept, float(self.scale[row]))
        return change

    def _add_rest(
        self, change: Float[np.ndarray, 'options'], cost: Cost, kept: Float[np.ndarray, 'groups'], scale: float
    ) -> None:
        """Adds what the products of three and more groups change by: only options of groups in them are tried."""
        concerned = np.flatnonzero(np.isin(self.group, np.unique(cost.share.indices)))
        trial = np.repeat(kept[None], len(concerned), axis=0)
        trial[np.arange(len(concerned)), self.group[concerned]] = self.count[concerned]
        change[concerned] += (cost(trial) - cost(kept)) / scale


def build(
    values: Sequence[np.ndarray],
    options: Sequence[np.ndarray],
    costs: Sequence[Cost | Sequence[np.ndarray]],
    limits: Sequence[float],
) -> Problem:
    """The problem in arrays; a cost that is no `Cost` is a table `[group][option]`, summed over groups."""
    sizes = np.array([len(option) for option in options])
    group = np.repeat(np.arange(len(sizes)), sizes)
    count = np.concatenate(options).astype(float)
    scale = np.array([abs(limit) or 1.0 for limit in limits])
    constant, unary = np.zeros(len(costs)), np.zeros((len(costs), len(count)))
    interaction = np.zeros((len(costs), len(sizes), len(sizes)))
    rest: list[Cost | None] = [None] * len(costs)
    for row, cost in enumerate(costs):
        if isinstance(cost, Cost):
            constant[row], linear, products, rest[row] = _split(cost)
            unary[row] = linear[group] * count + np.diag(products)[group] / 2 * count**2
            interaction[row] = products - np.diag(np.diag(products))
        else:
            unary[row] = np.concatenate([np.asarray(entry, float) for entry in cost])
    interaction /= scale[:, None, None]
    pairs = np.array(np.nonzero(np.triu(interaction.any(axis=0), 1)))
    return Problem(
        start=np.concatenate([[0], np.cumsum(sizes)]),
        group=group,
        count=count,
        value=np.concatenate([np.asarray(value, float) for value in values]),
        constant=constant / scale,
        unary=unary / scale[:, None],
        pairs=pairs,
        weight=interaction[:, pairs[0], pairs[1]],
        interaction=interaction,
        rest=tuple(rest),
        limit=np.array(limits, float) / scale,
        scale=scale,
    )


def _split(
    cost: Cost,
) -> tuple[float, Float[np.ndarray, 'groups'], Float[np.ndarray, 'groups groups'], Cost | None]:
    """`(constant, linear, products, rest)`: cost = constant + linear·n + n·products·n / 2 + rest(n)."""
    terms, factors = cost.fixed.shape
    varies = (np.diff(cost.share.indptr) > 0).reshape(terms, factors)
    simple = np.flatnonzero(varies.sum(axis=1) <= 2)
    order = np.argsort(~varies[simple], axis=1, kind='stable')
    outer = cost.scale[simple] * np.prod(np.take_along_axis(cost.fixed[simple], order[:, 2:], axis=1), axis=1)
    first = cost.share[simple * factors + order[:, 0]]
    first_fixed = cost.fixed[simple, order[:, 0]]
    if factors > 1:
        second, second_fixed = cost.share[simple * factors + order[:, 1]], cost.fixed[simple, order[:, 1]]
    else:
        second, second_fixed = sparse.csr_array(first.shape), np.ones(len(simple))
    linear = first.T @ (outer * second_fixed) + second.T @ (outer * first_fixed)
    product = (first.T @ (sparse.diags_array(outer) @ second)).toarray()
    rows = np.setdiff1d(np.arange(terms), simple)
    rest = None
    if len(rows):
        places = (rows[:, None] * factors + np.arange(factors)).ravel()
        rest = Cost(cost.scale[rows], cost.fixed[rows], cost.share[places])
    return float(np.sum(outer * first_fixed * second_fixed)), linear, product + product.T, rest


def improve(
    problem: Problem,
    chosen: Int[np.ndarray, 'groups'],
    price: Float[np.ndarray, 'costs'],
    live: Bool[np.ndarray, 'options'],
    deadline: float,
) -> Int[np.ndarray, 'groups'] | None:
    """From any choice to one within the limits that no change of one group betters; None if none is reached.

    Channels are given up until the choice fits, least value for the excess first. Then groups change one at a time
    while that gains, and in pairs where it no longer does.

    Args:
      problem: what to solve.
      chosen: where to start, an option for each group.
      price: value that a unit of each scaled cost is worth, as the bound says.
      live: options to look at.
      deadline: of `time.monotonic`; exchanges stop there.
    """
    fitting = _repair(problem, chosen.copy())
    if fitting is None:
        return None
    step: tuple[int, ...] = (-1,)
    while step:
        step = _best_step(problem, fitting, price, live, time.monotonic() < deadline)
        fitting[problem.group[list(step)]] = step
    return fitting


def _repair(problem: Problem, chosen: Int[np.ndarray, 'groups']) -> Int[np.ndarray, 'groups'] | None:
    cost = problem.cost(chosen)
    while not problem.fits(cost):
        after = cost[:, None] + problem.changes(chosen)
        excess = np.maximum(after - problem.limit[:, None], 0).sum(axis=0)
        relief = np.maximum(cost - problem.limit, 0).sum() - excess
        loss = problem.value[chosen][problem.group] - problem.value
        helps = relief > SLACK
        if not helps.any():
            return None
        best = int(np.argmin(np.where(helps, np.maximum(loss, 0) / np.where(helps, relief, 1), np.inf)))
        chosen[problem.group[best]] = best
        cost = problem.cost(chosen)
    return chosen


def _best_step(
    problem: Problem,
    chosen: Int[np.ndarray, 'groups'],
    price: Float[np.ndarray, 'costs'],
    live: Bool[np.ndarray, 'options'],
    exchange: bool,
) -> tuple[int, ...]:
    """Options to change to: one that gains most for its price, two of an exchange, or none where nothing gains."""
    room = problem.limit + SLACK - problem.cost(chosen)
    change = problem.changes(chosen)
    gain = problem.value - problem.value[chosen][problem.group]
    least = 1e-10 * max(1e-300, np.abs(problem.value[chosen]).sum())
    good = live & (gain > least) & np.all(change <= room[:, None], axis=0)
    paid = price @ change
    if good.any():
        return (int(np.argmax(np.where(good, gain / np.maximum(paid, 1e-9), -np.inf))),)
    if not exchange:
        return ()
    other = live & (problem.count != problem.count[chosen][problem.group])
    order = np.argsort(np.where(other, paid - gain, np.inf), kind='stable')[:CANDIDATES]
    best: tuple[int, ...] = ()
    for first in order[other[order]].tolist():
        trial = chosen.copy()
        trial[problem.group[first]] = first
        behind = change[:, [first]] + problem.changes(trial)
        total = gain + gain[first]
        good = live & (problem.group != problem.group[first]) & np.all(behind <= room[:, None], axis=0)
        second = int(np.argmax(np.where(good, total, -np.inf)))
        if good[second] and total[second] > least:
            least, best = float(total[second]), (first, second)
    return best
