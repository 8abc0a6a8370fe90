"""Abstract values: what lies along every axis of an array in the program.

Every element of every axis of every leaf of the variables has an *id*. A value carries, per axis, the id of each
element along it: removing the id from the variables removes that element from the value.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

NONE = -1
"""Stands for an element that has no id, so it cannot be removed."""

Ids = Int[np.ndarray, 'size']
Sources = Int[np.ndarray, 'producers 2 size']


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of one value.

    Attributes:
      size: number of elements.
      ids: of the elements, or None where none of them can be removed.
      uniform: the value is the same all along the axis (it was broadcast), so it fits whatever is removed beside it.
      sources: who wrote each element: ids of kernels' output axes and, in the second row, of the last element of
        another layer (or NONE) that it met since (a scale, a learned offset).
      origin: ids of elements of leaves that make this value zero where they are zero; only for values that depend
        on no input of the model.
    """

    size: int
    ids: Ids | None = None
    uniform: bool = False
    sources: Sources | None = None
    origin: Ids | None = None

    def take(self, index: Ids) -> 'Axis':
        """The axis that holds the elements at `index`, and something without id where that is NONE."""
        if self.ids is None:
            return Axis(len(index), uniform=self.uniform and bool(np.all(index >= 0)))
        ids, sources, origin = (_take(each, index) for each in (self.ids, self.sources, self.origin))
        return Axis(len(index), ids, sources=sources, origin=origin)

    def with_origin(self, origin: Ids | None) -> 'Axis':
        """The same axis with another origin."""
        return self if self.origin is origin else dataclasses.replace(self, origin=origin)

    @property
    def known(self) -> Ids:
        """The ids, NONE where there are none."""
        return np.full(self.size, NONE) if self.ids is None else self.ids


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An array in the program.

    Attributes:
      axes: of the array.
      data: whether it depends on an input of the model.
      split: ids that the last step, a reshape, split into several axes; for a better reason where that is an output.
    """

    axes: tuple[Axis, ...]
    data: bool
    split: Ids | None = None

    def known(self) -> Ids:
        """Every id on any axis."""
        return np.concatenate([axis.ids for axis in self.axes if axis.ids is not None] or [np.empty(0, int)])


def fixed(shape: Sequence[int], *, data: bool) -> Value:
    """A value of which nothing can be removed."""
    return Value(tuple(Axis(size) for size in shape), data)


def merge_sources(sources: Iterable[Sources | None]) -> Sources | None:
    """All producers, each once."""
    rows = {row.tobytes(): row for each in sources if each is not None for row in each}
    return np.stack(list(rows.values())) if rows else None


def concatenate_axes(axes: Sequence[Axis]) -> Axis:
    """One axis with the elements of all, one after the other."""
    size = sum(axis.size for axis in axes)
    if all(axis.ids is None for axis in axes):
        return Axis(size)
    origin = None
    if all(axis.origin is not None for axis in axes):
        origin = np.concatenate([axis.origin for axis in axes])
    return Axis(size, np.concatenate([axis.known for axis in axes]), sources=_join_sources(axes), origin=origin)


def _take(array: np.ndarray | None, index: Ids) -> np.ndarray | None:
    return None if array is None else np.where(index >= 0, array[..., index], NONE)


def _join_sources(axes: Sequence[Axis]) -> Sources | None:
    producers = max((0 if axis.sources is None else len(axis.sources)) for axis in axes)
    if not producers:
        return None
    joined = np.full((producers, 2, sum(axis.size for axis in axes)), NONE)
    start = 0
    for axis in axes:
        if axis.sources is not None:
            joined[: len(axis.sources), :, start : start + axis.size] = axis.sources
        start += axis.size
    return joined
