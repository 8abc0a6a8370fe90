"""Transformers, recurrent networks and shared modules in Flax NNX."""

import jax.numpy as jnp
from flax import nnx

from ._entry import register
from ._nnx import parted, whole


class EncoderBlock(nnx.Module):
    def __init__(self, width, heads, hidden, rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, dropout_rate=0.1, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = nnx.Sequential(
            nnx.Linear(width, hidden, rngs=rngs),
            nnx.gelu,
            nnx.Dropout(0.1, rngs=rngs),
            nnx.Linear(hidden, width, rngs=rngs),
        )

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    def __init__(self, rngs, width=8, patch=4):
        self.patches = nnx.Conv(3, width, (patch, patch), strides=(patch, patch), padding='VALID', rngs=rngs)
        self.cls = nnx.Param(jnp.zeros((1, 1, width)))
        self.positions = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, 5, width)))
        self.encoder = nnx.Sequential(*[EncoderBlock(width, 2, hidden, rngs) for hidden in (12, 10)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.classifier = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = jnp.concatenate([jnp.tile(self.cls[...], (x.shape[0], 1, 1)), x], axis=1) + self.positions[...]
        return self.classifier(self.norm(self.encoder(x))[:, 0])


VIT_KEPT = {
    'patches': '',
    'encoder/*/attention/out': '',
    'encoder/*/mlp/layers/3': '',
    'classifier': 'output',
}


@register('nnx_vit', prunable=4, protected=VIT_KEPT, approximate=True)
def _():
    # Of each block the hidden layer and what a head's values hold; the generators' states are held fast.
    return parted(lambda: ViT(nnx.Rngs(0)), (2, 8, 8, 3))


@register('nnx_vit_with_keys', prunable=4, protected=VIT_KEPT, approximate=True)
def _():
    # The same with the states of generators, whose dtype NumPy does not know, among the leaves.
    return whole(lambda: ViT(nnx.Rngs(0)), (2, 8, 8, 3))


class GRUClassifier(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Linear(3, 6, rngs=rngs)
        self.rnn = nnx.RNN(nnx.GRUCell(6, 5, rngs=rngs))
        self.head = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.embed(x))
        start = jnp.zeros((x.shape[0], self.rnn.cell.hidden_features), x.dtype)
        return self.head(self.rnn(x, initial_carry=start)[:, -1])


@register('nnx_gru', prunable=2, protected={'head': 'output'})
def _():
    return parted(lambda: GRUClassifier(nnx.Rngs(0)), (2, 8, 3))


class EinsumNet(nnx.Module):
    """Multi-query attention pooling and a gated layer, all by `nnx.Einsum`."""

    def __init__(self, rngs, width=6, heads=3, size=4):
        self.embed = nnx.Einsum('bnf,fd->bnd', (5, width), (width,), rngs=rngs)
        self.score = nnx.Einsum('bnd,dh->bnh', (width, heads), rngs=rngs)
        self.value = nnx.Einsum('bnd,dhk->bnhk', (width, heads, size), (heads, size), rngs=rngs)
        self.out = nnx.Einsum('bhk,hkd->bd', (heads, size, width), (width,), rngs=rngs)
        self.gate = nnx.Einsum('bd,cdf->bcf', (2, width, 8), rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.tanh(self.embed(x))
        weights = nnx.softmax(self.score(x), axis=1)
        x = self.out(jnp.einsum('bnh,bnhk->bhk', weights, self.value(x)))
        gate = self.gate(x)
        return self.head(nnx.silu(gate[:, 0]) * gate[:, 1])


@register('nnx_einsum', prunable=5, protected={'head': 'output'})
def _():
    return whole(lambda: EinsumNet(nnx.Rngs(0)), (2, 7, 5))


class Siamese(nnx.Module):
    """One encoder for both inputs; one of its layers is also used by itself."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 5, (3,), padding='CAUSAL', rngs=rngs)
        self.encoder = nnx.Sequential(self.conv, nnx.relu, nnx.Conv(5, 6, (3,), strides=2, rngs=rngs), nnx.relu)
        self.skip = nnx.Linear(5, 6, rngs=rngs)
        self.head = nnx.Linear(12, 1, rngs=rngs)

    def __call__(self, left, right):
        first = self.encoder(left).mean(1) + self.skip(self.conv(left).max(1))
        second = self.encoder(right).mean(1)
        return self.head(jnp.concatenate([first * second, jnp.abs(first - second)], axis=-1))


@register('nnx_siamese', prunable=2, protected={'head': 'output'})
def _():
    return whole(lambda: Siamese(nnx.Rngs(0)), (2, 8, 2), (2, 8, 2))


class TextCNN(nnx.Module):
    """Embedded tokens, convolutions of several lengths side by side."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(12, 6, rngs=rngs)
        self.convs = nnx.List([nnx.Conv(6, width, (length,), rngs=rngs) for length, width in ((2, 4), (3, 5))])
        self.dense = nnx.Linear(9, 7, rngs=rngs)
        self.head = nnx.Linear(7, 2, rngs=rngs)

    def __call__(self, x):
        x = self.embed(jnp.clip(jnp.abs(x * 10), 0, 11).astype(jnp.int32))
        x = jnp.concatenate([nnx.relu(conv(x)).max(axis=1) for conv in self.convs], axis=-1)
        return self.head(nnx.leaky_relu(self.dense(x)))


@register('nnx_text_cnn', prunable=4, protected={'head': 'output'})
def _():
    return whole(lambda: TextCNN(nnx.Rngs(0)), (2, 10))


class Block(nnx.Module):
    def __init__(self, width, hidden, rngs):
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.gelu(self.up(x)))


class Stacked(nnx.Module):
    """Layers made by `nnx.vmap` and run by `nnx.scan`."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs):
            return Block(6, 8, rngs)

        self.embed = nnx.Linear(4, 6, rngs=rngs)
        self.blocks = stack(rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, block):
            return block(x)

        return self.head(run(self.embed(x), self.blocks))


@register('nnx_stacked', prunable=2, protected={'head': 'output'})
def _():
    return whole(lambda: Stacked(nnx.Rngs(0)), (2, 4))
