"""Flax modules of the operations that a spec can name; images and activations are NHWC."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxprune.errors import UserError
from jaxprune.models import backward
from jaxprune.models import spec as specs

Activation = Callable[[Array], Array]
_MOMENTUM = 0.97  # PyTorch YOLOv7 counts the other way round: 0.03
_ACTIVATIONS: dict[str, Activation] = {
    'silu': nn.silu,
    'relu': nn.relu,
    'relu6': nn.relu6,
    'hardswish': nn.hard_swish,
    'identity': lambda x: x,
}


def activation(name: str) -> Activation:
    """The function that a spec calls `name`; a slope follows a colon, as in `leaky_relu:0.1`."""
    kind, _, slope = name.partition(':')
    if kind == 'leaky_relu':
        with contextlib.suppress(ValueError):
            if math.isfinite(negative_slope := float(slope or 0.01)):
                return functools.partial(nn.leaky_relu, negative_slope=negative_slope)
    if name not in _ACTIVATIONS:
        raise UserError(f'activation {name!r} is not one of leaky_relu:SLOPE, {", ".join(_ACTIVATIONS)}')
    return _ACTIVATIONS[name]


def _batch_norm(epsilon: float, train: bool, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=_MOMENTUM, epsilon=epsilon, name=name)


class Conv(nn.Module):
    """`spec.Conv`: submodules `conv` and, where `epsilon` is given, `bn` in place of the bias."""

    node: specs.Conv

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """The activation of the normalised convolution."""
        node = self.node
        x = nn.Conv(
            features=node.channels,
            kernel_size=node.kernel,
            strides=node.stride,
            padding=[(pad, pad) for pad in node.padding],
            kernel_dilation=node.dilation,
            feature_group_count=node.groups,
            use_bias=node.epsilon is None,
            conv_general_dilated=backward.conv if train else None,
            name='conv',
        )(x)
        if node.epsilon is not None:
            x = _batch_norm(node.epsilon, train, 'bn')(x)
        return activation(node.activation)(x)


class RepConv(nn.Module):
    """`spec.RepConv`: branches `dense` (3×3), `pointwise` (1×1) and, where the spec says so, `identity`."""

    node: specs.RepConv

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """The activation of the sum of the branches."""
        dense, pointwise = branches(self.node)
        total = Conv(dense, name='dense')(x, train=train) + Conv(pointwise, name='pointwise')(x, train=train)
        if self.node.identity:
            total += _batch_norm(self.node.epsilon, train, 'identity')(x)
        return activation(self.node.activation)(total)


def branches(node: specs.RepConv) -> tuple[specs.Conv, specs.Conv]:
    """The two convolutions of a RepConv, as nodes of their own."""
    dense = specs.Conv(
        name='dense',
        pytorch_name=f'{node.pytorch_name}.rbr_dense',
        inputs=node.inputs,
        channels=node.channels,
        kernel=(3, 3),
        stride=node.stride,
        padding=(1, 1),
        epsilon=node.epsilon,
    )
    pointwise = dataclasses.replace(
        dense, name='pointwise', pytorch_name=f'{node.pytorch_name}.rbr_1x1', kernel=(1, 1), padding=(0, 0)
    )
    return dense, pointwise


class Head(nn.Module):
    """`spec.Head`: raw predictions `[b, h, w, anchors, 5 + classes]`, before the sigmoid."""

    node: specs.Head
    anchors: int

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w a p']:
        """Raw predictions."""
        node = self.node
        if node.implicit:
            x = x + self.param('implicit_add', nn.initializers.zeros, (x.shape[-1],))[None, None, None, :]
        x = nn.Conv(node.channels, (1, 1), name='conv')(x)
        if node.implicit:
            multiply = self.param('implicit_multiply', nn.initializers.ones, (node.channels,))
            x = x * multiply[None, None, None, :]
        return x.reshape(*x.shape[:-1], self.anchors, node.channels // self.anchors)


def compute(node: specs.Node, inputs: Sequence[Float[Array, 'b h w c']], *, train: bool = False) -> Array:
    """What a node without variables makes of its inputs; `train` chooses how its gradient is computed."""
    match node:
        case specs.MaxPool():
            return _max_pool(inputs[0], node, train)
        case specs.Upsample():
            return _upsample(inputs[0], node.factor)
        case specs.Concat():
            return jnp.concatenate(inputs, axis=-1)
        case specs.Add():
            return functools.reduce(jnp.add, inputs)
        case specs.Reorg():
            x = inputs[0]
            return jnp.concatenate([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], axis=-1)
    raise TypeError(f'nothing computes {node!r}')


def _max_pool(x: Array, node: specs.MaxPool, train: bool) -> Array:
    if train:
        return backward.max_pool(x, node.kernel, node.stride, node.padding)
    (height, width), (down, right), (above, left) = node.kernel, node.stride, node.padding
    rows = nn.max_pool(x, (height, 1), (down, 1), [(above, above), (0, 0)])  # one axis at a time: 2 k steps, not k²
    return nn.max_pool(rows, (1, width), (1, right), [(0, 0), (left, left)])


def _upsample(x: Array, factor: int) -> Array:
    b, h, w, c = x.shape
    enlarged = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, factor, w, factor, c))
    return enlarged.reshape(b, h * factor, w * factor, c)
