"""Applying a plan: masks keep every shape, slices change them, and both compute the same function.

A mask sets to zero where a removed channel is *read*: that removes it exactly, whatever lies between producer and
reader, as long as channels stay apart there. A slice cuts out every place where the channel is stored or read.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group, Slot
from jaxprune.pruning._layers import find_layer, lowest_layer, prunable_group
from jaxprune.pruning._plan import Plan, PlanLayer

Variables = Mapping[str, Any]
Cuts = dict[trees.Path, dict[int, Bool[np.ndarray, 'size']]]
"""Path -> axis -> which places on it stay."""


class Resizable(Protocol):
    """What a model's spec offers so that it can follow a slice."""

    def resize(self, widths: Mapping[str, int]) -> Self:
        """The same architecture with other channel counts for the layers named in `widths`."""


def resolve(graph: Graph, plan: Plan) -> Plan:
    """The plan with every group under its lowest layer, checked against the model.

    Raises:
      UserError: for a layer that the model lacks, that cannot be pruned or has another width, and for two entries that
        stand for one group.
    """
    return Plan(tuple(_resolve_layer(graph, layer) for layer in plan.layers))


def _resolve_layer(graph: Graph, layer: PlanLayer) -> PlanLayer:
    found = find_layer(graph, layer.name)
    if found.index != layer.index:
        raise UserError(
            f'plan is for another model: layer {layer.name} has index {found.index} here, {layer.index} there'
        )
    group = prunable_group(graph, found)
    if group.channels != layer.channels:
        raise UserError(
            f'layer {layer.index} ({layer.name}) has {group.channels} channels, but the plan is for {layer.channels}'
        )
    lowest = lowest_layer(graph, group)
    return PlanLayer(lowest.index, lowest.name, layer.channels, layer.keep)


def mask(variables: Variables, graph: Graph, plan: Plan) -> dict[str, Any]:
    """Variables of the same shapes in which nothing reads a removed channel.

    Args:
      variables: of the model; arrays of NumPy or JAX, or tracers.
      graph: its connectivity.
      plan: what to remove.

    Raises:
      UserError: if plan, graph and variables do not fit together.
    """
    flat = trees.flatten(variables)
    cuts = _cuts(flat, graph, plan, {'read'})
    return trees.unflatten({**flat, **{path: _blank(flat[path], axes) for path, axes in cuts.items()}})


def slice_variables(variables: Variables, graph: Graph, plan: Plan) -> dict[str, Any]:
    """Smaller variables without the removed channels; one gather per leaf.

    Collections that are absent (such as `batch_stats` of a tree of gradients) stay absent; leaves may also be
    `jax.ShapeDtypeStruct`, of which only the shape changes.

    Args:
      variables: of the model, or a tree that mirrors them.
      graph: its connectivity.
      plan: what to remove.

    Raises:
      UserError: if plan, graph and variables do not fit together.
    """
    flat = trees.flatten(variables)
    cuts = _cuts(flat, graph, plan, {'produce', 'along', 'read'})
    return trees.unflatten({**flat, **{path: _gather(flat[path], axes) for path, axes in cuts.items()}})


def read_masks(graph: Graph, plan: Plan) -> dict[str, Float32[np.ndarray, 'inputs']]:
    """For every layer that reads a removed channel, the factors (0 or 1) of its input channels.

    Multiplying what a layer reads by them is the same as `mask`; a stack of them is a batch of candidates.
    """
    masks: dict[str, np.ndarray] = {}
    widths = _input_widths(graph)
    for group, kept in _groups(graph, resolve(graph, plan)):
        for slot in _slots(group, {'read'}):
            factors = masks.setdefault(slot.layer, np.ones(widths[slot.layer], np.float32))
            factors[slot.indices[~kept].ravel()] = 0
    return masks


def widths(graph: Graph, plan: Plan) -> dict[str, int]:
    """Layer name -> channels after slicing, for every layer of every group that the plan names."""
    found: dict[str, int] = {}
    before = {layer.name: layer.channels for layer in graph.layers}
    for group, kept in _groups(graph, resolve(graph, plan)):
        removed = int(np.count_nonzero(~kept))
        for name in group.layers:
            own = [slot.indices.shape[1] for slot in _slots(group, {'produce', 'along'}) if slot.layer == name]
            found[name] = found.get(name, before[name]) - removed * max(own, default=1)
    return found


def planned_parameters(variables: Variables, graph: Graph, plan: Plan) -> int:
    """Number of stored parameters (the collection `params`) after slicing, without slicing."""
    flat = {path: leaf for path, leaf in trees.flatten(variables).items() if path[0] == 'params'}
    cuts = _cuts(flat, graph, plan, {'produce', 'along', 'read'})
    return sum(math.prod(_shape_after(leaf.shape, cuts.get(path, {}))) for path, leaf in flat.items())


def _groups(graph: Graph, plan: Plan) -> Iterator[tuple[Group, Bool[np.ndarray, 'channels']]]:
    for layer in plan.layers:
        kept = np.zeros(layer.channels, bool)
        kept[list(layer.keep)] = True
        yield graph.group_of(layer.name), kept


def _slots(group: Group, roles: set[str]) -> Iterator[Slot]:
    return (slot for slot in group.slots if slot.role in roles)


def _input_widths(graph: Graph) -> dict[str, int]:
    """Input channels of every reading layer, as far as they come from other layers."""
    found: dict[str, int] = {}
    for group in graph.groups:
        for slot in _slots(group, {'read'}):
            found[slot.layer] = max(found.get(slot.layer, 0), int(slot.indices.max()) + 1)
    return found


def _cuts(flat: Mapping[trees.Path, Any], graph: Graph, plan: Plan, roles: set[str]) -> Cuts:
    cuts: Cuts = {}
    collections = {path[0] for path in flat}
    for group, kept in _groups(graph, resolve(graph, plan)):
        for slot in _slots(group, roles):
            if slot.path[0] not in collections:
                continue
            size = _axis_size(flat, slot)
            stays = cuts.setdefault(slot.path, {}).setdefault(slot.axis, np.ones(size, bool))
            stays[slot.indices[~kept].ravel()] = False
    return cuts


def _axis_size(flat: Mapping[trees.Path, Any], slot: Slot) -> int:
    leaf = flat.get(slot.path)
    size = 0 if leaf is None else int(leaf.shape[slot.axis])
    if int(slot.indices.max()) >= size:
        have = 'are missing' if leaf is None else f'have {size} channels on axis {slot.axis}'
        raise UserError(
            f'variables do not belong to this model: {"/".join(slot.path)} {have}, '
            f'the model needs {int(slot.indices.max()) + 1} or more'
        )
    return size


def _shape_after(shape: tuple[int, ...], axes: Mapping[int, np.ndarray]) -> tuple[int, ...]:
    return tuple(int(np.count_nonzero(axes[axis])) if axis in axes else size for axis, size in enumerate(shape))


def _blank(leaf: Any, axes: Mapping[int, np.ndarray]) -> Any:
    stays = np.ones((1,) * len(leaf.shape), bool)
    for axis, kept in axes.items():
        stays = stays & np.expand_dims(kept, [other for other in range(len(leaf.shape)) if other != axis])
    if isinstance(leaf, jax.core.Tracer):
        return jnp.where(jnp.broadcast_to(stays, leaf.shape), leaf, jnp.zeros_like(leaf))
    return _on_host(leaf, lambda array: np.where(stays, array, np.zeros((), array.dtype)))


def _gather(leaf: Any, axes: Mapping[int, np.ndarray]) -> Any:
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
