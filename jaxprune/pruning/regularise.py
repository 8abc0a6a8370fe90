"""Training that leads to, or keeps, a pruned model: penalties over groups, and masks, for the user's own loop.

A penalty is a function of the variables that is added to the loss. The same as a change of the optimiser is an
`optax.GradientTransformation`. All of them take the tree that the optimiser holds: the whole variables, or one
collection of them (`variables['params']`); leaves that it lacks do not count. They are pure and can be jitted.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group, Slot
from jaxprune.pruning._apply import bound_graph
from jaxprune.pruning._layers import check_patterns, matches, pattern_list
from jaxprune.pruning._located import axis_mask, bare, find, put, zero
from jaxprune.pruning._plan import Plan

Penalty = Callable[[Any], Float[Array, '']]
"""From the variables (or a collection of them) to what is added to the loss."""

Removed = tuple[Slot, Int[np.ndarray, 'channels k']]
"""A slot, and the places on its axis that belong to removed channels."""

SCALES = ('scale', 'weight', 'gamma')
"""Names of the scale of a normalisation (Flax, Equinox, papers); it has one axis."""


def group_lasso(
    graph: Graph, *, strength: float, roles: Collection[str] = ('produce',), exclude: Iterable[str] = ()
) -> Penalty:
    """`strength * sum over groups and channels of sqrt(size) * norm`: drives whole channels to zero.

    The norm of a channel is the L2 norm of all its weights in the group, `size` their number, so that wide and narrow
    filters are drawn alike. It is differentiable everywhere: where a channel is zero the derivative is 0 (a
    subgradient). A gradient method only comes near zero; `proximal_group_lasso` reaches it.

    Source: Yuan and Lin, Model Selection and Estimation in Regression with Grouped Variables (2006), equation 2.1; Wen
    et al., Learning Structured Sparsity in Deep Neural Networks (2016), section 3.1; the norm across the layers of a
    group: Fang et al., DepGraph (2023), section 3.3.

    Args:
      graph: connectivity of the model.
      strength: factor, 0 or more.
      roles: of the slots whose weights count: `produce` (filters), `read` (what others make of the channel), `along`
        (biases, scales and depthwise kernels; statistics too, unless the penalty is given the collection `params`).
      exclude: patterns of names or indices of layers whose groups do not count.

    Returns:
      `penalty(variables) -> scalar`.

    Raises:
      UserError: for a negative strength, an unknown role, or where no group is left.
    """
    if unknown := set(roles) - {'produce', 'read', 'along'}:
        raise UserError(f'role {min(unknown)!r} does not exist: give produce, read or along')
    _check_strength(strength)
    blocks = _blocks(graph, set(roles), exclude)
    slots = [slot for block in blocks for slot in block]

    def penalty(variables: Any) -> Float[Array, '']:
        leaves = find(variables, slots)
        total = jnp.zeros((), _dtype(leaves.values()))
        for block in blocks:
            square, size = _squares(leaves, block, total.dtype)
            total += math.sqrt(size) * jnp.sum(_root(square))
        return strength * total

    return penalty


def proximal_group_lasso(
    graph: Graph, *, strength: float, learning_rate: optax.ScalarOrSchedule, exclude: Iterable[str] = ()
) -> optax.GradientTransformation:
    """Shrinks the filters of every channel after the step, and sets the small ones to exactly zero.

    Block soft-thresholding: a channel whose weights `w` would be after the step gets
    `w * max(0, 1 - learning_rate * strength * sqrt(size) / |w|)`. It is the last of a chain:
    `optax.chain(optax.sgd(rate), proximal_group_lasso(graph, strength=..., learning_rate=rate))`.

    After plain SGD this is the proximal gradient method for `loss + group_lasso`. After an optimiser that scales every
    weight in its own way (Adam) the threshold stays `learning_rate * strength * sqrt(size)`, apart from that scaling,
    as AdamW keeps weight decay apart. The blocks are those of `group_lasso` with its default roles. Where one kernel
    produces for two groups on the same places (heads and head size of attention), the groups are shrunk one after the
    other, which is not the operator of the sum.

    Source: Parikh and Boyd, Proximal Algorithms (2014), sections 4.2 and 6.5.4.

    Args:
      graph: connectivity of the model.
      strength: factor of the penalty, 0 or more.
      learning_rate: that of the optimiser, a number or a schedule over steps.
      exclude: patterns of names or indices of layers whose groups do not count.

    Raises:
      UserError: for a negative strength, or where no group is left.
    """
    _check_strength(strength)
    blocks = _blocks(graph, {'produce'}, exclude)
    slots = [slot for block in blocks for slot in block]

    def init(params: Any) -> optax.ScaleByScheduleState:
        find(params, slots)
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates: Any, state: optax.ScaleByScheduleState, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise UserError('proximal_group_lasso needs the parameters: call update(gradients, state, params)')
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        moved = find(optax.apply_updates(params, updates), slots)
        for block in blocks:
            moved |= _shrink(moved, block, rate * strength)
        before = find(params, slots)
        changed = {path: leaf - before[path] for path, leaf in moved.items()}
        return put(updates, changed), optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def bn_slimming(graph: Graph, *, strength: float, exclude: Iterable[str] = ()) -> Penalty:
    """`strength * sum |scale|` over the scales of batch normalisations in groups that can be pruned.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (2017), equation 1.

    Args:
      graph: connectivity of the model.
      strength: factor, 0 or more.
      exclude: patterns of names or indices of layers whose groups do not count.

    Returns:
      `penalty(variables) -> scalar`; its derivative is 0 where a scale is.

    Raises:
      UserError: for a negative strength, or where there is no such scale.
    """
    _check_strength(strength)
    slots = _scales(graph, exclude)

    def penalty(variables: Any) -> Float[Array, '']:
        places = _scale_places(variables, slots)
        total = jnp.zeros((), _dtype(leaf for leaf, _ in places.values()))
        for leaf, chosen in places.values():
            total += jnp.sum(jnp.where(chosen, jnp.abs(leaf.astype(total.dtype)), 0))
        return strength * total

    return penalty


def add_bn_slimming(graph: Graph, *, strength: float, exclude: Iterable[str] = ()) -> optax.GradientTransformation:
    """Adds the derivative of `bn_slimming`, `strength * sign(scale)`, to the gradient; the first of a chain.

    Source and arguments: as `bn_slimming`.
    """
    _check_strength(strength)
    slots = _scales(graph, exclude)

    def add(updates: Any, params: Any) -> Any:
        if params is None:
            raise UserError('add_bn_slimming needs the parameters: call update(gradients, state, params)')
        gradients = find(updates, slots)
        added = {
            path: (strength * jnp.where(chosen, jnp.sign(leaf), 0)).astype(gradients[path].dtype)
            for path, (leaf, chosen) in _scale_places(params, slots).items()
        }
        return put(updates, {path: gradients[path] + extra for path, extra in added.items()})

    return optax.stateless(add)


def masked(optimizer: optax.GradientTransformation, plan: Plan) -> optax.GradientTransformationExtraArgs:
    """Trains a masked model as if it were sliced: `masked(optax.adamw(1e-3), plan)`.

    Start from `mask(variables, plan)`. Whatever belongs to a removed channel (every slot, not only those that the mask
    sets to zero) stays as it is, and the optimiser meets zeros there, in the gradients and in the parameters. So the
    channels that stay move exactly as they would in the sliced model, also where the optimiser takes norms of whole
    leaves or of the whole tree (clipping, weight decay, LARS, LAMB). Not so where it averages over, or depends on the
    shape of, a leaf (Adafactor, Muon, `optax.clip_by_block_rms`), or draws noise.

    Args:
      optimizer: any; the outermost one is wrapped.
      plan: what is removed, bound to a graph.
    """
    inner = optax.with_extra_args_support(optimizer)
    removed = _removed(plan)

    def init(params: Any) -> Any:
        return inner.init(_blank(params, removed))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        shown = None if params is None else _blank(params, removed)
        updates, state = inner.update(_blank(updates, removed), state, shown, **extra)
        return _blank(updates, removed), state

    return optax.GradientTransformationExtraArgs(init, update)


def _check_strength(strength: float) -> None:
    if not strength >= 0:
        raise UserError(f'strength is {strength}: give 0 or more')


def _prunable(graph: Graph, exclude: Iterable[str]) -> list[Group]:
    patterns = pattern_list(exclude, 'exclude')
    check_patterns(graph, patterns)
    found = [group for group in graph.groups if not group.protected and not matches(graph, group, patterns)]
    if not found:
        raise UserError('no group is left to regularise: all are protected or excluded')
    return found


def _blocks(graph: Graph, roles: set[str], exclude: Iterable[str]) -> list[tuple[Slot, ...]]:
    """The slots of every group whose weights count."""
    blocks = [tuple(slot for slot in group.slots if slot.role in roles) for group in _prunable(graph, exclude)]
    return [block for block in blocks if block]


def _scales(graph: Graph, exclude: Iterable[str]) -> list[Slot]:
    """Slots that go by the name of a scale and belong to a layer of their group."""
    found = [
        slot
        for group in _prunable(graph, exclude)
        for slot in group.slots
        if slot.role == 'along' and slot.axis == 0 and slot.layer in group.layers and bare(slot.path)[-1] in SCALES
    ]
    if not found:
        raise UserError('no group that can be pruned has a batch normalisation: use group_lasso')
    return found


def _scale_places(tree: Any, slots: list[Slot]) -> dict[trees.Path, tuple[Array, Bool[np.ndarray, 'size']]]:
    """Per leaf with one axis: the leaf, and which of its scales belong to a slot."""
    leaves = {path: leaf for path, leaf in find(tree, slots).items() if leaf.ndim == 1}
    return {
        path: (leaf, axis_mask(leaf.size, np.concatenate([s.indices.ravel() for s in slots if s.path == path])))
        for path, leaf in leaves.items()
    }


def _dtype(leaves: Iterable[Array]) -> Any:
    """At least single precision, whatever the leaves have."""
    return jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32


def _squares(
    leaves: Mapping[trees.Path, Array], block: tuple[Slot, ...], dtype: Any
) -> tuple[Float[Array, 'channels'], int]:
    """Sum of the squares of each channel's weights, and how many weights that is."""
    total, size = jnp.zeros(len(block[0].indices), dtype), 0
    for slot in block:
        if slot.path in leaves:
            leaf = jnp.square(leaves[slot.path].astype(dtype))
            places = jnp.sum(leaf, axis=[axis for axis in range(leaf.ndim) if axis != slot.axis])
            total += jnp.sum(places[slot.indices], axis=1)
            size += slot.indices.shape[1] * (leaf.size // leaf.shape[slot.axis])
    return total, size


def _root(square: Float[Array, 'channels']) -> Float[Array, 'channels']:
    """Square root with the derivative 0 at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _shrink(leaves: Mapping[trees.Path, Array], block: tuple[Slot, ...], step: Any) -> dict[trees.Path, Array]:
    """Block soft-thresholding of one group by `step * sqrt(size)`."""
    dtype = _dtype(leaves.values())
    square, size = _squares(leaves, block, dtype)
    norm = _root(square)
    threshold = (jnp.asarray(step) * math.sqrt(size)).astype(dtype)
    factor = jnp.where(norm > threshold, 1 - threshold / jnp.where(norm > 0, norm, 1), 0)
    shrunk = dict(leaves)
    for slot in block:
        if slot.path in shrunk:
            leaf = shrunk[slot.path]
            places = (
                jnp.ones(leaf.shape[slot.axis], leaf.dtype).at[slot.indices].set(factor[:, None].astype(leaf.dtype))
            )
            shrunk[slot.path] = leaf * jnp.expand_dims(places, [axis for axis in range(leaf.ndim) if axis != slot.axis])
    return shrunk


def _removed(plan: Plan) -> list[Removed]:
    groups = {group.name: group for group in bound_graph(plan).groups}
    return [(slot, slot.indices[list(layer.removed)]) for layer in plan.layers for slot in groups[layer.name].slots]


def _blank(tree: Any, removed: list[Removed]) -> Any:
    """The tree with zeros wherever anything belongs to a removed channel."""
    leaves = find(tree, [slot for slot, _ in removed])
    axes: dict[trees.Path, dict[int, np.ndarray]] = {}
    for slot, places in removed:
        if slot.path in leaves:
            size = leaves[slot.path].shape[slot.axis]
            stays = axes.setdefault(slot.path, {}).setdefault(slot.axis, np.ones(size, bool))
            stays &= ~axis_mask(size, places)
    return put(tree, {path: zero(leaves[path], cuts) for path, cuts in axes.items()})
