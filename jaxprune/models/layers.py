"""Flax modules of the operations that a spec can name; images and activations are NHWC."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
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
        return lambda x: nn.leaky_relu(x, float(slope or 0.01))
    if name not in _ACTIVATIONS:
        raise UserError(f'activation {name!r} is not one of leaky_relu:SLOPE, {", ".join(_ACTIVATIONS)}')
    return _ACTIVATIONS[name]


class Masked(nn.Module):
    """A layer whose input channels can be multiplied by the variable `masks/NAME/input` `[in]`, where there is one."""

    def read(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """What the layer reads, masked."""
        if not self.has_variable('masks', 'input'):
            return x
        return x * self.get_variable('masks', 'input')[None, None, None, :]


def _batch_norm(epsilon: float, train: bool, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=_MOMENTUM, epsilon=epsilon, name=name)


class Conv(Masked):
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
        )(self.read(x))
        if node.epsilon is not None:
            x = _batch_norm(node.epsilon, train, 'bn')(x)
        return activation(node.activation)(x)


class RepConv(Masked):
    """`spec.RepConv`: branches `dense` (3×3), `pointwise` (1×1) and, where the spec says so, `identity`."""

    node: specs.RepConv

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """The activation of the sum of the branches."""
        x = self.read(x)
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


class Head(Masked):
    """`spec.Head`: raw predictions `[b, h, w, anchors, 5 + classes]`, before the sigmoid."""

    node: specs.Head
    anchors: int
    bias: tuple[float, ...] | None = None  # initial value for one anchor, repeated over anchors

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w a p']:
        """Raw predictions; `train` changes nothing here."""
        node = self.node
        if node.implicit:
            x = x + self.param('implicit_add', nn.initializers.normal(0.02), (x.shape[-1],))[None, None, None, :]
        x = nn.Conv(node.channels, (1, 1), bias_init=self._bias, name='conv')(self.read(x))
        if node.implicit:
            multiply = self.param('implicit_multiply', _around_one, (node.channels,))
            x = x * multiply[None, None, None, :]
        return x.reshape(*x.shape[:-1], self.anchors, node.channels // self.anchors)

    def _bias(self, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        if self.bias is None:
            return jnp.zeros(shape, dtype)
        return jnp.tile(jnp.asarray(self.bias, dtype), shape[0] // len(self.bias))


def _around_one(key: Array, shape: tuple[int, ...]) -> Array:
    return 1 + 0.02 * jax.random.normal(key, shape)


def max_pool(x: Float[Array, 'b h w c'], node: specs.MaxPool, *, train: bool = False) -> Float[Array, 'b i j c']:
    """`spec.MaxPool`."""
    if train:
        return backward.max_pool(x, node.kernel, node.stride, node.padding)
    return nn.max_pool(x, node.kernel, node.stride, [(pad, pad) for pad in node.padding])


def upsample(x: Float[Array, 'b h w c'], node: specs.Upsample) -> Float[Array, 'b i j c']:
    """`spec.Upsample`."""
    b, h, w, c = x.shape
    k = node.factor
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, k, w, k, c)).reshape(b, h * k, w * k, c)
