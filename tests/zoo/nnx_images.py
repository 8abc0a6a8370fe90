"""Convolutional networks as Flax NNX modules."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ._entry import register
from ._nnx import parted, whole


class CNN(nnx.Module):
    """From the tutorial of Flax."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 6, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(6, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025)
        self.conv2 = nnx.Conv(6, 8, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(8, rngs=rngs)
        self.avg_pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(8 * 2 * 2, 10, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025)
        self.linear2 = nnx.Linear(10, 5, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        x = self.avg_pool(nnx.relu(self.batch_norm1(self.dropout1(self.conv1(x), rngs=rngs))))
        x = self.avg_pool(nnx.relu(self.batch_norm2(self.conv2(x))))
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.dropout2(self.linear1(x), rngs=rngs))
        return self.linear2(x)


@register('nnx_cnn', prunable=3, protected={'linear2': 'output'})
def _():
    return whole(lambda: CNN(rngs=nnx.Rngs(0)), (2, 8, 8, 1))


class ResidualBlock(nnx.Module):
    def __init__(self, inputs, width, stride, rngs):
        self.conv1 = nnx.Conv(inputs, width, (3, 3), strides=stride, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(width, rngs=rngs)
        if stride != 1 or inputs != width:
            self.shortcut = nnx.Conv(inputs, width, (1, 1), strides=stride, use_bias=False, rngs=rngs)
        else:
            self.shortcut = None

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.relu)
        sizes = [(4, 4, 1), (4, 6, 2), (6, 6, 1)]
        self.blocks = nnx.List([ResidualBlock(*each, rngs=rngs) for each in sizes])
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


@register('nnx_res_net', prunable=5, protected={'head': 'output'})
def _():
    return whole(lambda: ResNet(nnx.Rngs(0)), (2, 8, 8, 3))


class InvertedResidual(nnx.Module):
    def __init__(self, inputs, outputs, expand, rngs):
        hidden = inputs * expand
        self.expand = nnx.Conv(inputs, hidden, (1, 1), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(hidden, rngs=rngs)
        self.depthwise = nnx.Conv(hidden, hidden, (3, 3), feature_group_count=hidden, use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(hidden, rngs=rngs)
        self.project = nnx.Conv(hidden, outputs, (1, 1), use_bias=False, rngs=rngs)
        self.norm3 = nnx.BatchNorm(outputs, rngs=rngs)
        self.residual = inputs == outputs

    def __call__(self, x):
        y = jax.nn.relu6(self.norm1(self.expand(x)))
        y = jax.nn.relu6(self.norm2(self.depthwise(y)))
        y = self.norm3(self.project(y))
        return x + y if self.residual else y


class MobileNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.Sequential(InvertedResidual(4, 4, 2, rngs), InvertedResidual(4, 6, 3, rngs))
        self.last = nnx.Conv(6, 9, (1, 1), rngs=rngs)
        self.classes = nnx.Linear(9, 3, rngs=rngs)

    def __call__(self, x):
        x = self.blocks(nnx.hard_swish(self.stem(x)))
        x = nnx.hard_swish(self.last(x)).mean((1, 2))
        return self.classes(x)


@register('nnx_mobile_net', prunable=5, protected={'classes': 'output'})
def _():
    return whole(lambda: MobileNet(nnx.Rngs(0)), (2, 8, 8, 3))


class DoubleConv(nnx.Module):
    def __init__(self, inputs, width, rngs):
        self.first = nnx.Conv(inputs, width, (3, 3), rngs=rngs)
        self.second = nnx.Conv(width, width, (3, 3), rngs=rngs)

    def __call__(self, x):
        return nnx.silu(self.second(nnx.silu(self.first(x))))


class UNet(nnx.Module):
    def __init__(self, rngs):
        self.down = nnx.List([DoubleConv(1, 4, rngs), DoubleConv(4, 5, rngs)])
        self.middle = DoubleConv(5, 6, rngs)
        self.up = nnx.List(
            [nnx.ConvTranspose(6, 5, (2, 2), strides=2, rngs=rngs), nnx.ConvTranspose(5, 4, (2, 2), 2, rngs=rngs)]
        )
        self.merge = nnx.List([DoubleConv(10, 5, rngs), DoubleConv(8, 4, rngs)])
        self.out = nnx.Conv(4, 1, (1, 1), rngs=rngs)

    def __call__(self, x):
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = self.middle(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(jnp.concatenate([up(x), skips.pop()], axis=-1))
        return self.out(x)


@register('nnx_u_net', prunable=12, protected={'out': 'output'})
def _():
    return parted(lambda: UNet(nnx.Rngs(0)), (2, 8, 8, 1))


class GroupNormNet(nnx.Module):
    """Groups of several channels change each other; a norm of every channel by itself does not."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm1 = nnx.GroupNorm(8, num_groups=4, rngs=rngs)
        self.conv2 = nnx.Conv(8, 6, (3, 3), rngs=rngs)
        self.norm2 = nnx.InstanceNorm(6, rngs=rngs)
        self.conv3 = nnx.Conv(6, 5, (3, 3), rngs=rngs)
        self.norm3 = nnx.RMSNorm(5, rngs=rngs)
        self.conv4 = nnx.Conv(5, 2, (3, 3), rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.norm1(self.conv1(x)))
        x = nnx.gelu(self.norm2(self.conv2(x)))
        return self.conv4(nnx.gelu(self.norm3(self.conv3(x))))


@register(
    'nnx_group_norm',
    prunable=1,
    protected={'conv1': 'normalization', 'conv3': 'normalization', 'conv4': 'output'},
    approximate=True,
)
def _():
    return whole(lambda: GroupNormNet(nnx.Rngs(0)), (2, 8, 8, 3))
