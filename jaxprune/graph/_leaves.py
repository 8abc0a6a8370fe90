"""The leaves of the variables and the numbering of their elements."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from jaxprune.errors import UserError
from jaxprune.graph._types import Path
from jaxprune.graph._values import NONE, Axis, Ids, Value

_WRAPPERS = ('value', 'raw_value')


@dataclasses.dataclass(frozen=True, eq=False)
class Leaves:
    """Every axis of every leaf has a number, every element of every axis an id.

    Attributes:
      paths: of the leaves, the collection included.
      shapes: of the leaves.
      modules: `paths` without the collection.
      axis_leaf, axis_place: per numbered axis, its leaf and which axis of the leaf it is.
      trained: per leaf, whether it is in the collection of parameters (or there are no collections).
      starts: per numbered axis, the id of its first element.
      sizes: per numbered axis, its length.
      axis_of: per id, the number of its axis.
    """

    paths: tuple[Path, ...]
    shapes: tuple[tuple[int, ...], ...]
    modules: tuple[Path, ...]
    trained: tuple[bool, ...]
    axis_leaf: Int[np.ndarray, 'axes']
    axis_place: Int[np.ndarray, 'axes']
    starts: Int[np.ndarray, 'axes']
    sizes: Int[np.ndarray, 'axes']
    axis_of: Int[np.ndarray, 'ids']

    def leaf_of(self, ids: Ids) -> Ids:
        """Number of the leaf on which each id lies; NONE for NONE."""
        return np.where(ids >= 0, self.axis_leaf[self.axis_of[ids]], NONE)

    def place_of(self, ids: Ids) -> Ids:
        """Index of each id on its axis; NONE for NONE."""
        return np.where(ids >= 0, ids - self.starts[self.axis_of[ids]], NONE)

    def axis_ids(self, path: Path, axis: int) -> Ids:
        """Ids of the elements on one axis of the leaf at a path."""
        number = self.first_axis[path] + axis
        return np.arange(self.starts[number], self.starts[number] + self.sizes[number])

    @functools.cached_property
    def first_axis(self) -> Mapping[Path, int]:
        """Path of a leaf -> number of its first axis."""
        firsts = np.cumsum([0, *(len(shape) for shape in self.shapes)])
        return dict(zip(self.paths, firsts.tolist(), strict=False))

    def values(self, kept: Bool[np.ndarray, 'ids'] | None = None) -> list[Value]:
        """The leaves as the program meets them, all of their elements or those that are kept."""
        values = []
        for path, shape in zip(self.paths, self.shapes, strict=True):
            spans = [self.axis_ids(path, place) for place in range(len(shape))]
            spans = spans if kept is None else [ids[kept[ids]] for ids in spans]
            values.append(Value(tuple(Axis(len(ids), ids, zeros=ids[None]) for ids in spans), data=False))
        return values


def number(variables: Any) -> Leaves:
    """Numbers the elements of all arrays (or `jax.ShapeDtypeStruct`) in a pytree."""
    found = [(path, leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0] if is_array(leaf)]
    if not found:
        raise UserError('the variables are empty: give the pytree that the function reads its parameters from')
    paths = tuple(tuple(_key(entry) for entry in path) for path, _ in found)
    shapes = tuple(tuple(int(size) for size in leaf.shape) for _, leaf in found)
    collections = isinstance(variables, Mapping) and 'params' in variables
    # Flax NNX wraps every array in a variable, Linen some of them in a box; their own keys say nothing.
    every = all(len(path) > 1 and path[-1] in _WRAPPERS for path in paths)
    ends = [-1 if every or _is_boxed(path) else None for path, _ in found]
    sizes = np.array([size for shape in shapes for size in shape], int)
    return Leaves(
        paths,
        shapes,
        tuple(path[1 if collections else 0 : end] for path, end in zip(paths, ends, strict=True)),
        tuple(not collections or path[0] == 'params' for path in paths),
        axis_leaf=np.repeat(np.arange(len(shapes)), [len(shape) for shape in shapes]),
        axis_place=np.array([place for shape in shapes for place in range(len(shape))], int),
        starts=np.cumsum(sizes) - sizes,
        sizes=sizes,
        axis_of=np.repeat(np.arange(len(sizes)), sizes),
    )


def is_array(leaf: Any) -> bool:
    """Whether a leaf of a pytree is an array or stands for one; all others are passed on as they are."""
    return hasattr(leaf, 'shape') and hasattr(leaf, 'dtype')


def _is_boxed(path: Sequence[Any]) -> bool:
    """Whether the last key is an attribute that holds an array in a dictionary's stead."""
    last = path[-2:]
    boxed = len(last) == 2 and isinstance(last[0], jax.tree_util.DictKey)
    return boxed and isinstance(last[1], jax.tree_util.GetAttrKey) and last[1].name in _WRAPPERS


def _key(entry: Any) -> str:
    for attribute in ('key', 'name', 'idx'):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def longest_prefixes(paths: Iterable[Path], prefixes: Sequence[Path]) -> Ids:
    """For each path the index of the longest of `prefixes` that it starts with; NONE if there is none."""
    index = {prefix: number for number, prefix in enumerate(prefixes)}
    return np.array([_longest_prefix(path, index) for path in paths], int)


def _longest_prefix(path: Path, index: Mapping[Path, int]) -> int:
    parts = (path[:length] for length in range(len(path), -1, -1))
    return next((index[part] for part in parts if part in index), NONE)
