"""The mixed-integer program of a budget: every product of two kept counts as products of levels."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, sparse

from jaxprune.pruning._budget_problem import Problem


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Arguments of `scipy.optimize.milp`.

    Attributes:
      arguments: of `milp`; the first `len(level)` unknowns say whether a group takes this level or a higher one.
      base: value of the lowest levels, which the objective leaves out.
      lowest: `[groups]`, the lowest live option of each group.
      level, group: the option that each of those unknowns stands for, and its group.
    """

    arguments: dict[str, Any]
    base: float
    lowest: Int[np.ndarray, 'groups']
    level: Int[np.ndarray, 'levels']
    group: Int[np.ndarray, 'levels']

    def choice(self, solution: Float[np.ndarray, 'unknowns']) -> Int[np.ndarray, 'groups']:
        """The options of a solution."""
        chosen = self.lowest.copy()
        taken = np.flatnonzero(solution[: len(self.level)] > 0.5)
        np.maximum.at(chosen, self.group[taken], self.level[taken])
        return chosen


def build(
    problem: Problem,
    live: Bool[np.ndarray, 'options'],
    rows: Float[np.ndarray, 'cuts options'],
    sides: Float[np.ndarray, 'cuts'],
    most: int,
) -> Program | None:
    """The program over live options, or None if it takes more than `most` products of levels.

    Args:
      problem: what to solve.
      live: options to choose from, at least one of each group.
      rows: `rows @ chosen <= sides` are cuts, wanted for costs with products of three groups and more.
      sides: of them.
      most: how many products of levels it may hold.
    """
    options = np.flatnonzero(live)
    first = np.searchsorted(problem.group[options], np.arange(problem.groups))
    lowest = options[first]
    above = np.delete(np.arange(len(options)), first)
    level, below = options[above], options[above - 1]
    group = problem.group[level]
    begin = np.searchsorted(group, np.arange(problem.groups + 1))
    size = np.diff(begin)
    if int((size[problem.pairs[0]] * size[problem.pairs[1]]).sum()) > most:
        return None
    step = problem.count[level] - problem.count[below]
    other = problem.interaction @ problem.count[lowest]
    linear = problem.unary[:, level] - problem.unary[:, below] + other[:, group] * step
    left, right, weight = _products(problem, begin, step)
    exact = np.array([rest is None for rest in problem.rest])
    room = problem.limit - problem.constant - problem.unary[:, lowest].sum(axis=1) - (other @ problem.count[lowest] / 2)
    cuts = rows[:, level] - rows[:, below]
    upper = np.concatenate([room[exact], sides - rows[:, lowest].sum(axis=1)])
    budget = sparse.block_array(
        [[linear[exact], weight[exact]], [cuts, np.zeros((len(cuts), len(left)))]], format='csr'
    )
    same = np.flatnonzero(group[1:] == group[:-1])
    falls = _pairs_matrix(same + 1, same, len(level), -1.0)
    product = sparse.hstack([_pairs_matrix(left, right, len(level), 1.0), -sparse.eye_array(len(left))])
    constraints = [
        optimize.LinearConstraint(budget, ub=upper),
        optimize.LinearConstraint(sparse.hstack([falls, sparse.csr_array((len(same), len(left)))]), ub=0),
        optimize.LinearConstraint(product, ub=1),
    ]
    arguments = {
        'c': np.concatenate([problem.value[below] - problem.value[level], np.zeros(len(left))]),
        'integrality': np.concatenate([np.ones(len(level)), np.zeros(len(left))]),
        'bounds': optimize.Bounds(0, 1),
        'constraints': constraints,
    }
    return Program(arguments, problem.worth(lowest), lowest, level, group)


def _products(
    problem: Problem, begin: Int[np.ndarray, 'groups_and_end'], step: Float[np.ndarray, 'levels']
) -> tuple[Int[np.ndarray, 'products'], Int[np.ndarray, 'products'], Float[np.ndarray, 'costs products']]:
    """The two levels of every product, and what it adds to each cost."""
    left, right, pair = [], [], []
    for number, (first, second) in enumerate(problem.pairs.T):
        grid = np.mgrid[begin[first] : begin[first + 1], begin[second] : begin[second + 1]].reshape(2, -1)
        left.append(grid[0])
        right.append(grid[1])
        pair.append(np.full(grid.shape[1], number))
    lefts, rights, pairs = (np.concatenate([np.zeros(0, int), *parts]) for parts in (left, right, pair))
    return lefts, rights, problem.weight[:, pairs] * step[lefts] * step[rights]


def _pairs_matrix(
    first: Int[np.ndarray, 'rows'], second: Int[np.ndarray, 'rows'], columns: int, sign: float
) -> sparse.csr_array:
    """`[rows, columns]` with 1 at `first` and `sign` at `second` of each row."""
    rows = np.arange(len(first))
    entries = np.concatenate([np.ones(len(first)), np.full(len(first), sign)])
    places = (np.concatenate([rows, rows]), np.concatenate([first, second]))
    return sparse.csr_array((entries, places), shape=(len(first), columns))
