"""Values of the replayed program: small arrays that know which places of the original ones they hold."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

Kept = Bool[np.ndarray, 'size']
Places = Int[np.ndarray, 'places']
Masks = tuple[Kept | None, ...]
"""Per axis, which of its original places are held; None where all of them are."""


class NotReplayableError(Exception):
    """Why an equation has no counterpart on the places that are held."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An array of the original program, as far as it is still there.

    Attributes:
      array: what is held.
      kept: per axis, which of the original places are held.
      uniform: axes along which all elements are the same (they were broadcast): any of them may stand for any other.
    """

    array: Any
    kept: Masks
    uniform: frozenset[int] = frozenset()

    @property
    def partial(self) -> bool:
        """Whether places of it are gone."""
        return any(mask is not None for mask in self.kept)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Original shape."""
        held = np.shape(self.array)
        return tuple(size if mask is None else len(mask) for size, mask in zip(held, self.kept, strict=True))

    def pick(self, axis: int, span: Places) -> 'Value':
        """What the original places `span` of an axis hold, in this order."""
        mask = self.kept[axis]
        stays = None if mask is None else mask[span]
        held = span if mask is None or stays is None else (np.cumsum(mask) - 1)[span[stays]]
        array = take(self.array, axis, held, axis in self.uniform)
        return Value(array, with_mask(self.kept, axis, unless_all(stays)), self.uniform)

    def fit(self, axis: int, mask: Kept | None) -> 'Value':
        """This value with no more than the places of `mask` along an axis."""
        own = self.kept[axis]
        if mask is None and own is None:
            return self
        if mask is not None and own is None:
            array = take(self.array, axis, np.flatnonzero(mask), axis in self.uniform)
            return Value(array, with_mask(self.kept, axis, mask), self.uniform)
        common((own, mask), whole=mask is None)
        return self

    def fit_all(self, masks: Masks) -> 'Value':
        """The same for every axis."""
        value = self
        for axis, mask in enumerate(masks):
            value = value.fit(axis, mask)
        return value


def whole(array: Any) -> Value:
    """A value of which nothing is gone."""
    return Value(array, (None,) * np.ndim(array))


def wrap(arrays: Iterable[Any], kept: Iterable[Masks]) -> list[Value]:
    """Arrays as values that hold these places."""
    return [Value(array, masks) for array, masks in zip(arrays, kept, strict=True)]


def arrays_of(values: Iterable[Value]) -> list[Any]:
    """What the values hold."""
    return [value.array for value in values]


def masks_of(values: Iterable[Value]) -> list[Masks]:
    """Which places each of the values holds."""
    return [value.kept for value in values]


def with_mask(kept: Masks, axis: int, mask: Kept | None) -> Masks:
    """The masks with another one for an axis."""
    return (*kept[:axis], mask, *kept[axis + 1 :])


def unless_all(mask: Kept | None) -> Kept | None:
    """The mask, or None where it holds everything."""
    return None if mask is None or mask.all() else mask


def count(mask: Kept | None, size: int) -> int:
    """How many places of an axis of this size are held."""
    return size if mask is None else int(np.count_nonzero(mask))


def common(masks: Iterable[Kept | None], *, whole: bool = False) -> Kept | None:
    """The mask of several axes that lie side by side; those that hold everything give way to it.

    Raises:
      NotReplayableError: if two of them hold different places, or any holds less than all where `whole` is asked for.
    """
    found = [mask for mask in masks if mask is not None]
    if not found:
        return None
    if whole or any(mask is not found[0] and not np.array_equal(mask, found[0]) for mask in found):
        held = ' and '.join(f'{np.count_nonzero(mask)} of {len(mask)}' for mask in found)
        raise NotReplayableError(f'what lies side by side keeps different channels ({held})')
    return found[0]


def align(values: Sequence[Value]) -> tuple[list[Value], Masks]:
    """Values of one shape (or scalars, or with axes of size 1) with the same places held, and which these are."""
    ranked = [value for value in values if value.kept]
    masks = tuple(common(each) for each in zip(*(value.kept for value in ranked), strict=True))
    for axis, mask in enumerate(masks):
        if mask is not None:
            values = [
                value.fit(axis, mask) if value.kept and value.sizes[axis] == len(mask) else value for value in values
            ]
    return list(values), masks


def take(array: Any, axis: int, places: Places, uniform: bool = False) -> Any:
    """Elements along an axis, by a slice where that is enough."""
    if isinstance(array, np.ndarray):
        return np.take(array, places, axis)
    start, stop, step = (0, len(places), 1) if uniform else _range(places)
    if step > 0:
        return jax.lax.slice_in_dim(array, start, stop, step, axis)
    rising = bool(np.all(np.diff(places) > 0))
    return jnp.take(array, places, axis, mode='clip', unique_indices=rising, indices_are_sorted=rising)


def spread(array: Any, axis: int, mask: Kept) -> Any:
    """The original size along an axis again, with zeros where nothing is held."""
    shape = (*np.shape(array)[:axis], len(mask), *np.shape(array)[axis + 1 :])
    index = (*(slice(None),) * axis, np.flatnonzero(mask))
    return jnp.zeros(shape, array.dtype).at[index].set(array, unique_indices=True, indices_are_sorted=True)


def _range(places: Places) -> tuple[int, int, int]:
    """First, end and step of evenly spaced places; a step of 0 where they are not."""
    if len(places) < 2:
        start = int(places[0]) if len(places) else 0
        return start, start + len(places), 1
    steps = np.diff(places)
    step = int(steps[0]) if steps[0] > 0 and (steps == steps[0]).all() else 0
    return int(places[0]), int(places[-1]) + 1, step
