"""Groups, from which elements can only be removed together."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from scipy import sparse
from scipy.sparse import csgraph

from jaxprune.graph._record import Record
from jaxprune.graph._types import Group, Role, Slot
from jaxprune.graph._values import NONE, Ids

UNEVEN = 'its channels are not all used alike, so they do not match one to one'
SEVERAL = 'it holds several spaces of channels: name its parts as layers'
TIED = 'one and the same kernel produces and reads its channels'
OUTPUT = 'its channels are the output of the model'


@dataclasses.dataclass(frozen=True, eq=False)
class _Solution:
    """Per id: its class (removed together) and its group (NONE where no layer produces it)."""

    classes: Ids
    groups: Ids
    reasons: dict[int, str]  # per group
    produced: Int[np.ndarray, 'axes']  # numbers of the axes that produce
    kernels: Int[np.ndarray, 'axes']  # numbers of the output axes of all kernels
    read: Int[np.ndarray, 'axes']


def find_groups(record: Record, owner: Ids, names: Sequence[str]) -> tuple[Group, ...]:
    """All groups, in the order of their lowest layers.

    Args:
      record: of the walk.
      owner: `[leaves]`, index of the layer or NONE.
      names: of the layers.
    """
    solution = _solve(record)
    found = [_group(record, owner, names, solution, number) for number in range(solution.groups.max(initial=NONE) + 1)]
    found.sort(key=lambda group: names.index(group.layers[0]))
    crowded = {name for name in names if sum(name in group.layers for group in found) > 1}
    return tuple(
        dataclasses.replace(group, index=index, protected=_several(group, crowded)) for index, group in enumerate(found)
    )


def _several(group: Group, crowded: set[str]) -> str | None:
    return group.protected or (SEVERAL if crowded.intersection(group.layers) else None)


def _solve(record: Record) -> _Solution:
    axis_of = record.leaves.axis_of
    classes = _components(len(axis_of), record.pairs)
    produced = np.unique(np.concatenate([axis_of[ids] for ids in record.produced] or [np.empty(0, int)]))
    made = np.flatnonzero(np.isin(axis_of, produced))
    # All channels of one producing axis are one space, so classes that share such an axis share a group.
    joins = np.stack([classes[made], len(axis_of) + axis_of[made]])
    joined = _components(len(axis_of) + len(record.leaves.starts), [joins])[classes]
    numbers = np.full(joined.max(initial=0) + 1, NONE)
    numbers[np.unique(joined[made])] = np.arange(len(np.unique(joined[made])))
    groups = numbers[joined]
    return _Solution(classes, groups, _reasons(record, classes, groups), produced, *_axes_of_kernels(record))


def _axes_of_kernels(record: Record) -> tuple[np.ndarray, np.ndarray]:
    axis_of = record.leaves.axis_of
    return tuple(
        np.unique(np.concatenate([axis_of[ids[ids >= 0]] for ids in each] or [np.empty(0, int)]))
        for each in (record.kernels, record.read)
    )


def _components(size: int, pairs: Sequence[np.ndarray]) -> Ids:
    first, second = np.concatenate([*pairs, np.empty((2, 0), int)], axis=1)
    links = sparse.coo_array((np.ones(len(first), bool), (first, second)), shape=(size, size))
    return csgraph.connected_components(links, directed=False)[1]


def _reasons(record: Record, classes: Ids, groups: Ids) -> dict[int, str]:
    """Per group, the first reason for which any of its classes must stay."""
    group_of = np.full(classes.max(initial=0) + 1, NONE)
    group_of[classes] = groups
    reasons: dict[int, str] = {}
    for protection in record.protections:
        for group in np.unique(group_of[classes[protection.ids]]):
            reasons.setdefault(int(group), protection.reason)
    return reasons


def _group(record: Record, owner: Ids, names: Sequence[str], solution: _Solution, number: int) -> Group:
    ids = np.flatnonzero(solution.groups == number)
    axes = record.leaves.axis_of[ids]
    makers = np.intersect1d(axes, solution.kernels)
    layers = tuple(names[index] for index in np.unique(owner[record.leaves.axis_leaf[makers]]))
    order = _channel_order(record, owner, solution, ids, makers)
    places = {int(axis): _places(record, solution, ids[axes == axis], order) for axis in np.unique(axes)}
    slots = tuple(
        _slot(record, owner, names, solution, axis, indices, layers[0])
        for axis, indices in places.items()
        if indices is not None
    )
    reason = _protection(solution, number, slots, uneven=len(slots) < len(places))
    return Group(NONE, layers, len(order), slots, reason)


def _protection(solution: _Solution, number: int, slots: tuple[Slot, ...], *, uneven: bool) -> str | None:
    reason = solution.reasons.get(number)
    if reason and not any(slot.role == 'read' for slot in slots) and not uneven:
        return OUTPUT
    return reason or (UNEVEN if uneven else None)


def _channel_order(record: Record, owner: Ids, solution: _Solution, ids: Ids, makers: np.ndarray) -> Ids:
    """The group's classes, as they stand on the output axis of its lowest layer, then of the others."""
    leaves = record.leaves
    mine = ids[np.isin(leaves.axis_of[ids], makers)]
    layer = owner[leaves.axis_leaf[leaves.axis_of[mine]]]
    classes = solution.classes[mine[np.lexsort((mine, layer))]]
    _, first = np.unique(classes, return_index=True)
    return classes[np.sort(first)]


def _places(record: Record, solution: _Solution, ids: Ids, order: Ids) -> Int[np.ndarray, 'channels k'] | None:
    """Where each class stands on one axis; None where they do not all stand there equally often."""
    rank = np.full(int(max(order.max(), solution.classes[ids].max())) + 1, NONE)
    rank[order] = np.arange(len(order))
    ranks = rank[solution.classes[ids]]
    counts = np.bincount(ranks, minlength=len(order))
    if counts.min() != counts.max():
        return None
    return record.leaves.place_of(ids[np.lexsort((ids, ranks))]).reshape(len(order), -1)


def _slot(
    record: Record, owner: Ids, names: Sequence[str], solution: _Solution, axis: int, indices: np.ndarray, lowest: str
) -> Slot:
    leaf = int(record.leaves.axis_leaf[axis])
    role: Role = 'along'
    if axis in solution.produced:
        role = 'produce'
    elif axis in solution.read:
        role = 'read'
    layer = names[owner[leaf]] if owner[leaf] >= 0 else lowest
    return Slot(record.leaves.paths[leaf], int(record.leaves.axis_place[axis]), indices, role, layer)
