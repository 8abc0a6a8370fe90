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

NEVER = -2
"""Among `Axis.zeros`: an element that no zero in the variables makes zero."""

Ids = Int[np.ndarray, 'size']
Rows = Int[np.ndarray, 'rows size']
Sources = Int[np.ndarray, 'producers 2 size']


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of one value.

    Attributes:
      size: number of elements.
      ids: of the elements, or None where none of them can be removed.
      uniform: the value is the same all along the axis (it was broadcast), so it fits whatever is removed beside it.
      runs: so many neighbours in a row are equal, because they were repeated: means of groups of channels.
      sources: who wrote each element: ids of kernels' output axes and, in the second row, of the last element of
        another layer (or NONE) that it met since (a scale, a learned offset).
      zeros: ids of elements of leaves; where all of a column are zero, the value is zero at that element, whatever the
        inputs are. NONE is no condition, NEVER one that cannot be met; None: no element can be made zero.
    """

    size: int
    ids: Ids | None = None
    uniform: bool = False
    sources: Sources | None = None
    zeros: Rows | None = None
    runs: int = 1

    def take(self, index: Ids) -> 'Axis':
        """The axis that holds the elements at `index`, and something without id where that is NONE."""
        if self.ids is None:
            return Axis(len(index), uniform=self.uniform and bool(np.all(index >= 0)))
        ids, sources, zeros = (_take(each, index) for each in (self.ids, self.sources, self.zeros))
        return Axis(len(index), ids, sources=sources, zeros=zeros)

    def with_zeros(self, zeros: Rows | None) -> 'Axis':
        """The same axis with another condition for zero."""
        return self if self.zeros is zeros else dataclasses.replace(self, zeros=zeros)

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
      fill: the number that stands everywhere in it, where that is known.
      split: ids that the last step, a reshape, split into several axes; for a better reason where that is an output.
    """

    axes: tuple[Axis, ...]
    data: bool
    fill: float | None = None
    split: Ids | None = None

    def known(self) -> Ids:
        """Every id on any axis."""
        return np.concatenate([axis.ids for axis in self.axes if axis.ids is not None] or [np.empty(0, int)])

    @property
    def is_kernel(self) -> bool:
        """Whether it is made of parameters alone."""
        return not self.data and any(axis.ids is not None for axis in self.axes)


def fixed(shape: Sequence[int], *, data: bool, fill: float | None = None) -> Value:
    """A value of which nothing can be removed."""
    return Value(tuple(Axis(size) for size in shape), data, fill)


def merge_rows(rows: Iterable[np.ndarray | None]) -> np.ndarray | None:
    """All rows, each once."""
    arrays = [each for each in rows if each is not None]
    if len(arrays) <= 1 or all(each is arrays[0] for each in arrays):
        return arrays[0] if arrays else None
    found = {row.tobytes(): row for each in arrays for row in each}
    return np.stack(list(found.values()))


def all_zeros(axes: Iterable[Axis]) -> Rows | None:
    """The condition under which all of several values are zero."""
    rows = [axis.zeros for axis in axes]
    return None if any(each is None for each in rows) else merge_rows(rows)


def concatenate_axes(axes: Sequence[Axis], fills: Sequence[float | None]) -> Axis:
    """One axis with the elements of all, one after the other; `fills`: the numbers that they are full of, if any."""
    size = sum(axis.size for axis in axes)
    if all(axis.ids is None for axis in axes):
        return Axis(size)
    ids = np.concatenate([axis.known for axis in axes])
    zeros = None
    if any(axis.zeros is not None for axis in axes):
        nothing = [
            np.full((1, axis.size), NONE) if fill == 0 else axis.zeros for axis, fill in zip(axes, fills, strict=True)
        ]
        zeros = _join(nothing, axes, NEVER)
    return Axis(size, ids, sources=_join([axis.sources for axis in axes], axes, NONE), zeros=zeros)


def _take(array: np.ndarray | None, index: Ids) -> np.ndarray | None:
    return None if array is None else np.where(index >= 0, array[..., index], NONE)


def _join(parts: Sequence[np.ndarray | None], axes: Sequence[Axis], absent: int) -> np.ndarray | None:
    """Rows one beside the other; `absent` for an axis without rows, NONE where others have more rows."""
    shapes = [part.shape[:-1] for part in parts if part is not None]
    if not shapes:
        return None
    joined = np.full((*max(shapes), sum(axis.size for axis in axes)), NONE)
    start = 0
    for part, axis in zip(parts, axes, strict=True):
        if part is None:
            joined[0, ..., start : start + axis.size] = absent
        else:
            joined[: len(part), ..., start : start + axis.size] = part
        start += axis.size
    return joined
