"""Transformers and mixers on images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ._entry import register
from ._linen import case

IMAGES = (2, 8, 8, 3)


class MlpBlock(nn.Module):
    """Two dense layers with a GELU between them."""

    mlp_dim: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.mlp_dim)(x))
        return nn.Dense(x.shape[-1])(y)


class EncoderBlock(nn.Module):
    mlp_dim: int
    num_heads: int

    @nn.compact
    def __call__(self, x, *, deterministic):
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(
            num_heads=self.num_heads, dropout_rate=0.1, deterministic=deterministic, broadcast_dropout=False
        )(y, y)
        x = x + nn.Dropout(0.1)(y, deterministic=deterministic)
        return x + MlpBlock(self.mlp_dim)(nn.LayerNorm()(x))


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2020, with a class token and learned position embeddings."""

    hidden_size: int = 8
    layers: int = 2
    num_heads: int = 2
    mlp_dim: int = 12

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(self.hidden_size, (4, 4), strides=(4, 4), padding='VALID', name='embedding')(x)
        n, h, w, c = x.shape
        x = jnp.reshape(x, [n, h * w, c])
        cls = self.param('cls', nn.initializers.zeros, (1, 1, c))
        x = jnp.concatenate([jnp.tile(cls, [n, 1, 1]), x], axis=1)
        x = x + self.param('pos_embedding', nn.initializers.normal(0.02), (1, x.shape[1], c))
        for i in range(self.layers):
            x = EncoderBlock(self.mlp_dim, self.num_heads, name=f'block_{i}')(x, deterministic=not train)
        x = nn.LayerNorm(name='encoder_norm')(x)[:, 0]
        x = nn.tanh(nn.Dense(7, name='pre_logits')(x))
        return nn.Dense(5, name='head')(x)


# Per block: the hidden layer, and of attention the values of a head at least; and the layer before the last.
@register(
    'linen_vit',
    prunable=5,
    protected={'embedding': 'normalization', '*/out': 'normalization', '*/Dense_1': 'normalization', 'head': 'output'},
    approximate=True,
)
def vit():
    return case(VisionTransformer(), IMAGES, train=False)


def window_partition(x, window):
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def window_reverse(windows, window, height, width):
    batch = windows.shape[0] // (height * width // window**2)
    x = windows.reshape(batch, height // window, width // window, window, window, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)


def relative_index(window):
    where = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing='ij')).reshape(2, -1)
    offset = where[:, :, None] - where[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def shift_mask(height, width, window, shift):
    regions = np.zeros((1, height, width, 1))
    spans = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((rows, columns) for rows in spans for columns in spans):
        regions[:, rows, columns] = number
    regions = np.asarray(window_partition(regions, window))[..., 0]
    return np.where(regions[:, None, :] == regions[:, :, None], 0.0, -100.0)


class WindowAttention(nn.Module):
    heads: int
    head_dim: int
    window: int

    @nn.compact
    def __call__(self, x, mask=None):
        qkv = nn.DenseGeneral((3, self.heads, self.head_dim), name='qkv')(x)
        q, k, v = (qkv[:, :, i] for i in range(3))
        logits = jnp.einsum('bqhd,bkhd->bhqk', q * self.head_dim**-0.5, k)
        table = self.param('bias_table', nn.initializers.normal(0.02), ((2 * self.window - 1) ** 2, self.heads))
        bias = table[relative_index(self.window)]
        logits = logits + jnp.transpose(bias, (2, 0, 1))[None]
        if mask is not None:
            batch, heads, tokens, _ = logits.shape
            logits = logits.reshape(-1, mask.shape[0], heads, tokens, tokens) + mask[None, :, None].astype(logits.dtype)
            logits = logits.reshape(batch, heads, tokens, tokens)
        y = jnp.einsum('bhqk,bkhd->bqhd', nn.softmax(logits), v)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), name='proj')(y)


class SwinBlock(nn.Module):
    heads: int
    head_dim: int
    shift: int
    window: int = 2

    @nn.compact
    def __call__(self, x):
        _, height, width, _ = x.shape
        y, mask = nn.LayerNorm()(x), None
        if self.shift:
            y = jnp.roll(y, (-self.shift, -self.shift), axis=(1, 2))
            mask = jnp.asarray(shift_mask(height, width, self.window, self.shift))
        y = WindowAttention(self.heads, self.head_dim, self.window, name='attn')(window_partition(y, self.window), mask)
        y = window_reverse(y, self.window, height, width)
        if self.shift:
            y = jnp.roll(y, (self.shift, self.shift), axis=(1, 2))
        x = x + y
        return x + MlpBlock(12, name='mlp')(nn.LayerNorm()(x))


class Swin(nn.Module):
    """Liu et al. 2021, with patch merging between the stages."""

    widths: Sequence[int] = (6, 8)

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Conv(self.widths[0], (2, 2), strides=(2, 2), name='patches')(x))
        for i, width in enumerate(self.widths):
            if i > 0:
                x = jnp.concatenate([x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], axis=-1)
                x = nn.Dense(width, use_bias=False, name='merge')(nn.LayerNorm()(x))
            x = SwinBlock(2, 4, shift=1 - i, name=f'block_{i}')(x)
        x = nn.LayerNorm()(x)
        return nn.Dense(5, name='head')(x.mean(axis=(1, 2)))


@register(
    'linen_swin',
    prunable=4,
    protected={
        'patches': 'normalization',
        'merge': 'normalization',
        '*/proj': 'normalization',
        '*/mlp/Dense_1': 'normalization',
        'head': 'output',
    },
    approximate=True,
)
def swin():
    return case(Swin(), IMAGES)


class MixerBlock(nn.Module):
    """Tolstikhin et al. 2021: one perceptron over the tokens, one over the channels."""

    tokens_mlp_dim: int
    channels_mlp_dim: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        y = jnp.swapaxes(y, 1, 2)
        y = MlpBlock(self.tokens_mlp_dim, name='token_mixing')(y)
        x = x + jnp.swapaxes(y, 1, 2)
        return x + MlpBlock(self.channels_mlp_dim, name='channel_mixing')(nn.LayerNorm()(x))


class MlpMixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (2, 2), strides=(2, 2), name='stem')(x)
        x = jnp.reshape(x, (x.shape[0], -1, x.shape[-1]))
        for _ in range(2):
            x = MixerBlock(9, 12)(x)
        x = nn.LayerNorm(name='pre_head_layer_norm')(x)
        return nn.Dense(5, name='head')(jnp.mean(x, axis=1))


# What mixes tokens is as wide as there are tokens.
@register(
    'linen_mixer',
    prunable=4,
    protected={
        'stem': 'normalization',
        '*/token_mixing/Dense_1': '',
        '*/channel_mixing/Dense_1': 'normalization',
        'head': 'output',
    },
    approximate=True,
)
def mixer():
    return case(MlpMixer(), IMAGES)


class PerHeadAttention(nn.Module):
    """One dense layer for queries, keys and values, taken apart by a reshape."""

    heads: int
    dim: int

    @nn.compact
    def __call__(self, x):
        batch, tokens, _ = x.shape
        qkv = nn.Dense(3 * self.dim, use_bias=False, name='qkv')(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = jax.nn.softmax(q @ jnp.swapaxes(k, -2, -1) * 0.35, axis=-1)
        y = (weights @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)
        return nn.Dense(x.shape[-1], name='proj')(y)


class ConvAttention(nn.Module):
    """Attention over the places of a convolutional network: no layer norm, so its stream can be pruned."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), strides=2, name='stem')(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        batch, height, width, channels = x.shape
        y = PerHeadAttention(2, 8)(x.reshape(batch, height * width, channels))
        x = x + y.reshape(batch, height, width, channels)
        x = nn.relu(nn.Conv(7, (3, 3), name='last')(x))
        return nn.Dense(5, name='head')(x.mean((1, 2)))


@register('linen_conv_attention', prunable=3, protected={'head': 'output'})
def conv_attention():
    return case(ConvAttention(), IMAGES, train=False)
