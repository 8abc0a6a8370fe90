"""Convolutional networks that borrow from transformers, re-parametrise branches or split their channels."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from ._entry import register
from ._linen import case

IMAGES = (2, 8, 8, 3)


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022."""

    features: int
    layer_scale: float = 1e-6

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.features, (7, 7), feature_group_count=self.features, name='dwconv')(x)
        y = nn.LayerNorm(epsilon=1e-6)(y)
        y = nn.Dense(4 * self.features, name='pwconv1')(y)
        y = nn.gelu(y)
        y = nn.Dense(self.features, name='pwconv2')(y)
        gamma = self.param('gamma', nn.initializers.constant(self.layer_scale), (self.features,))
        return x + gamma * y


class ConvNeXt(nn.Module):
    depths: Sequence[int] = (1, 1)
    widths: Sequence[int] = (4, 6)

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.widths[0], (2, 2), strides=(2, 2), name='stem')(x)
        x = nn.LayerNorm(epsilon=1e-6)(x)
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if i > 0:
                x = nn.LayerNorm(epsilon=1e-6)(x)
                x = nn.Conv(width, (2, 2), strides=(2, 2), name=f'downsample_{i}')(x)
            for _ in range(depth):
                x = ConvNeXtBlock(width)(x)
        x = nn.LayerNorm(epsilon=1e-6)(jnp.mean(x, axis=(1, 2)))
        return nn.Dense(5, name='head')(x)


@register(
    'linen_convnext',
    prunable=2,
    protected={
        'stem': 'normalization',
        'downsample_1': 'normalization',
        '*/dwconv': 'normalization',
        '*/pwconv2': 'normalization',
        'head': 'output',
    },
    approximate=True,
)
def convnext():
    return case(ConvNeXt(), IMAGES)


class RepVGGBlock(nn.Module):
    """Ding et al. 2021: 3x3, 1x1 and, where shapes allow it, an identity branch, each with its own norm."""

    features: int
    strides: int = 1
    use_se: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        norm = lambda name: nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)  # noqa: E731
        dense = nn.Conv(self.features, (3, 3), self.strides, padding=1, use_bias=False, name='conv3')(x)
        point = nn.Conv(self.features, (1, 1), self.strides, padding=0, use_bias=False, name='conv1')(x)
        y = norm('bn3')(dense) + norm('bn1')(point)
        if self.strides == 1 and x.shape[-1] == self.features:
            y += norm('identity')(x)
        return nn.relu(y)


class RepVGG(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = RepVGGBlock(5, 2)(x, train)
        x = RepVGGBlock(5)(x, train)
        x = RepVGGBlock(9, 2)(x, train)
        x = RepVGGBlock(9)(x, train)
        x = RepVGGBlock(12)(x, train)
        return nn.Dense(5)(x.mean(axis=(1, 2)))


@register(
    'linen_repvgg',
    prunable=1,
    # A block has an identity branch where its input has as many channels as a field says.
    protected={'Dense_0': 'output', 'RepVGGBlock_[0-3]/*': 'other widths'},
)
def repvgg():
    return case(RepVGG(), IMAGES, train=False)


class C2f(nn.Module):
    """The block of YOLOv8: one half of the channels goes through bottlenecks, and all that comes by is concatenated."""

    features: int
    count: int = 1

    @nn.compact
    def __call__(self, x):
        y = list(jnp.split(nn.silu(nn.Conv(self.features, (1, 1), name='cv1')(x)), 2, axis=-1))
        for i in range(self.count):
            z = nn.silu(nn.Conv(self.features // 2, (3, 3), name=f'm{i}_cv1')(y[-1]))
            y.append(nn.silu(nn.Conv(self.features // 2, (3, 3), name=f'm{i}_cv2')(z)))
        return nn.silu(nn.Conv(self.features, (1, 1), name='cv2')(jnp.concatenate(y, axis=-1)))


class CSPNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.Conv(6, (3, 3), strides=2)(x))
        x = C2f(8)(x)
        x = C2f(12)(x)
        return nn.Dense(5)(x.mean(axis=(1, 2)))


@register('linen_c2f', prunable=9, protected={'Dense_0': 'output'})
def c2f():
    return case(CSPNet(), IMAGES)


class GatedBlock(nn.Module):
    """Gated linear unit (Dauphin et al. 2016) and the attention maps of CBAM (Woo et al. 2018)."""

    features: int

    @nn.compact
    def __call__(self, x):
        value, gate = jnp.split(nn.Conv(2 * self.features, (3, 3), name='gated')(x), 2, axis=-1)
        y = value * nn.sigmoid(gate)
        pooled = jnp.stack([jnp.mean(x, axis=(1, 2)), jnp.max(x, axis=(1, 2))])
        squeeze = nn.Dense(4, name='squeeze')
        excite = nn.Dense(self.features, name='excite')
        y = y * nn.sigmoid(excite(nn.relu(squeeze(pooled))).sum(0))[:, None, None, :]
        maps = jnp.concatenate([y.mean(-1, keepdims=True), y.max(-1, keepdims=True)], axis=-1)
        return y * nn.sigmoid(nn.Conv(1, (7, 7), name='spatial')(maps))


class GatedNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(nn.Conv(6, (3, 3), strides=2, name='stem')(x))
        x = GatedBlock(8)(x)
        x = nn.PReLU()(nn.Conv(7, (3, 3), name='last')(x))
        return nn.Dense(5)(x.mean(axis=(1, 2)))


# The spatial map is a mean and a maximum over channels, which change where one of them goes.
@register(
    'linen_gated_cbam',
    prunable=3,
    protected={'*/gated': 'reduce', '*/excite': 'reduce', '*/spatial': '', 'Dense_0': 'output'},
    approximate=True,
)
def gated_cbam():
    return case(GatedNet(), IMAGES)


class NormNet(nn.Module):
    """The same convolutions with one normalisation or another."""

    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.norm()(nn.Conv(8, (3, 3), name='first')(x)))
        y = nn.relu(self.norm()(nn.Conv(8, (3, 3), name='second')(x)))
        x = x + self.norm()(nn.Conv(8, (3, 3), name='third')(y))
        x = nn.relu(nn.Conv(6, (3, 3), strides=2, name='last')(x))
        return nn.Dense(5, name='head')(x.mean(axis=(1, 2)))


class GroupNorm2(nn.GroupNorm):
    num_groups: int | None = 2


@register(
    'linen_groupnorm',
    prunable=1,
    protected={'first': 'normalization', 'second': 'normalization', 'third': 'normalization', 'head': 'output'},
    approximate=True,
)
def groupnorm():
    return case(NormNet(GroupNorm2), IMAGES)


@register('linen_instancenorm', prunable=3, protected={'head': 'output'})
def instancenorm():
    return case(NormNet(nn.InstanceNorm), IMAGES)
