"""Applying a plan: masks keep every shape, slices change them, and both compute the same function.

A mask sets to zero where a removed channel is *read*: that removes it exactly, whatever lies between producer and
reader, as long as channels stay apart there. Where a reader has no parameters, the graph says which other places are
zeroed instead. A slice cuts out every place where the channel is stored or read.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group, Slot
from jaxprune.pruning._plan import Plan

Variables = Any
"""A pytree of arrays (NumPy, JAX, tracers or `jax.ShapeDtypeStruct`); leaves of other kinds stay as they are."""
Stays = Bool[np.ndarray, 'size']
Cuts = dict[trees.Path, dict[int, Stays]]
"""Path -> axis -> which places on it stay."""


class Resizable(Protocol):
    """What a model's spec offers so that it can follow a slice."""

    def resize(self, widths: Mapping[str, int]) -> Self:
        """The same architecture with other channel counts for the layers named in `widths`."""


def mask(variables: Variables, plan: Plan) -> Any:
    """Variables of the same shapes, without the influence of a removed channel.

    Args:
      variables: of the model, or a pytree that mirrors them.
      plan: what to remove; bound to the model's graph.

    Returns:
      A pytree of the same type, with zeros where a removed channel is read (or, see `Slot.masked`, produced).

    Raises:
      UserError: if the plan is not bound, or it and the variables do not fit together.
    """
    return trees.replace(variables, mask_leaves(trees.flatten(variables), plan))


def mask_leaves(flat: Mapping[trees.Path, Any], plan: Plan) -> dict[trees.Path, Any]:
    """Those leaves of flattened variables that a mask changes; see `mask`."""
    cuts = _cuts(flat, plan, lambda slot: slot.masked)
    return {path: _blank(flat[path], axes) for path, axes in cuts.items()}


def slice_variables(variables: Variables, plan: Plan) -> Any:
    """Smaller variables without the removed channels; one gather per leaf.

    Whole collections that are absent (such as `batch_stats` of a tree of gradients) stay absent, and so do leaves that
    are None or, beside kernels, missing; of a `jax.ShapeDtypeStruct` only the shape changes.

    Args:
      variables: of the model, or a pytree that mirrors them.
      plan: what to remove; bound to the model's graph.

    Returns:
      A pytree of the same type.

    Raises:
      UserError: if the plan is not bound, or it and the variables do not fit together.
    """
    flat = trees.flatten(variables)
    cuts = _cuts(flat, plan)
    return trees.replace(variables, {path: _gather(flat[path], axes) for path, axes in cuts.items()})


def widths(plan: Plan) -> dict[str, int]:
    """Layer name -> channels after slicing, for every layer of every group that the plan names."""
    before = {layer.name: layer.channels for layer in bound_graph(plan).layers}
    gone: dict[str, dict[tuple[trees.Path, int], set[int]]] = {}
    for group, kept in _groups(plan):
        for name in group.layers:
            own = [slot for slot in group.slots if slot.layer == name and slot.role != 'read']
            places = gone.setdefault(name, {})
            for path, axis, indices in [(slot.path, slot.axis, slot.indices) for slot in own] or [
                ((), 0, np.arange(group.channels))
            ]:
                places.setdefault((path, axis), set()).update(indices[~kept].ravel().tolist())
    return {name: before[name] - max(map(len, places.values())) for name, places in gone.items()}


def planned_parameters(variables: Variables, plan: Plan) -> int:
    """Number of stored parameters after slicing, without slicing: of the collection `params` if there is one."""
    flat = trees.flatten(variables)
    if any(path[0] == 'params' for path in flat):
        flat = {path: leaf for path, leaf in flat.items() if path[0] == 'params'}
    cuts = _cuts(flat, plan)
    shapes = {path: tuple(leaf.shape) for path, leaf in flat.items() if hasattr(leaf, 'shape')}
    return sum(math.prod(_shape_after(shape, cuts.get(path, {}))) for path, shape in shapes.items())


def bound_graph(plan: Plan) -> Graph:
    """The graph of the plan; a `UserError` where it has none."""
    if not isinstance(plan, Plan):
        raise UserError(f'a plan is needed, and this is a {type(plan).__name__}: give what select_channels returned')
    if plan.graph is None:
        raise UserError('the plan is not bound to a model: give plan.on(graph)')
    return plan.graph


def _groups(plan: Plan) -> Iterator[tuple[Group, Bool[np.ndarray, 'channels']]]:
    groups = {group.name: group for group in bound_graph(plan).groups}
    for layer in plan.layers:
        kept = np.zeros(layer.channels, bool)
        kept[list(layer.keep)] = True
        yield groups[layer.name], kept


def _cuts(flat: Mapping[trees.Path, Any], plan: Plan, wanted: Callable[[Slot], bool] = lambda slot: True) -> Cuts:
    cuts: Cuts = {}
    collections = {path[0] for path in flat if path}
    _check_related(flat, collections, bound_graph(plan))
    for group, kept in _groups(plan):
        for slot in group.slots:
            if not wanted(slot) or slot.path[0] not in collections or _absent(flat, slot):
                continue
            size = _axis_size(flat, slot)
            stays = cuts.setdefault(slot.path, {}).setdefault(slot.axis, np.ones(size, bool))
            stays[slot.indices[~kept].ravel()] = False
    return cuts


def _check_related(flat: Mapping[trees.Path, Any], collections: Collection[str], graph: Graph) -> None:
    """A `UserError` for variables that have nothing in common with the graph."""
    known = {slot.path[0]: slot.path for group in graph.groups for slot in group.slots if slot.path}
    if flat and known and known.keys().isdisjoint(collections):
        have, want = ('/'.join(path) or 'a single leaf' for path in (min(flat), min(known.values())))
        raise UserError(f'variables do not belong to this model: they hold {have}, the model {want}')


def _absent(flat: Mapping[trees.Path, Any], slot: Slot) -> bool:
    """Whether a part of the variables lacks this leaf for a good reason: as statistics have no gradients."""
    return flat.get(slot.path, None if slot.role == 'along' else slot) is None


def _axis_size(flat: Mapping[trees.Path, Any], slot: Slot) -> int:
    shape = getattr(flat.get(slot.path), 'shape', ())
    if not slot.fits(shape):
        size = int(shape[slot.axis]) if slot.axis < len(shape) else 0
        have = f'have {size} channels on axis {slot.axis}' if slot.path in flat else 'are missing'
        needs = f'{int(slot.indices.max()) + 1} or more' if slot.size is None else f'{slot.size}'
        raise UserError(f'variables do not belong to this model: {"/".join(slot.path)} {have}, the model needs {needs}')
    return int(shape[slot.axis])


def _shape_after(shape: tuple[int, ...], axes: Mapping[int, Stays]) -> tuple[int, ...]:
    return tuple(int(np.count_nonzero(axes[axis])) if axis in axes else size for axis, size in enumerate(shape))


def _blank(leaf: Any, axes: Mapping[int, Stays]) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    stays = np.ones((1,) * len(leaf.shape), bool)
    for axis, kept in axes.items():
        stays = stays & np.expand_dims(kept, [other for other in range(len(leaf.shape)) if other != axis])
    if isinstance(leaf, jax.core.Tracer):
        return jnp.where(jnp.broadcast_to(stays, leaf.shape), leaf, jnp.zeros_like(leaf))
    return _on_host(leaf, lambda array: np.where(stays, array, np.zeros((), array.dtype)))


def _gather(leaf: Any, axes: Mapping[int, Stays]) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(_shape_after(leaf.shape, axes), leaf.dtype)
    places = np.ix_(*(np.flatnonzero(axes.get(axis, np.ones(size, bool))) for axis, size in enumerate(leaf.shape)))
    if isinstance(leaf, jax.core.Tracer):
        return leaf[places]
    return _on_host(leaf, lambda array: array[places])


def _on_host(leaf: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """The change made by NumPy: eagerly JAX would compile a program for every shape."""
    changed = change(np.asarray(leaf))
    return jnp.asarray(changed) if isinstance(leaf, jax.Array) else changed
