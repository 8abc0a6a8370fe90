"""Criteria that look at nothing but the variables."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Group, Slot
from jaxprune.pruning._criteria_registry import Registered, Rows, add_registered, register
from jaxprune.pruning._evidence import Evidence
from jaxprune.pruning._layers import lowest_layer

SCALES = ('scale', 'weight', 'gamma')
"""What a normalisation's factor γ is called: by Flax, by Equinox (and PyTorch), and by many papers."""
STATISTICS = ('mean', 'var', 'running_mean', 'running_var', 'moving_mean', 'moving_variance')
"""What a batch normalisation's statistics are called."""


@register('l2')
def l2(group: Group, evidence: Evidence) -> Rows:
    """L2 norm of each filter, per kernel that produces the channel (both branches of a RepConv).

    Source: Li et al., Pruning Filters for Efficient ConvNets (2017), section 3.1, with the other norm.
    """
    return np.stack([np.sqrt(np.sum(np.square(filters), axis=1)) for filters in evidence.kernels(group)])


@register('l1')
def l1(group: Group, evidence: Evidence) -> Rows:
    """L1 norm of each filter, per kernel that produces the channel.

    Source: Li et al., Pruning Filters for Efficient ConvNets (2017), section 3.1.
    """
    return np.stack([np.sum(np.abs(filters), axis=1) for filters in evidence.kernels(group)])


# The other way round: the largest filters go. Controls for experiments.
add_registered('l2-largest', Registered((l2,), largest_first=True))
add_registered('l1-largest', Registered((l1,), largest_first=True))


@register('bn')
def bn(group: Group, evidence: Evidence) -> Rows:
    """|γ| of the normalisations of the group's channels, per normalisation.

    A scale is a leaf beside the channels (one value for each place of them) that is called `scale`, `weight` or
    `gamma` and belongs to a layer of the group, or to no layer; one that belongs to another layer, which normalises
    what it reads, does not count. Where some of them stand in a module that holds running statistics as well, in
    whatever collection, that is batch normalisation, and only those count; else all do (instance and group norm,
    Equinox's batch norm, whose statistics are elsewhere). Biases are never taken: where no leaf has such a name,
    nothing is guessed.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (2017), section 3.

    Raises:
      UserError: where there is no normalisation, as in a fused model, or its scale has another name.
    """
    beside = [slot for slot in group.slots if slot.role == 'along']
    vectors = [slot for slot in beside if slot.layer in group.layers and _is_vector(evidence, slot)]
    named = [slot for slot in vectors if _key(slot.path) in SCALES]
    if not named:
        raise UserError(_no_scale(group, vectors))
    normalised = {_module(slot.path) for slot in beside if _key(slot.path) in STATISTICS}
    chosen = [slot for slot in named if _module(slot.path) in normalised] or named
    return np.stack([np.abs(evidence.rows(slot)).sum(axis=1) for slot in chosen])


# The size of a filter as batch normalisation passes it on; members are combined first (for a RepConv, sum times sum).
add_registered('bn-l1', Registered((bn, l1)))


@register('lamp')
def lamp(group: Group, evidence: Evidence) -> Rows:
    """Squared norm of each filter over the sum of those of all filters of the kernel that are not smaller.

    The largest filter of every kernel has 1, so that scores of different layers can be compared and no layer loses all
    of its channels. The paper scores single weights; here a filter stands for a weight.

    Source: Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning (2021), section 3, the LAMP score.
    """
    return np.stack([_share_of_larger(np.sum(np.square(filters), axis=1)) for filters in evidence.kernels(group)])


def _share_of_larger(values: Float64[np.ndarray, 'channels']) -> Float64[np.ndarray, 'channels']:
    ascending = np.sort(values)
    sums = np.cumsum(ascending[::-1])[::-1]
    larger = sums[np.searchsorted(ascending, values)]  # equal ones share the place of the first of them
    return np.divide(values, larger, out=np.zeros_like(values), where=larger != 0)


@register('fpgm')
def fpgm(group: Group, evidence: Evidence) -> Rows:
    """Sum of the Euclidean distances of each filter to all others of its kernel: the most replaceable ones go first.

    Source: He et al., Filter Pruning via Geometric Median (2019), section 3.3.
    """
    return np.stack([_distances(filters) for filters in evidence.kernels(group)])


def _distances(points: Float64[np.ndarray, 'channels values']) -> Float64[np.ndarray, 'channels']:
    """By the Gram matrix, of centred points: distances stay, and less of their squares cancels."""
    centred = points - points.mean(axis=0)
    squares = np.sum(np.square(centred), axis=1)
    squared = squares[:, None] + squares[None] - 2 * (centred @ centred.T)
    np.fill_diagonal(squared, 0)
    return np.sqrt(np.maximum(squared, 0)).sum(axis=1)


@register('random')
def random(group: Group, evidence: Evidence) -> Rows:
    """Uniform random numbers from the seed and the group's lowest layer index, the same on every platform.

    A control for experiments. Of several groups of one layer, the later ones have numbers of their own.
    """
    if not isinstance(evidence.seed, int | np.integer) or evidence.seed < 0:
        raise UserError(f'seed {evidence.seed} cannot be used: give a whole number, 0 or more')
    index = lowest_layer(evidence.graph, group).index
    earlier = [other for other in evidence.graph.groups if other.index < group.index]
    place = sum(lowest_layer(evidence.graph, other).index == index for other in earlier)
    generator = np.random.default_rng([evidence.seed, index, *([place] if place else [])])
    return generator.random((1, group.channels), dtype=np.float32).astype(np.float64)


def _is_vector(evidence: Evidence, slot: Slot) -> bool:
    shape = evidence.leaf(slot.path).shape
    return math.prod(shape) == shape[slot.axis]


def _names(path: trees.Path) -> trees.Path:
    """The path without the attribute in which an NNX variable holds its array."""
    return path[:-1] if path[-1] in ('value', 'raw_value') and len(path) > 1 else path


def _key(path: trees.Path) -> str:
    return _names(path)[-1]


def _module(path: trees.Path) -> trees.Path:
    """Path of the module that owns a leaf, without Linen's collection."""
    names = _names(path)
    return names[1:-1] if names[0] in ('params', 'batch_stats') else names[:-1]


def _no_scale(group: Group, vectors: Sequence[Slot]) -> str:
    others = sorted({_key(slot.path) for slot in vectors})
    found = f'; beside its channels are only {", ".join(others)}' if others else ''
    return (
        f'layer {group.layers[0]} has no batch normalisation to rank by (a fused model has none){found}: '
        f'call its scale one of {", ".join(SCALES)}, or use the criterion l2 or l1'
    )
