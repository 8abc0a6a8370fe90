"""Upper bounds on the value that limits allow: a linear relaxation with cuts, and a mixed-integer program behind it.

Let z(i, a) say that group i takes level a of its options or a higher one. A product of two kept counts is the sum over
pairs of levels of step(a)·step(b)·z(i, a)·z(j, b), and z·z' >= max(0, z + z' - 1), with equality for whole numbers
(Fréchet 1935, Hoeffding 1940; McCormick 1976). That bound on a sum of products is convex and piecewise linear, so
tangents to it are linear constraints that every choice within the limits satisfies (Kelley 1960). For fixed prices of
the costs this is the roof dual; where layers follow one another, it is exact. Products of three counts and more are
exponentials of sums of logarithms, hence convex in those: their tangents are cuts, too (geometric programming).
"""

import dataclasses
import time

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, sparse

from jaxprune.pruning._budget_problem import Problem, improve
from jaxprune.pruning._budget_program import build

ROUNDS = 150
"""Rounds of cuts at most."""
RECENT = 20
"""Cuts that stay in the linear program though they have no price yet."""
STALL = 6
"""Rounds without progress of the bound, after which the relaxation counts as solved."""
PRODUCTS = 40_000
"""Products of levels that the mixed-integer program may hold."""
NODES = 20_000
"""Nodes of its search tree at most; in contrast to the time limit, the same on every machine."""


@dataclasses.dataclass
class State:
    """What is known of a problem so far.

    Attributes:
      best: the best choice found, or None.
      value: its value, or minus infinity.
      bound: no choice within the limits is worth more.
      live: options that a choice better than `best` may have.
      columns: options in the linear program; the others are added when their prices ask for it.
      rows, sides: cuts `rows @ chosen <= sides`.
      owner: the cost that each cut is about.
    """

    problem: Problem
    best: Int[np.ndarray, 'groups'] | None
    value: float
    bound: float
    live: Bool[np.ndarray, 'options']
    columns: Bool[np.ndarray, 'options']
    rows: list[Float[np.ndarray, 'options']]
    sides: list[float]
    owner: list[int]

    def offer(self, chosen: Int[np.ndarray, 'groups'] | None) -> None:
        """Remembers a choice within the limits if it is the best one."""
        if chosen is not None and self.problem.worth(chosen) > self.value:
            self.best, self.value = chosen, self.problem.worth(chosen)
            self.bound = max(self.bound, self.value)
            self.columns[chosen] = True

    def open(self, gap: float) -> bool:
        """Whether the bound is farther off than the gap allows."""
        return self.bound - self.value > max(gap, 1e-9) * abs(self.bound)


def begin(problem: Problem) -> State:
    """No choice yet, the bound that every group's best option gives, cuts at the even distribution."""
    top = float(np.maximum.reduceat(problem.value, problem.start[:-1]).sum())
    position = np.arange(len(problem.count)) - problem.start[problem.group]
    size = np.diff(problem.start)[problem.group]
    columns = (position % np.maximum(size // 8, 1) == 0) | (position == size - 1)
    state = State(problem, None, -np.inf, top, np.ones(len(size), bool), columns, [], [], [])
    simple = [row for row, rest in enumerate(problem.rest) if rest is None and not problem.weight[row].any()]
    for row in simple:
        _add(state, row, problem.unary[row], float(problem.constant[row]))
    _cut(state, 1 / size)
    return state


def relax(state: State, gap: float, deadline: float) -> None:
    """Rounds of: solve the linear program, note its bound, search near its solution, cut it off."""
    core, before, stalled = 1 / np.diff(state.problem.start)[state.problem.group], np.inf, 0
    for count in range(ROUNDS):
        solution = _solve(state, deadline)
        if solution is None:
            return
        point, price = solution
        if count % 3 == 0:
            state.offer(improve(state.problem, _rounded(state.problem, point), price, state.live, deadline))
        stalled = stalled + 1 if before - state.bound < 1e-6 * abs(state.bound) else 0
        before = state.bound
        whole = not state.problem.pairs.size and not any(state.problem.rest)
        if not state.open(gap) or stalled == STALL or whole or time.monotonic() > deadline:
            return
        _cut(state, point)
        _cut(state, (point + core) / 2)
        core = 0.85 * core + 0.15 * point


def _solve(state: State, deadline: float) -> tuple[Float[np.ndarray, 'options'], Float[np.ndarray, 'costs']] | None:
    """Solution of the linear program and price of each cost; lowers the bound and drops hopeless options."""
    problem = state.problem
    columns = np.flatnonzero((state.columns | (state.best is None)) & state.live)
    rows, sides, owner = np.array(state.rows), np.array(state.sides), np.array(state.owner)
    result = optimize.linprog(
        -problem.value[columns],
        A_ub=rows[:, columns],
        b_ub=sides,
        A_eq=sparse.csr_array((np.ones(len(columns)), (problem.group[columns], np.arange(len(columns))))),
        b_eq=np.ones(problem.groups),
        method='highs',
        options={'time_limit': max(deadline - time.monotonic(), 0.1)},
    )
    if result.status != 0:
        return None
    dual = np.maximum(-result.ineqlin.marginals, 0)
    _lower_bound(state, dual @ rows, float(dual @ sides))
    point = np.zeros(len(problem.count))
    point[columns] = np.maximum(result.x, 0)
    used = np.flatnonzero((dual > 0) | (np.arange(len(dual)) >= len(dual) - RECENT))
    state.rows, state.sides, state.owner = list(rows[used]), list(sides[used]), owner[used].tolist()
    return point, np.bincount(owner, dual, minlength=len(problem.limit))


def _lower_bound(state: State, paid: Float[np.ndarray, 'options'], budget: float) -> None:
    """Weak duality: any prices give a bound, over all live options, whatever the solver's tolerance."""
    problem = state.problem
    reduced = np.where(state.live, problem.value - paid, -np.inf)
    best = np.maximum.reduceat(reduced, problem.start[:-1])
    bound = budget + float(best.sum())
    state.bound = max(min(state.bound, bound), state.value)
    state.columns[reduced >= best[problem.group]] = True
    state.live &= bound - best[problem.group] + reduced >= state.value - 1e-9 * abs(bound)


def _rounded(problem: Problem, point: Float[np.ndarray, 'options']) -> Int[np.ndarray, 'groups']:
    """In every group the option next to the mean of kept channels."""
    mean = np.bincount(problem.group, point * problem.count, minlength=problem.groups)
    far = np.abs(problem.count - mean[problem.group])
    near = np.flatnonzero(far <= np.minimum.reduceat(far, problem.start[:-1])[problem.group])
    return near[np.searchsorted(problem.group[near], np.arange(problem.groups))]


def _add(state: State, row: int, coefficients: Float[np.ndarray, 'options'], constant: float) -> None:
    """Adds the cut `coefficients @ chosen + constant <= limit` about a cost."""
    state.rows.append(coefficients)
    state.sides.append(float(state.problem.limit[row]) - constant)
    state.owner.append(row)


def _cut(state: State, point: Float[np.ndarray, 'options']) -> None:
    """Adds a tangent at a distribution over options to every cost with products."""
    problem = state.problem
    constant = problem.constant.copy()
    levels = [np.append(0.0, part) for part in np.split(problem.count, problem.start[1:-1])]
    steps = [np.diff(level) for level in levels]
    above = [np.cumsum(part[::-1])[::-1] for part in np.split(point, problem.start[1:-1])]
    slopes = np.zeros_like(problem.unary)
    for (first, second), weight in zip(problem.pairs.T.tolist(), problem.weight.T, strict=True):
        width, height = _staircase(above[first], above[second], levels[first], levels[second])
        product = steps[first] * height
        slopes[:, problem.start[first] : problem.start[first + 1]] += weight[:, None] * product
        slopes[:, problem.start[second] : problem.start[second + 1]] += weight[:, None] * (steps[second] * width)
        constant -= weight * product.sum()
    coefficients = problem.unary + np.hstack(
        [np.cumsum(part, axis=1) for part in np.split(slopes, problem.start[1:-1], axis=1)]
    )
    for row, rest in enumerate(problem.rest):
        if rest is not None:
            slopes, offset = _rest_tangent(problem, row, point)
            coefficients[row] += slopes
            constant[row] += offset
        if rest is not None or problem.weight[row].any():
            _add(state, row, coefficients[row], float(constant[row]))


def _staircase(
    first: Float[np.ndarray, 'a'],
    second: Float[np.ndarray, 'b'],
    levels: Float[np.ndarray, 'a_and_0'],
    second_levels: Float[np.ndarray, 'b_and_0'],
) -> tuple[Float[np.ndarray, 'b'], Float[np.ndarray, 'a']]:
    """Where two groups are coupled at worst, the one wide where the other is narrow: a falling staircase of levels.

    With `(width, height)`, `sum_a step[a] height[a] (z[a] - 1) + sum_b step[b] width[b] z'[b]` is at most the product
    of the counts. Any falling staircase gives such a bound, so rounding of the distribution cannot make it wrong. Where
    the distribution leaves a step open, the mean of the highest and the lowest staircase is taken.

    Args:
      first: share of the one group at each level or above.
      second: the same of the other group.
      levels: kept counts of the one group, behind a zero.
      second_levels: the same of the other group.
    """
    places, rising = np.arange(len(second)), second[::-1]
    width, height = np.zeros(len(second)), np.zeros(len(first))
    for tolerance in (1e-9, -1e-9):
        top = len(second) - rising.searchsorted(1 - first + tolerance, side='right')
        top = np.minimum.accumulate(top)
        height += second_levels[top] / 2
        width += levels[(-top).searchsorted(-places)] / 2
    return width, height


def _rest_tangent(
    problem: Problem, row: int, point: Float[np.ndarray, 'options']
) -> tuple[Float[np.ndarray, 'options'], float]:
    """Tangent to the products of three groups and more in the logarithms of kept counts."""
    cost, scale = problem.rest[row], problem.scale[row]
    assert cost is not None
    mean = np.bincount(problem.group, point * np.log(problem.count), minlength=problem.groups)
    mean /= np.bincount(problem.group, point, minlength=problem.groups)
    slope = np.exp(mean) * cost.marginal(np.exp(mean)) / scale
    return slope[problem.group] * np.log(problem.count), float(cost(np.exp(mean)) / scale - slope @ mean)


def close(state: State, gap: float, deadline: float) -> bool:
    """Solves what is left as a mixed-integer program, products of levels included; says whether it is small enough.

    Cuts for products of three groups and more are added where its solution does not fit.
    """
    while state.open(gap) and time.monotonic() < deadline - 0.1:
        cuts = [number for number, row in enumerate(state.owner) if state.problem.rest[row] is not None]
        rows = np.array([state.rows[number] for number in cuts]).reshape(len(cuts), len(state.live))
        program = build(state.problem, state.live, rows, np.array([state.sides[number] for number in cuts]), PRODUCTS)
        if program is None:
            return False
        result = optimize.milp(
            **program.arguments,
            options={'time_limit': deadline - time.monotonic(), 'node_limit': NODES, 'mip_rel_gap': gap},
        )
        if result.status == 2 and state.best is None:
            state.bound = -np.inf
            return True
        known = -float(result.mip_dual_bound) + program.base if result.mip_dual_bound is not None else np.inf
        state.bound = max(min(state.bound, known), state.value)
        if result.x is None:
            return True
        found = program.choice(result.x)
        fits = bool(state.problem.fits(state.problem.cost(found)))
        state.offer(found if fits else None)
        state.offer(improve(state.problem, found, np.zeros(len(state.problem.limit)), state.live, deadline))
        if fits or not any(state.problem.rest):
            return True
        point = np.zeros(len(state.problem.count))
        point[found] = 1
        _cut(state, point)
    return True
