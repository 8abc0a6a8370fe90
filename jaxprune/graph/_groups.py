"""Groups, from which elements can only be removed together."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int
from scipy import sparse
from scipy.sparse import csgraph

from jaxprune.graph._record import Protection, Record
from jaxprune.graph._types import Group, Role, Slot
from jaxprune.graph._values import NONE, Ids

Axes = Int[np.ndarray, 'axes']

SINGULAR = 'something is divided by its channels, or not finite at zero, and a mask sets them to zero'
OUTPUT = 'its channels are the output of the model'
_FREE, _SOFT, _HARD = range(3)


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """Which ids can only be removed together.

    Attributes:
      record, owner, names: as in `solve`.
      classes: per id, its class: removed together.
      groups: per id, its group: classes that stand equally often on the same axes and may be removed alike; NONE where
        no layer produces it.
      reasons: per class that is protected, why; of several reasons the first hard one.
      bounds: per class, whether it is free, or protected softly or hard.
      produced, kernels, read: numbers of the axes that produce, of all output axes of kernels, of the axes that read.
      masked: per id, whether a mask sets it to zero.
    """

    record: Record
    owner: Ids
    names: Sequence[str]
    classes: Ids
    groups: Ids
    reasons: dict[int, str]
    bounds: Ids
    produced: Axes
    kernels: Axes
    read: Axes
    masked: Bool[np.ndarray, 'ids']

    def stuck(self, ids: Ids) -> bool:
        """Whether any of the ids is protected, and not just because it is in the output."""
        kinds = np.unique(self.classes[ids])
        return any(self.reasons[kind] != OUTPUT for kind in kinds[self.bounds[kinds] != _FREE].tolist())


def solve(record: Record, owner: Ids, names: Sequence[str]) -> Solution:
    """Sorts all ids into classes, and those into groups.

    Args:
      record: of the walk.
      owner: `[leaves]`, index of the layer or NONE.
      names: of the layers.
    """
    axis_of = record.leaves.axis_of
    classes = _components(len(axis_of), record.pairs)
    produced, kernels, read = (_axes(record, ids) for ids in (record.produced, record.kernels, record.read))
    masked = _masked(record)
    bounds, reasons = _protections(record, classes, masked)
    groups = _alike(record, classes, bounds[classes])
    made = np.zeros(groups.max(initial=0) + 1, bool)
    made[groups[np.isin(axis_of, produced)]] = True
    groups = np.where(made[groups], groups, NONE)
    return Solution(record, owner, names, classes, groups, reasons, bounds, produced, kernels, read, masked)


def find_groups(solution: Solution, *, approximate: bool) -> tuple[tuple[Group, ...], Ids]:
    """All groups, in the order of their lowest layers, and per id the index of its group or NONE.

    Args:
      solution: what belongs together.
      approximate: whether channels may be removed where that changes those that stay.
    """
    members = np.argsort(solution.groups, kind='stable')
    members = members[solution.groups[members] != NONE]
    parts = np.split(members, np.flatnonzero(np.diff(solution.groups[members])) + 1)
    found = [(_group(solution, ids, approximate), ids) for ids in parts if len(ids)]
    rank = {name: number for number, name in enumerate(solution.names)}
    # Ids rise from axis to axis, so the first id of a layer tells which of its groups comes first.
    found.sort(key=lambda pair: (rank[pair[0].layers[0]], _first_made(solution, pair[1])))
    index_of = np.full(len(solution.groups), NONE)
    for index, (_, ids) in enumerate(found):
        index_of[ids] = index
    return _name([group for group, _ in found]), index_of


def _name(groups: Sequence[Group]) -> tuple[Group, ...]:
    lowest = [group.layers[0] for group in groups]
    named = []
    for index, group in enumerate(groups):
        name, number = lowest[index], lowest[: index + 1].count(lowest[index])
        name = f'{name}#{number}' if lowest.count(name) > 1 else name
        named.append(dataclasses.replace(group, index=index, name=name))
    return tuple(named)


def _first_made(solution: Solution, ids: Ids) -> int:
    return int(ids[np.isin(solution.record.leaves.axis_of[ids], solution.kernels)].min())


def _axes(record: Record, ids: Sequence[Ids]) -> Axes:
    found = [record.leaves.axis_of[each[each >= 0]] for each in ids]
    return np.unique(np.concatenate([*found, np.empty(0, int)]))


def _components(size: int, pairs: Sequence[np.ndarray]) -> Ids:
    first, second = np.concatenate([*pairs, np.empty((2, 0), int)], axis=1)
    links = sparse.coo_array((np.ones(len(first), bool), (first, second)), shape=(size, size))
    return csgraph.connected_components(links, directed=False)[1]


def _masked(record: Record) -> Bool[np.ndarray, 'ids']:
    masked = np.zeros(len(record.leaves.axis_of), bool)
    masked[np.concatenate([*record.masked, np.empty(0, int)])] = True
    return masked


def _divided_by_zero(record: Record, masked: Bool[np.ndarray, 'ids']) -> Iterator[Protection]:
    """Where a mask would make something zero by which something is divided."""
    # A mask sets all places of a group on an axis to zero, or none.
    touched = np.isin(record.leaves.axis_of, record.leaves.axis_of[masked])
    for rows in record.singular:
        zero = np.all((rows == NONE) | ((rows >= 0) & touched[rows]), axis=0) & np.any(rows >= 0, axis=0)
        if zero.any():
            yield Protection(rows[:, zero][rows[:, zero] >= 0], SINGULAR, soft=True)


def _protections(record: Record, classes: Ids, masked: Bool[np.ndarray, 'ids']) -> tuple[Ids, dict[int, str]]:
    protections = [*record.protections, *_divided_by_zero(record, masked)]
    bounds = np.full(classes.max(initial=0) + 1, _FREE)
    reasons: dict[int, str] = {}
    for bound in (_SOFT, _HARD):
        for protection in [each for each in protections if each.soft == (bound == _SOFT)]:
            concerned = np.unique(classes[protection.ids])
            reasons |= dict.fromkeys(concerned[bounds[concerned] != bound].tolist(), protection.reason)
            bounds[concerned] = bound
    return bounds, reasons


def _alike(record: Record, classes: Ids, bounds: Ids) -> Ids:
    """Per id, a number that classes share which have as many ids on the same axes (and sides of cuts) and one bound."""
    axis_of = record.leaves.axis_of
    draw = np.random.default_rng(0)
    marks = draw.integers(0, 2**63, axis_of.max(initial=0) + 1, np.uint64)
    sums = np.zeros(classes.max(initial=0) + 1, np.uint64)
    # A sum of random numbers stands for the multiset of axes: equal sums of unlike classes do not happen.
    np.add.at(sums, classes, marks[axis_of])
    for sides in record.cuts:
        for ids in sides:
            np.add.at(sums, classes[ids[ids >= 0]], draw.integers(0, 2**63, dtype=np.uint64))
    sums[classes] += draw.integers(0, 2**63, _HARD + 1, np.uint64)[bounds]
    return np.unique(sums, return_inverse=True)[1][classes]


def _group(solution: Solution, ids: Ids, approximate: bool) -> Group:
    leaves = solution.record.leaves
    axes = leaves.axis_of[ids]
    makers = np.intersect1d(axes, solution.kernels)
    layers = tuple(solution.names[index] for index in np.unique(solution.owner[leaves.axis_leaf[makers]]))
    channels, ranks = _rank(solution, ids, np.isin(axes, makers))
    slots = tuple(
        _slot(solution, ids[axes == axis], ranks[axes == axis], channels, layers[0]) for axis in np.unique(axes)
    )
    kind = solution.classes[ids[0]]
    reason = solution.reasons.get(int(kind))
    allowed = approximate and solution.bounds[kind] == _SOFT
    return Group(NONE, '', layers, channels, slots, None if allowed else reason, reason if allowed else None)


def _rank(solution: Solution, ids: Ids, made: Bool[np.ndarray, 'ids']) -> tuple[int, Ids]:
    """How many classes there are, and the place of each id's class on the output axis of the lowest layer."""
    leaves = solution.record.leaves
    layer = solution.owner[leaves.axis_leaf[leaves.axis_of[ids[made]]]]
    classes = solution.classes[ids[made]][np.lexsort((ids[made], layer))]
    found, first = np.unique(classes, return_index=True)
    places = np.argsort(np.argsort(first))
    return len(found), places[np.searchsorted(found, solution.classes[ids])]


def _slot(solution: Solution, ids: Ids, ranks: Ids, channels: int, lowest: str) -> Slot:
    leaves = solution.record.leaves
    axis = int(leaves.axis_of[ids[0]])
    leaf = int(leaves.axis_leaf[axis])
    indices = leaves.place_of(ids[np.lexsort((ids, ranks))]).reshape(channels, -1)
    role: Role = 'produce' if axis in solution.produced else 'read' if axis in solution.read else 'along'
    layer = solution.names[solution.owner[leaf]] if solution.owner[leaf] >= 0 else lowest
    masked = bool(solution.masked[ids].any())
    place, size = int(leaves.axis_place[axis]), int(leaves.sizes[axis])
    return Slot(leaves.paths[leaf], place, indices, role, layer, masked, size)
