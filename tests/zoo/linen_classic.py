"""VGG, residual networks, DenseNet and Inception."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ._entry import register
from ._linen import case

IMAGES = (2, 8, 8, 3)


class VGG(nn.Module):
    """Simonyan and Zisserman 2014, with batch normalisation and fully connected layers."""

    config: Sequence[int | str] = (6, 'M', 8, 8, 'M')
    classes: int = 5

    @nn.compact
    def __call__(self, x, train: bool = True):
        for entry in self.config:
            if entry == 'M':
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            else:
                x = nn.Conv(entry, (3, 3), padding='SAME')(x)
                x = nn.BatchNorm(use_running_average=not train)(x)
                x = nn.relu(x)
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(12)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.classes)(x)


@register('linen_vgg', prunable=4, protected={'Dense_1': 'output'})
def vgg():
    return case(VGG(), IMAGES, train=False)


class ResNetBlock(nn.Module):
    """He et al. 2015."""

    filters: int
    conv: Any
    norm: Any
    act: Callable
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = self.conv(self.filters, (3, 3), self.strides)(x)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters, (3, 3))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if residual.shape != y.shape:
            residual = self.conv(self.filters, (1, 1), self.strides, name='conv_proj')(residual)
            residual = self.norm(name='norm_proj')(residual)
        return self.act(residual + y)


class BottleneckResNetBlock(nn.Module):
    """The same with a bottleneck."""

    filters: int
    conv: Any
    norm: Any
    act: Callable
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = self.act(self.norm()(self.conv(self.filters, (1, 1))(x)))
        y = self.act(self.norm()(self.conv(self.filters, (3, 3), self.strides)(y)))
        y = self.norm(scale_init=nn.initializers.zeros_init())(self.conv(self.filters * 4, (1, 1))(y))
        if residual.shape != y.shape:
            residual = self.conv(self.filters * 4, (1, 1), self.strides, name='conv_proj')(residual)
            residual = self.norm(name='norm_proj')(residual)
        return self.act(residual + y)


class ResNet(nn.Module):
    """In the style of the ImageNet example of Flax."""

    stage_sizes: Sequence[int]
    block_cls: Any
    num_classes: int = 5
    num_filters: int = 8
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        x = conv(self.num_filters, (3, 3), (1, 1), padding=[(1, 1), (1, 1)], name='conv_init')(x)
        x = norm(name='bn_init')(x)
        x = nn.relu(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')
        for i, block_size in enumerate(self.stage_sizes):
            for j in range(block_size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = self.block_cls(self.num_filters * 2**i, strides=strides, conv=conv, norm=norm, act=nn.relu)(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)


@register('linen_resnet_basic', prunable=5, protected={'Dense_0': 'output'})
def resnet_basic():
    return case(ResNet((2, 1), ResNetBlock), IMAGES, train=False)


@register('linen_resnet_bottleneck', prunable=7, protected={'Dense_0': 'output'})
def resnet_bottleneck():
    return case(ResNet((1, 1), BottleneckResNetBlock, num_filters=4), IMAGES, train=False)


class PreActBlock(nn.Module):
    """He et al. 2016, "Identity mappings": normalisation and activation in front of the convolutions."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train: bool):
        out = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = nn.Conv(self.features, (1, 1), strides=self.stride, use_bias=False)(out)
        out = nn.Conv(self.features, (3, 3), strides=self.stride, use_bias=False)(out)
        out = nn.relu(nn.BatchNorm(use_running_average=not train)(out))
        out = nn.Conv(self.features, (3, 3), use_bias=False)(out)
        return out + shortcut


class PreActResNet(nn.Module):
    """With all submodules made in `setup`."""

    widths: Sequence[int] = (6, 6, 10)
    strides: Sequence[int] = (1, 1, 2)

    def setup(self):
        self.stem = nn.Conv(6, (3, 3), use_bias=False)
        self.blocks = [PreActBlock(w, s) for w, s in zip(self.widths, self.strides, strict=True)]
        self.norm = nn.BatchNorm()
        self.head = nn.Dense(5)

    def __call__(self, x, *, train: bool):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, train)
        x = nn.relu(self.norm(x, use_running_average=not train))
        return self.head(x.mean(axis=(1, 2)))


@register(
    'linen_resnet_preactivation',
    prunable=4,
    # Its blocks compare a shape with a field, so at other widths they would be others.
    protected={'head': 'output', 'stem': 'other widths', 'blocks_[01]/Conv_1': 'other widths'},
)
def resnet_preactivation():
    return case(PreActResNet(), IMAGES, train=False)


class DenseLayer(nn.Module):
    """Huang et al. 2016: what a layer makes is concatenated to what it was given."""

    growth: int
    bn_size: int = 2

    @nn.compact
    def __call__(self, x, train):
        y = nn.BatchNorm(use_running_average=not train)(x)
        y = nn.Conv(self.bn_size * self.growth, kernel_size=(1, 1), use_bias=False)(nn.relu(y))
        y = nn.BatchNorm(use_running_average=not train)(y)
        y = nn.Conv(self.growth, kernel_size=(3, 3), use_bias=False)(nn.relu(y))
        return jnp.concatenate([x, y], axis=-1)


class DenseNet(nn.Module):
    """Two dense blocks with a transition that halves the channels."""

    growth: int = 4
    layers: Sequence[int] = (2, 2)

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(2 * self.growth, (3, 3), use_bias=False)(x)
        for i, count in enumerate(self.layers):
            for _ in range(count):
                x = DenseLayer(self.growth)(x, train)
            if i + 1 < len(self.layers):
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
                x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(x)
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(5)(jnp.mean(x, axis=(1, 2)))


@register('linen_densenet', prunable=10, protected={'Dense_0': 'output'})
def densenet():
    return case(DenseNet(), IMAGES, train=False)


class ConvBNAct(nn.Module):
    features: int
    kernel: tuple[int, int]
    strides: int = 1

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.features, self.kernel, self.strides, use_bias=False)(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x))


class InceptionBlock(nn.Module):
    """Szegedy et al. 2015: branches with kernels of several sizes, factorised, and a pooling branch."""

    reduced: dict[str, int]
    out: dict[str, int]

    @nn.compact
    def __call__(self, x, train=True):
        one = ConvBNAct(self.out['1x1'], (1, 1))(x, train)
        three = ConvBNAct(self.reduced['3x3'], (1, 1))(x, train)
        three = ConvBNAct(self.out['3x3'], (3, 3))(three, train)
        five = ConvBNAct(self.reduced['5x5'], (1, 1))(x, train)
        five = ConvBNAct(self.out['5x5'], (1, 5))(five, train)
        five = ConvBNAct(self.out['5x5'], (5, 1))(five, train)
        pooled = nn.max_pool(x, (3, 3), strides=(1, 1), padding='SAME')
        pooled = ConvBNAct(self.out['max'], (1, 1))(pooled, train)
        return jnp.concatenate([one, three, five, pooled], axis=-1)


class Inception(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = ConvBNAct(6, (3, 3))(x, train)
        x = InceptionBlock(reduced={'3x3': 4, '5x5': 5}, out={'1x1': 4, '3x3': 6, '5x5': 4, 'max': 5})(x, train)
        x = nn.max_pool(x, (3, 3), strides=(2, 2))
        x = InceptionBlock(reduced={'3x3': 5, '5x5': 4}, out={'1x1': 6, '3x3': 4, '5x5': 5, 'max': 4})(x, train)
        return nn.Dense(5)(x.mean(axis=(1, 2)))


@register('linen_inception', prunable=15, protected={'Dense_0': 'output'})
def inception():
    return case(Inception(), IMAGES, train=False)
