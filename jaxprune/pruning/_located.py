"""Slots in the tree that an optimiser holds: the whole variables, or one collection of them."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Slot

BOXES = (('value',), ('raw_value',))
"""Last keys of a path that stand for the box around an array (NNX has them, its optimisers do not)."""


def find(tree: Any, slots: Iterable[Slot]) -> dict[trees.Path, Array]:
    """The leaves on which the slots lie, by the slots' paths; without those that the tree lacks.

    Raises:
      UserError: if it lacks all of them, or one is too small.
    """
    slots = tuple(slots)
    leaves = {path: leaf for path, leaf in trees.flatten(tree).items() if leaf is not None}
    found = {path: leaves[place] for path, place in _match(leaves, (slot.path for slot in slots)).items()}
    for slot in slots:
        if slot.path in found:
            _check(found[slot.path], slot)
    return found


def put(tree: Any, leaves: Mapping[trees.Path, Any]) -> Any:
    """The tree with other leaves at the places of the given slots' paths."""
    return trees.replace(tree, {place: leaves[path] for path, place in _match(trees.flatten(tree), leaves).items()})


def axis_mask(size: int, places: np.ndarray) -> Bool[np.ndarray, 'size']:
    """True at the places."""
    chosen = np.zeros(size, bool)
    chosen[places.ravel()] = True
    return chosen


def zero(leaf: Array, axes: Mapping[int, Bool[np.ndarray, 'size']]) -> Array:
    """The leaf with zeros where any axis does not stay; one vector per axis, never an array of the leaf's shape."""
    for axis, stays in axes.items():
        beside = [other for other in range(leaf.ndim) if other != axis]
        leaf = jnp.where(jnp.expand_dims(stays, beside), leaf, jnp.zeros((), leaf.dtype))
    return leaf


def bare(path: trees.Path) -> trees.Path:
    """The path without the box around an array."""
    return path[:-1] if path[-1:] in BOXES and len(path) > 1 else path


def _match(places: Iterable[trees.Path], wanted: Iterable[trees.Path]) -> dict[trees.Path, trees.Path]:
    """Slot's path -> path in the tree: the same, or, if none is there, without the collection that fits best."""
    there, wanted = {bare(place): place for place in places}, tuple(dict.fromkeys(wanted))
    if whole := {path: there[bare(path)] for path in wanted if bare(path) in there}:
        return whole
    inner: dict[str, dict[trees.Path, trees.Path]] = collections.defaultdict(dict)
    for path in wanted:
        if bare(path)[1:] in there:
            inner[path[0]][path] = there[bare(path)[1:]]
    if wanted and not inner:
        have = '/'.join(min(there)) if there else 'none'
        raise UserError(
            f'the tree holds no parameter of the traced model: it has paths such as {have}, the model has '
            f'{"/".join(wanted[0])}; give the variables that were traced, or one collection of them'
        )
    return max(inner.values(), key=len, default={})


def _check(leaf: Any, slot: Slot) -> None:
    if not slot.fits(jnp.shape(leaf)):
        needs = f'{int(slot.indices.max()) + 1} or more' if slot.size is None else f'{slot.size}'
        raise UserError(
            f'the tree does not belong to the traced model: {"/".join(slot.path)} has shape {jnp.shape(leaf)}, '
            f'but axis {slot.axis} needs {needs}'
        )
