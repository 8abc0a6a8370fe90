"""The leaves of the variables and the numbering of their elements."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxprune.errors import UserError
from jaxprune.graph._types import Path
from jaxprune.graph._values import NONE, Axis, Ids, Value


@dataclasses.dataclass(frozen=True, eq=False)
class Leaves:
    """Every axis of every leaf has a number, every element of every axis an id.

    Attributes:
      paths: of the leaves, the collection included.
      shapes: of the leaves.
      modules: `paths` without the collection.
      axis_leaf, axis_place: per numbered axis, its leaf and which axis of the leaf it is.
      starts: per numbered axis, the id of its first element.
      axis_of: per id, the number of its axis.
    """

    paths: tuple[Path, ...]
    shapes: tuple[tuple[int, ...], ...]
    modules: tuple[Path, ...]
    axis_leaf: Int[np.ndarray, 'axes']
    axis_place: Int[np.ndarray, 'axes']
    starts: Int[np.ndarray, 'axes']
    axis_of: Int[np.ndarray, 'ids']

    def leaf_of(self, ids: Ids) -> Ids:
        """Number of the leaf on which each id lies; NONE for NONE."""
        return np.where(ids >= 0, self.axis_leaf[self.axis_of[ids]], NONE)

    def place_of(self, ids: Ids) -> Ids:
        """Index of each id on its axis; NONE for NONE."""
        return np.where(ids >= 0, ids - self.starts[self.axis_of[ids]], NONE)

    def values(self) -> list[Value]:
        """The leaves as the program meets them."""
        values, number = [], 0
        for shape in self.shapes:
            starts = self.starts[number : number + len(shape)]
            spans = [np.arange(start, start + size) for start, size in zip(starts, shape, strict=True)]
            values.append(Value(tuple(Axis(len(ids), ids, origin=ids) for ids in spans), data=False))
            number += len(shape)
        return values


def number(variables: Any) -> Leaves:
    """Numbers the elements of a pytree of arrays or `jax.ShapeDtypeStruct`."""
    found, _ = jax.tree_util.tree_flatten_with_path(variables)
    if not found:
        raise UserError('the variables are empty: give the pytree that the function reads its parameters from')
    paths = tuple(tuple(_key(entry) for entry in path) for path, _ in found)
    shapes = tuple(tuple(int(size) for size in np.shape(leaf)) for _, leaf in found)
    skip = 1 if isinstance(variables, Mapping) and 'params' in variables else 0
    sizes = np.array([size for shape in shapes for size in shape], int)
    return Leaves(
        paths,
        shapes,
        tuple(path[skip:] for path in paths),
        axis_leaf=np.repeat(np.arange(len(shapes)), [len(shape) for shape in shapes]),
        axis_place=np.array([place for shape in shapes for place in range(len(shape))], int),
        starts=np.cumsum(sizes) - sizes,
        axis_of=np.repeat(np.arange(len(sizes)), sizes),
    )


def _key(entry: Any) -> str:
    for attribute in ('key', 'name', 'idx'):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def longest_prefix(path: Path, prefixes: Sequence[Path]) -> int:
    """Index of the longest of `prefixes` that `path` starts with; NONE if there is none."""
    fitting = [(len(prefix), index) for index, prefix in enumerate(prefixes) if path[: len(prefix)] == prefix]
    return max(fitting, default=(0, NONE))[1]
