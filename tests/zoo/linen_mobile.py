"""Networks of depthwise and grouped convolutions, with squeeze-and-excitation and channel shuffles."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ._entry import register
from ._linen import case

IMAGES = (2, 8, 8, 3)


class InvertedResidual(nn.Module):
    """Sandler et al. 2018."""

    features: int
    stride: int
    expand: int

    @nn.compact
    def __call__(self, x, train):
        inputs = x.shape[-1]
        hidden = inputs * self.expand
        y = x
        if self.expand != 1:
            y = nn.Conv(hidden, (1, 1), use_bias=False)(y)
            y = nn.relu6(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(hidden, (3, 3), strides=self.stride, feature_group_count=hidden, use_bias=False)(y)
        y = nn.relu6(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(self.features, (1, 1), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        if self.stride == 1 and inputs == self.features:
            y = x + y
        return y


class MobileNetV2(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), strides=2, use_bias=False)(x)
        x = nn.relu6(nn.BatchNorm(use_running_average=not train)(x))
        for features, stride, expand in ((4, 1, 1), (6, 2, 2), (6, 1, 2)):
            x = InvertedResidual(features, stride, expand)(x, train)
        x = nn.Conv(12, (1, 1), use_bias=False)(x)
        x = nn.relu6(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(5)(x)


@register(
    'linen_mobilenet_v2',
    prunable=5,
    # Blocks compare a shape with a field: at other widths there would be no sum.
    protected={'Dense_0': 'output', 'InvertedResidual_[12]/Conv_2': 'other widths'},
)
def mobilenet_v2():
    return case(MobileNetV2(), IMAGES, train=False)


class SqueezeExcite(nn.Module):
    """Hu et al. 2017, with the hard sigmoid of Howard et al. 2019."""

    ratio: float = 0.25
    gate: Callable = nn.hard_sigmoid

    @nn.compact
    def __call__(self, x):
        y = jnp.mean(x, axis=(1, 2), keepdims=True)
        y = nn.relu(nn.Conv(max(4, int(x.shape[-1] * self.ratio)), (1, 1))(y))
        return x * self.gate(nn.Conv(x.shape[-1], (1, 1))(y))


class MobileNetV3Block(nn.Module):
    """Howard et al. 2019."""

    features: int
    hidden: int
    kernel: int
    stride: int
    squeeze: bool
    act: Callable
    norm: Any

    @nn.compact
    def __call__(self, x):
        y = self.act(self.norm()(nn.Conv(self.hidden, (1, 1), use_bias=False)(x)))
        size = (self.kernel, self.kernel)
        y = nn.Conv(self.hidden, size, self.stride, feature_group_count=self.hidden, use_bias=False)(y)
        y = self.norm()(y)
        if self.squeeze:
            y = SqueezeExcite()(y)
        y = self.act(y)
        y = self.norm()(nn.Conv(self.features, (1, 1), use_bias=False)(y))
        return x + y if x.shape == y.shape else y


class MobileNetV3(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        def norm():
            return nn.BatchNorm(use_running_average=not train)

        x = nn.hard_swish(norm()(nn.Conv(6, (3, 3), 2, use_bias=False)(x)))
        x = MobileNetV3Block(6, 9, 3, 1, False, nn.relu, norm)(x)
        x = MobileNetV3Block(8, 12, 5, 2, True, nn.hard_swish, norm)(x)
        x = nn.hard_swish(norm()(nn.Conv(12, (1, 1), use_bias=False)(x)))
        x = jnp.mean(x, axis=(1, 2))
        x = nn.hard_swish(nn.Dense(10)(x))
        return nn.Dense(5)(x)


@register('linen_mobilenet_v3', prunable=7, protected={'Dense_1': 'output'})
def mobilenet_v3():
    return case(MobileNetV3(), IMAGES, train=False)


class DropPath(nn.Module):
    """Huang et al. 2016, "Deep networks with stochastic depth"."""

    rate: float

    @nn.compact
    def __call__(self, x, deterministic):
        return nn.Dropout(self.rate, broadcast_dims=(1, 2, 3))(x, deterministic=deterministic)


class MBConv(nn.Module):
    """Tan and Le 2019."""

    out_channels: int
    expand_ratio: int
    kernel_size: int = 3
    strides: int = 1
    se_ratio: float = 0.25
    drop_rate: float = 0.2

    @nn.compact
    def __call__(self, inputs, train: bool):
        filters = inputs.shape[-1] * self.expand_ratio
        x = inputs
        if self.expand_ratio != 1:
            x = nn.Conv(filters, (1, 1), use_bias=False, name='expand_conv')(x)
            x = nn.swish(nn.BatchNorm(use_running_average=not train, name='expand_bn')(x))
        x = nn.Conv(
            features=filters,
            kernel_size=(self.kernel_size,) * 2,
            strides=self.strides,
            padding='SAME',
            feature_group_count=filters,
            use_bias=False,
            name='dwconv',
        )(x)
        x = nn.swish(nn.BatchNorm(use_running_average=not train, name='dwconv_bn')(x))
        se = x.mean(axis=(1, 2), keepdims=True)
        se = nn.swish(nn.Conv(max(1, int(inputs.shape[-1] * self.se_ratio)) + 2, (1, 1), name='se_reduce')(se))
        x = x * nn.sigmoid(nn.Conv(filters, (1, 1), name='se_expand')(se))
        x = nn.Conv(self.out_channels, (1, 1), use_bias=False, name='project_conv')(x)
        x = nn.BatchNorm(use_running_average=not train, name='project_bn')(x)
        if self.strides == 1 and inputs.shape[-1] == self.out_channels:
            x = DropPath(self.drop_rate)(x, deterministic=not train) + inputs
        return x


class EfficientNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(6, (3, 3), strides=(2, 2), use_bias=False, name='stem_conv')(x)
        x = nn.swish(nn.BatchNorm(use_running_average=not train, name='stem_bn')(x))
        x = MBConv(4, expand_ratio=1, name='block_1a')(x, train)
        x = MBConv(6, expand_ratio=2, strides=2, kernel_size=5, name='block_2a')(x, train)
        x = MBConv(6, expand_ratio=2, name='block_2b')(x, train)
        x = nn.Conv(12, (1, 1), use_bias=False, name='top_conv')(x)
        x = nn.swish(nn.BatchNorm(use_running_average=not train, name='top_bn')(x))
        return nn.Dense(5, name='predictions')(x.mean(axis=(1, 2)))


@register(
    'linen_efficientnet', prunable=8, protected={'predictions': 'output', 'block_2[ab]/project_conv': 'other widths'}
)
def efficientnet():
    return case(EfficientNet(), IMAGES, train=False)


def channel_shuffle(x, groups):
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, groups, channels // groups)
    return x.transpose(0, 1, 2, 4, 3).reshape(batch, height, width, channels)


class ShuffleUnitV1(nn.Module):
    """Zhang et al. 2017: grouped pointwise convolutions with a shuffle between them."""

    features: int
    groups: int = 2
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        features = self.features - x.shape[-1] if self.stride == 2 else self.features
        middle = self.features // 2
        y = nn.Conv(middle, (1, 1), feature_group_count=self.groups, use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = channel_shuffle(y, self.groups)
        y = nn.Conv(middle, (3, 3), self.stride, feature_group_count=middle, use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        y = nn.Conv(features, (1, 1), feature_group_count=self.groups, use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        if self.stride == 2:
            x = nn.avg_pool(x, (3, 3), strides=(2, 2), padding='SAME')
            return nn.relu(jnp.concatenate([x, y], axis=-1))
        return nn.relu(x + y)


class ShuffleNetV1(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3), use_bias=False)(x)))
        x = ShuffleUnitV1(16, stride=2)(x, train)
        x = ShuffleUnitV1(16)(x, train)
        return nn.Dense(5)(x.mean(axis=(1, 2)))


@register('linen_shufflenet_v1', prunable=3, protected={'Dense_0': 'output'})
def shufflenet_v1():
    return case(ShuffleNetV1(), IMAGES, train=False)


class ShuffleUnitV2(nn.Module):
    """Ma et al. 2018: half of the channels pass by, then both halves are shuffled."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        half = self.features // 2

        def norm():
            return nn.BatchNorm(use_running_average=not train)

        def conv(size, stride=1, groups=1):
            return nn.Conv(half, (size, size), stride, feature_group_count=groups, use_bias=False)

        if self.stride == 1:
            left, right = jnp.split(x, 2, axis=-1)
        else:
            inputs = x.shape[-1]
            left = nn.Conv(inputs, (3, 3), self.stride, feature_group_count=inputs, use_bias=False)(x)
            left = nn.relu(norm()(conv(1)(norm()(left))))
            right = x
        right = nn.relu(norm()(conv(1)(right)))
        right = norm()(conv(3, self.stride, groups=half)(right))
        right = nn.relu(norm()(conv(1)(right)))
        return channel_shuffle(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNetV2(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(6, (3, 3), use_bias=False)(x)))
        x = ShuffleUnitV2(16, stride=2)(x, train)
        x = ShuffleUnitV2(16)(x, train)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(10, (1, 1), use_bias=False)(x)))
        return nn.Dense(5)(x.mean(axis=(1, 2)))


@register('linen_shufflenet_v2', prunable=4, protected={'Dense_0': 'output'})
def shufflenet_v2():
    return case(ShuffleNetV2(), IMAGES, train=False)


class ResNeXtBlock(nn.Module):
    """Xie et al. 2016; with `group_width` fixed, as in RegNet (Radosavovic et al. 2020)."""

    features: int
    hidden: int
    group_width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        def norm(name):
            return nn.BatchNorm(use_running_average=not train, name=name)

        groups = self.hidden // self.group_width
        y = nn.relu(norm('bn1')(nn.Conv(self.hidden, (1, 1), use_bias=False, name='conv1')(x)))
        y = nn.Conv(self.hidden, (3, 3), self.stride, feature_group_count=groups, use_bias=False, name='conv2')(y)
        y = nn.relu(norm('bn2')(y))
        y = norm('bn3')(nn.Conv(self.features, (1, 1), use_bias=False, name='conv3')(y))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = norm('bn0')(nn.Conv(self.features, (1, 1), self.stride, use_bias=False, name='conv0')(x))
        return nn.relu(x + y)


class ResNeXt(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(6, (3, 3), use_bias=False)(x)))
        x = ResNeXtBlock(6, 16, 4)(x, train)
        x = ResNeXtBlock(10, 16, 8, stride=2)(x, train)
        return nn.Dense(5)(x.mean(axis=(1, 2)))


@register(
    'linen_resnext',
    prunable=5,
    protected={'Dense_0': 'output', 'Conv_0': 'other widths', 'ResNeXtBlock_0/conv3': 'other widths'},
)
def resnext():
    return case(ResNeXt(), IMAGES, train=False)
