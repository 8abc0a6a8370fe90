"""Groups, from which elements can only be removed together."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from scipy import sparse
from scipy.sparse import csgraph

from jaxprune.graph._record import Record
from jaxprune.graph._types import Group, Role, Slot
from jaxprune.graph._values import NONE, Ids

Axes = Int[np.ndarray, 'axes']

UNEVEN = 'its channels are not all used alike, so they do not match one to one'
SEVERAL = 'it holds several spaces of channels: name its parts as layers'
TIED = 'one and the same kernel produces and reads its channels'
OUTPUT = 'its channels are the output of the model'


@dataclasses.dataclass(frozen=True, eq=False)
class _Solution:
    """Which ids can only be removed together.

    Attributes:
      record, owner, names: as in `find_groups`.
      classes: per id, its class: removed together.
      groups: per id, its group: classes that share an axis on which they are produced; NONE where no layer produces it.
      reasons: per protected group, the first reason.
      produced, kernels, read: numbers of the axes that produce, of all output axes of kernels, of the axes that read.
    """

    record: Record
    owner: Ids
    names: Sequence[str]
    classes: Ids
    groups: Ids
    reasons: dict[int, str]
    produced: Axes
    kernels: Axes
    read: Axes


def find_groups(record: Record, owner: Ids, names: Sequence[str]) -> tuple[Group, ...]:
    """All groups, in the order of their lowest layers.

    Args:
      record: of the walk.
      owner: `[leaves]`, index of the layer or NONE.
      names: of the layers.
    """
    solution = _solve(record, owner, names)
    members = np.argsort(solution.groups, kind='stable')
    parts = np.split(members, np.flatnonzero(np.diff(solution.groups[members])) + 1)
    found = [_group(solution, ids) for ids in parts if len(ids) and solution.groups[ids[0]] != NONE]
    found.sort(key=lambda group: names.index(group.layers[0]))
    counts = collections.Counter(name for group in found for name in group.layers)
    crowded = {name for name, count in counts.items() if count > 1}
    return tuple(
        dataclasses.replace(group, index=index, protected=_several(group, crowded)) for index, group in enumerate(found)
    )


def _several(group: Group, crowded: set[str]) -> str | None:
    return group.protected or (SEVERAL if crowded.intersection(group.layers) else None)


def _solve(record: Record, owner: Ids, names: Sequence[str]) -> _Solution:
    axis_of = record.leaves.axis_of
    classes = _components(len(axis_of), record.pairs)
    produced, kernels, read = (_axes(record, ids) for ids in (record.produced, record.kernels, record.read))
    made = np.flatnonzero(np.isin(axis_of, produced))
    # All channels of one producing axis are one space, so classes that share such an axis share a group.
    joins = np.stack([classes[made], len(axis_of) + axis_of[made]])
    joined = _components(len(axis_of) + len(record.leaves.starts), [joins])[classes]
    numbers = np.full(joined.max(initial=0) + 1, NONE)
    numbers[joined[made]] = joined[made]
    groups = numbers[joined]
    return _Solution(record, owner, names, classes, groups, _reasons(record, classes, groups), produced, kernels, read)


def _axes(record: Record, ids: Sequence[Ids]) -> Axes:
    found = [record.leaves.axis_of[each[each >= 0]] for each in ids]
    return np.unique(np.concatenate([*found, np.empty(0, int)]))


def _components(size: int, pairs: Sequence[np.ndarray]) -> Ids:
    first, second = np.concatenate([*pairs, np.empty((2, 0), int)], axis=1)
    links = sparse.coo_array((np.ones(len(first), bool), (first, second)), shape=(size, size))
    return csgraph.connected_components(links, directed=False)[1]


def _reasons(record: Record, classes: Ids, groups: Ids) -> dict[int, str]:
    group_of = np.full(classes.max(initial=0) + 1, NONE)
    group_of[classes] = groups
    reasons: dict[int, str] = {}
    for protection in record.protections:
        for group in np.unique(group_of[classes[protection.ids]]):
            reasons.setdefault(int(group), protection.reason)
    return reasons


def _group(solution: _Solution, ids: Ids) -> Group:
    leaves = solution.record.leaves
    axes = leaves.axis_of[ids]
    makers = np.intersect1d(axes, solution.kernels)
    layers = tuple(solution.names[index] for index in np.unique(solution.owner[leaves.axis_leaf[makers]]))
    channels, ranks = _rank(solution, ids, np.isin(axes, makers))
    slots = []
    for axis in np.unique(axes):
        indices = _places(solution, ids[axes == axis], ranks[axes == axis], channels)
        slots += [] if indices is None else [_slot(solution, int(axis), indices, layers[0])]
    uneven = len(slots) < len(np.unique(axes))
    tied = bool(np.intersect1d(np.intersect1d(axes, solution.read), solution.produced).size)
    own = UNEVEN if uneven else TIED if tied else None
    return Group(NONE, layers[0], layers, channels, tuple(slots), solution.reasons.get(int(solution.groups[ids[0]]), own))


def _rank(solution: _Solution, ids: Ids, made: Bool[np.ndarray, 'ids']) -> tuple[int, Ids]:
    """How many classes there are, and the place of each id's class on the output axis of the lowest layer."""
    leaves = solution.record.leaves
    layer = solution.owner[leaves.axis_leaf[leaves.axis_of[ids[made]]]]
    classes = solution.classes[ids[made]][np.lexsort((ids[made], layer))]
    found, first = np.unique(classes, return_index=True)
    places = np.argsort(np.argsort(first))
    return len(found), places[np.searchsorted(found, solution.classes[ids])]


def _places(solution: _Solution, ids: Ids, ranks: Ids, channels: int) -> Int[np.ndarray, 'channels k'] | None:
    """Where each class stands on one axis; None where they do not all stand there equally often."""
    counts = np.bincount(ranks, minlength=channels)
    if counts.min() != counts.max():
        return None
    return solution.record.leaves.place_of(ids[np.lexsort((ids, ranks))]).reshape(channels, -1)


def _slot(solution: _Solution, axis: int, indices: Int[np.ndarray, 'channels k'], lowest: str) -> Slot:
    leaves = solution.record.leaves
    leaf = int(leaves.axis_leaf[axis])
    role: Role = 'produce' if axis in solution.produced else 'read' if axis in solution.read else 'along'
    layer = solution.names[solution.owner[leaf]] if solution.owner[leaf] >= 0 else lowest
    return Slot(leaves.paths[leaf], int(leaves.axis_place[axis]), indices, role, layer, role == 'read')
