"""Criteria: how important each channel of a group is. Low scores go first.

Scores are fp32, also of half-precision variables. Sums are accumulated in fp64 and rounded once, so that a score
depends neither on the order of summation nor on whether removed input channels are zero or cut out. Among equal scores
the channel of lower index is removed first.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group, Slot
from jaxprune.pruning._layers import lowest_layer

Variables = Mapping[str, Any]
Scores = Float32[np.ndarray, 'channels']


class Criterion(Protocol):
    """`(graph, group, variables, *, seed) -> scores`, one per channel of the group."""

    def __call__(self, graph: Graph, group: Group, variables: Variables, *, seed: int) -> Scores: ...


CRITERIA: dict[str, Criterion] = {}
"""Every criterion by the name that users give."""


def register(name: str) -> Callable[[Criterion], Criterion]:
    """Adds a criterion under a name that is still free."""

    def add(criterion: Criterion) -> Criterion:
        if name in CRITERIA:
            raise ValueError(f'criterion {name!r} is registered already')
        CRITERIA[name] = criterion
        return criterion

    return add


def score(name: str, graph: Graph, group: Group, variables: Variables, seed: int = 0) -> Scores:
    """Scores of a group's channels by the criterion called `name`.

    Raises:
      UserError: for an unknown criterion, a model without what the criterion looks at, or scores that are not finite.
    """
    if name not in CRITERIA:
        raise UserError(f'criterion {name!r} does not exist: give one of {", ".join(CRITERIA)}')
    scores = CRITERIA[name](graph, group, variables, seed=seed)
    if not np.all(np.isfinite(scores)):
        raise UserError(f'layer {group.layers[0]} has weights that are not finite: it cannot be ranked by {name!r}')
    return scores


@register('l2')
def l2(graph: Graph, group: Group, variables: Variables, *, seed: int = 0) -> Scores:
    """L2 norm of each filter, summed over all kernels that produce the channel (both branches of a RepConv).

    Source: Li et al., Pruning Filters for Efficient ConvNets (2017), section 3.1, with the other norm.
    """
    return _sum_over_kernels(group, variables, lambda filters: np.sqrt(np.sum(np.square(filters), axis=1)))


@register('l1')
def l1(graph: Graph, group: Group, variables: Variables, *, seed: int = 0) -> Scores:
    """L1 norm of each filter, summed over all kernels that produce the channel.

    Source: Li et al., Pruning Filters for Efficient ConvNets (2017), section 3.1.
    """
    return _sum_over_kernels(group, variables, lambda filters: np.sum(np.abs(filters), axis=1))


@register('l2-largest')
def l2_largest(graph: Graph, group: Group, variables: Variables, *, seed: int = 0) -> Scores:
    """`l2` the other way round: the largest filters go. A control for experiments."""
    return -l2(graph, group, variables, seed=seed)


@register('l1-largest')
def l1_largest(graph: Graph, group: Group, variables: Variables, *, seed: int = 0) -> Scores:
    """`l1` the other way round: the largest filters go. A control for experiments."""
    return -l1(graph, group, variables, seed=seed)


@register('bn')
def bn(graph: Graph, group: Group, variables: Variables, *, seed: int = 0) -> Scores:
    """|γ| of the batch normalisations that follow the kernels directly, summed over them.

    A scale counts if its slot is `along` the group, its path ends in `scale` (Flax's name of γ) and it belongs to a
    layer of the group; a normalisation that a reader does to its input does not.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (2017), section 3.

    Raises:
      UserError: where there is no batch normalisation, as in the `fused` form.
    """
    scales = [
        np.abs(_channel_rows(trees.get(variables, slot.path), slot)).sum(axis=1)
        for slot in group.slots
        if slot.role == 'along' and slot.path[-1] == 'scale' and slot.layer in group.layers
    ]
    if not scales:
        raise UserError(
            f'layer {group.layers[0]} has no batch normalisation to rank by (a fused model has none): '
            'use a training or deploy form, or the criterion l2 or l1'
        )
    return np.sum(scales, axis=0).astype(np.float32)


@register('bn-l1')
def bn_l1(graph: Graph, group: Group, variables: Variables, *, seed: int = 0) -> Scores:
    """`bn` times `l1`: the size of a filter as batch normalisation passes it on (for a RepConv, sum times sum)."""
    return bn(graph, group, variables, seed=seed) * l1(graph, group, variables, seed=seed)


@register('random')
def random(graph: Graph, group: Group, variables: Variables, *, seed: int = 0) -> Scores:
    """Uniform random numbers from the seed and the group's lowest layer index, the same on every platform."""
    if seed < 0:
        raise UserError(f'seed {seed} cannot be used: give a whole number, 0 or more')
    index = lowest_layer(graph, group).index
    return np.random.default_rng([seed, index]).random(group.channels, dtype=np.float32)


def _sum_over_kernels(group: Group, variables: Variables, norm: Callable[[np.ndarray], np.ndarray]) -> Scores:
    total = np.zeros(group.channels)
    for slot, kernel in _kernels(group, variables):
        total += norm(_channel_rows(kernel, slot))
    return total.astype(np.float32)


def _kernels(group: Group, variables: Variables) -> Iterator[tuple[Slot, Any]]:
    found = False
    for slot in group.slots:
        if slot.role == 'produce' and slot.path[0] == 'params' and len(trees.get(variables, slot.path).shape) > 1:
            found = True
            yield slot, trees.get(variables, slot.path)
    if not found:
        raise UserError(f'layer {group.layers[0]} has no kernel to rank by: use the criterion random')


def _channel_rows(leaf: Any, slot: Slot) -> np.ndarray:
    """The leaf's values by channel, fp64 `[C, values]`; a channel with k places on the axis owns all of theirs."""
    rows = np.moveaxis(np.asarray(leaf).astype(np.float64), slot.axis, 0)
    return rows[slot.indices].reshape(len(slot.indices), -1)
