"""Networks for dense prediction: several resolutions, joined by concatenation and by addition."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from ._entry import register
from ._linen import case

IMAGES = (2, 8, 8, 3)


class DoubleConv(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return x


class UNet(nn.Module):
    """Ronneberger et al. 2015, with transposed convolutions on the way up."""

    widths: Sequence[int] = (4, 6, 8)

    @nn.compact
    def __call__(self, x, train=False):
        skips = []
        for width in self.widths[:-1]:
            x = DoubleConv(width)(x, train)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = DoubleConv(self.widths[-1])(x, train)
        for width, skip in zip(reversed(self.widths[:-1]), reversed(skips), strict=True):
            x = nn.ConvTranspose(width, (2, 2), strides=(2, 2))(x)
            x = jnp.concatenate([skip, x], axis=-1)
            x = DoubleConv(width)(x, train)
        return nn.Conv(2, (1, 1))(x)


@register('linen_unet_concat', prunable=12, protected={'Conv_0': 'output'})
def unet_concat():
    return case(UNet(), IMAGES, train=False)


class AddUNet(nn.Module):
    """LinkNet (Chaurasia and Culurciello 2017): skips are added; bilinear upsampling."""

    def setup(self):
        self.down1 = DoubleConv(4)
        self.down2 = DoubleConv(6)
        self.middle = DoubleConv(8)
        self.up2 = nn.Conv(6, (1, 1))
        self.up1 = nn.Conv(4, (1, 1))
        self.fuse = DoubleConv(6)
        self.head = nn.Conv(2, (3, 3))

    def __call__(self, x, train=False):
        first = self.down1(x, train)
        second = self.down2(nn.max_pool(first, (2, 2), (2, 2)), train)
        x = self.middle(nn.max_pool(second, (2, 2), (2, 2)), train)
        x = jax.image.resize(x, (*second.shape[:3], x.shape[-1]), 'bilinear')
        x = self.fuse(self.up2(x) + second, train)
        x = jax.image.resize(x, (*first.shape[:3], x.shape[-1]), 'nearest')
        return self.head(self.up1(x) + first)


@register('linen_unet_add', prunable=8, protected={'head': 'output'})
def unet_add():
    return case(AddUNet(), IMAGES, train=False)


class Basic(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train):
        y = nn.Conv(self.features, (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False)(y)
        return nn.relu(nn.BatchNorm(use_running_average=not train)(y) + x)


class HRNet(nn.Module):
    """Wang et al. 2019: parallel branches, every one a sum of all in the next stage."""

    widths: Sequence[int] = (4, 6)

    @nn.compact
    def __call__(self, x, train=False):
        high = nn.relu(nn.Conv(self.widths[0], (3, 3), name='stem')(x))
        low = nn.relu(nn.Conv(self.widths[1], (3, 3), strides=2, name='transition')(high))
        for stage in range(2):
            high = Basic(self.widths[0], name=f'high_{stage}')(high, train)
            low = Basic(self.widths[1], name=f'low_{stage}')(low, train)
            up = nn.Conv(self.widths[0], (1, 1), name=f'up_{stage}')(low)
            up = jnp.repeat(jnp.repeat(up, 2, axis=1), 2, axis=2)
            down = nn.Conv(self.widths[1], (3, 3), strides=(2, 2), name=f'down_{stage}')(high)
            high, low = nn.relu(high + up), nn.relu(low + down)
        low = jax.image.resize(low, high.shape[:3] + low.shape[3:], method='bilinear')
        return nn.Conv(3, (1, 1), name='head')(jnp.concatenate([high, low], axis=-1))


@register('linen_hrnet', prunable=6, protected={'head': 'output'})
def hrnet():
    return case(HRNet(), IMAGES, train=False)


class PAN(nn.Module):
    """FPN (Lin et al. 2016) with the bottom-up path of PAN (Liu et al. 2018) and one head for all levels."""

    width: int = 6

    def setup(self):
        self.stages = [nn.Conv(features, (3, 3), strides=2) for features in (4, 6, 8)]
        self.laterals = [nn.Conv(self.width, (1, 1)) for _ in range(3)]
        self.downs = [nn.Conv(self.width, (3, 3), strides=2) for _ in range(2)]
        self.tower = nn.Conv(7, (3, 3))
        self.boxes = nn.Conv(4, (3, 3))
        self.classes = nn.Conv(2, (3, 3), bias_init=nn.initializers.constant(-4.6))

    def __call__(self, x):
        levels = []
        for stage in self.stages:
            x = nn.relu(stage(x))
            levels.append(x)
        levels = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for i in (1, 0):
            levels[i] += jax.image.resize(levels[i + 1], levels[i].shape, 'nearest')
        for i in (1, 2):
            levels[i] += self.downs[i - 1](levels[i - 1])
        towers = [nn.relu(self.tower(level)) for level in levels]
        flat = [
            jnp.concatenate([self.boxes(y), nn.sigmoid(self.classes(y))], axis=-1).reshape(y.shape[0], -1, 6)
            for y in towers
        ]
        return jnp.concatenate(flat, axis=1)


@register('linen_fpn_pan', prunable=5, protected={'boxes': 'output', 'classes': 'output'})
def fpn_pan():
    return case(PAN(), (2, 16, 16, 3))


class Tree(nn.Module):
    """Yu et al. 2017: two subtrees and a root that reads both, and what came from above."""

    features: int
    depth: int

    @nn.compact
    def __call__(self, x, train, children=()):
        if self.depth == 0:
            return Basic(self.features)(x, train)
        left = Tree(self.features, self.depth - 1)(x, train)
        right = Tree(self.features, self.depth - 1)(left, train)
        y = nn.Conv(self.features, (1, 1), use_bias=False, name='root')(
            jnp.concatenate([right, left, *children], axis=-1)
        )
        return nn.relu(nn.BatchNorm(use_running_average=not train)(y))


class DLA(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        first = Tree(6, 1)(x, train)
        x = nn.relu(nn.Conv(8, (3, 3), strides=2)(first))
        pooled = nn.max_pool(first, (2, 2), strides=(2, 2))
        x = Tree(8, 1)(x, train, children=(pooled,))
        return nn.Dense(5)(x.mean(axis=(1, 2)))


@register('linen_dla', prunable=8, protected={'Dense_0': 'output'})
def dla():
    return case(DLA(), IMAGES, train=False)
