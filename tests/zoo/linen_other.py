"""Recurrence, shared weights, lifted transformations, and features that depend on an input."""

import jax.numpy as jnp
from flax import linen as nn

from ._entry import register
from ._linen import case

IMAGES = (2, 8, 8, 3)


class Recognizer(nn.Module):
    """Columns of convolutional features, read by a GRU (Shi et al. 2015, with a GRU for the LSTM)."""

    dtype: object = jnp.float64

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(6, (3, 3))(x)))
        x = nn.max_pool(x, (2, 1), strides=(2, 1))
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = x.transpose(0, 2, 1, 3)
        x = x.reshape(x.shape[0], x.shape[1], -1)
        x = nn.RNN(nn.GRUCell(features=7, param_dtype=self.dtype))(x)
        return nn.Dense(5)(x)


@register('linen_gru', prunable=3, protected={'Dense_0': 'output'})
def gru():
    return case(Recognizer(), IMAGES, train=False)


class LSTMRecognizer(nn.Module):
    dtype: object = jnp.float64

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3,))(x))
        x = nn.RNN(nn.LSTMCell(features=7, param_dtype=self.dtype))(x)
        return nn.Dense(5)(x[:, -1])


@register('linen_lstm', prunable=2, protected={'Dense_0': 'output'})
def lstm():
    return case(LSTMRecognizer(), (2, 6, 3))


class Siamese(nn.Module):
    """Koch et al. 2015: one encoder for both images, whose features are compared."""

    def setup(self):
        self.conv1 = nn.Conv(5, (3, 3), strides=2)
        self.norm1 = nn.BatchNorm()
        self.conv2 = nn.Conv(6, (3, 3))
        self.embed = nn.Dense(8)
        self.head = nn.Dense(3)

    def encode(self, x, train):
        x = nn.relu(self.norm1(self.conv1(x), use_running_average=not train))
        x = nn.relu(self.conv2(x))
        return nn.sigmoid(self.embed(x.reshape(x.shape[0], -1)))

    def __call__(self, first, second, train=False):
        a, b = self.encode(first, train), self.encode(second, train)
        return self.head(jnp.concatenate([jnp.abs(a - b), a * b, a], axis=-1))


@register('linen_siamese', prunable=3, protected={'head': 'output'})
def siamese():
    return case(Siamese(), IMAGES, IMAGES, train=False)


class Recursive(nn.Module):
    """Kim et al. 2015 (DRCN): the same convolution again and again, its output fed back to it."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), name='embed')(x))
        shared = nn.Conv(6, (3, 3), name='shared')
        narrow = nn.Conv(4, (1, 1), name='narrow')
        results = []
        for _ in range(2):
            x = nn.relu(shared(x))
            results.append(narrow(x))
        return nn.Conv(3, (3, 3), name='head')(jnp.concatenate(results, axis=-1))


@register('linen_recursive', prunable=2, protected={'head': 'output'})
def recursive():
    return case(Recursive(), IMAGES)


class SameTwice(nn.Module):
    """A tensor concatenated with itself and its negative (Shang et al. 2016, CReLU), and one residual to the input."""

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(3, (3, 3), name='to_input')(x)
        x = x + y
        x = nn.Conv(5, (3, 3), name='crelu')(x)
        x = nn.relu(jnp.concatenate([x, -x], axis=-1))
        x = nn.Conv(4, (3, 3), name='twice')(x)
        x = nn.Conv(6, (1, 1), name='last')(jnp.concatenate([x, x], axis=-1))
        x = nn.elu(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='edge'))
        return nn.Dense(5, name='head')(x.max(axis=(1, 2)))


@register('linen_crelu', prunable=3, protected={'to_input': 'values that have none', 'head': 'output'})
def crelu():
    return case(SameTwice(), IMAGES)


class ScanBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, _):
        y = nn.relu(nn.Dense(self.features, name='up')(x))
        return x + nn.Dense(x.shape[-1], name='down')(y), None


class Scanned(nn.Module):
    """Layers stacked by `nn.scan`, every one in `nn.remat`."""

    length: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name='embed')(x)
        block = nn.scan(
            nn.remat(ScanBlock), variable_axes={'params': 0}, split_rngs={'params': True}, length=self.length
        )
        x, _ = block(9, name='blocks')(x, None)
        return nn.Dense(5, name='head')(x)


@register('linen_scan', prunable=2, protected={'head': 'output'})
def scan():
    return case(Scanned(), (2, 4))


class RematNet(nn.Module):
    """Blocks in `nn.remat`, with FiLM (Perez et al. 2017): channels scaled and shifted by a second input."""

    @nn.compact
    def __call__(self, x, condition, train: bool = False):
        x = nn.relu(nn.Conv(6, (3, 3), name='stem')(x))
        for i in range(2):
            x = nn.remat(FiLMBlock, static_argnums=(3,))(6, name=f'block_{i}')(x, condition, train)
        return nn.Dense(5, name='head')(x.mean(axis=(1, 2)))


class FiLMBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, condition, train):
        y = nn.Conv(self.features, (3, 3), name='conv')(x)
        y = nn.BatchNorm(use_running_average=not train, use_scale=False, use_bias=False)(y)
        scale = nn.Dense(self.features, name='scale')(condition)
        shift = nn.Dense(self.features, name='shift')(condition)
        return x + nn.relu(y * (1 + scale[:, None, None]) + shift[:, None, None])


@register('linen_remat_film', prunable=1, protected={'head': 'output'})
def remat_film():
    return case(RematNet(), IMAGES, (2, 4))


class TextEncoder(nn.Module):
    """Bag of embeddings and a one-dimensional convolution, `nn.Sequential`, and a head tied to the embedding."""

    vocabulary: int = 11

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocabulary, 6, name='embed')
        x = embed(tokens)
        x = nn.Sequential([nn.Conv(7, (3,)), nn.gelu, nn.Dense(9), jnp.tanh, nn.Dense(6)], name='body')(x)
        return embed.attend(x)


@register('linen_tied_embedding', prunable=3, protected={})
def tied_embedding():
    return case(TextEncoder(), (2, 5), dtype=jnp.int32)
