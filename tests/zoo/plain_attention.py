"""Transformers written by hand."""

import math

import jax
import jax.numpy as jnp

from ._entry import register
from ._plain import affine, array, plain

HEADS = 2


def linear(p, x):
    return x @ p['w'] + p['b']


def layer_norm(p, x):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-6) * p['g'] + p['b']


def causal_attention(p, x):
    """One kernel for queries, keys and values; the number of heads stands in the code, their size follows."""
    b, n, _ = x.shape
    qkv = linear(p['qkv'], x)
    qkv = qkv.reshape(b, n, 3, HEADS, qkv.shape[-1] // (3 * HEADS))
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    scores = jnp.where(jnp.tril(jnp.ones((n, n), bool)), scores, -1e10)
    y = jax.nn.softmax(scores, axis=-1) @ v
    return linear(p['out'], y.transpose(0, 2, 1, 3).reshape(b, n, -1))


def gpt(p, tokens):
    """Pre-norm blocks, learned positions and an output that is the embedding the other way round."""
    x = p['tokens'][tokens] + p['positions'][: tokens.shape[1]]
    for block in p['blocks']:
        x = x + causal_attention(block['attention'], layer_norm(block['norm1'], x))
        x = x + linear(block['down'], jax.nn.gelu(linear(block['up'], layer_norm(block['norm2'], x))))
    return layer_norm(p['norm'], x) @ p['tokens'].T


def gpt_block(width, hidden):
    return {
        'norm1': {'g': array(width), 'b': array(width)},
        'attention': {'qkv': affine(width, 3 * width), 'out': affine(width, width)},
        'norm2': {'g': array(width), 'b': array(width)},
        'up': affine(width, hidden),
        'down': affine(hidden, width),
    }


@register(
    'plain_gpt',
    prunable=2,
    protected={
        'tokens': '',
        'blocks/*/down': 'reduce_sum',
        'blocks/*/attention/out': 'reduce_sum',
        'blocks/*/attention/qkv': '',
    },
)
def _():
    shapes = {
        'tokens': array(11, 8),
        'positions': array(16, 8),
        'blocks': [gpt_block(8, 12), gpt_block(8, 10)],
        'norm': {'g': array(8), 'b': array(8)},
    }
    # One-hot rows would be another way to write it; ids are what people feed.
    return plain(lambda p, x: gpt(p, jnp.clip(jnp.abs(10 * x), 0, 10).astype(int)), shapes, (2, 8))


def einsum_attention(p, x):
    """Heads and their size are axes of the kernels, so both follow from shapes; the temperature is learned."""
    q, k, v = (jnp.einsum('bnd,dhk->bnhk', x, p[name]) for name in ('query', 'key', 'value'))
    scores = jnp.einsum('bnhk,bmhk->bhnm', q, k) * p['temperature'][:, None, None]
    y = jnp.einsum('bhnm,bmhk->bnhk', jax.nn.softmax(scores, axis=-1), v)
    return jnp.einsum('bnhk,hkd->bnd', y, p['out'])


def einsum_transformer(p, x):
    """No norm, so the residual stream can be pruned; nor is anything of a head's size used as a number."""
    x = linear(p['patches'], x)
    x = x + p['positions']
    x = x + einsum_attention(p['attention'], x)
    x = x + linear(p['mlp'][1], jax.nn.gelu(linear(p['mlp'][0], x)))
    return linear(p['head'], x.mean(1))


def einsum_shapes(width=8, heads=3, size=4):
    kernels = {name: array(width, heads, size) for name in ('query', 'key', 'value')}
    return {
        'patches': affine(5, width),
        'positions': array(9, width),
        'attention': kernels | {'out': array(heads, size, width), 'temperature': array(heads)},
        'mlp': [affine(width, 12), affine(12, width)],
        'head': affine(width, 3),
    }


@register('plain_einsum_attention', prunable=5, protected={'head': 'output'})
def _():
    # The stream, the hidden layer, heads, the size of values, and (their producers masked) the size of keys.
    return plain(einsum_transformer, einsum_shapes(), (2, 9, 5))


def scaled_attention(p, x):
    """The usual scale: it is computed from the size of a head, so that size cannot change."""
    q, k, v = (jnp.einsum('bnd,dhk->bhnk', x, p[name]) for name in ('query', 'key', 'value'))
    scores = jnp.einsum('bhnk,bhmk->bhnm', q, k) * q.shape[-1] ** -0.5
    y = jnp.einsum('bhnm,bhmk->bhnk', jax.nn.softmax(scores, axis=-1), v)
    return jnp.einsum('bhnk,hkd->bnd', y, p['out'])


def scaled_transformer(p, x):
    x = linear(p['patches'], x) + p['positions']
    x = x + scaled_attention(p['attention'], x)
    return linear(p['head'], jax.nn.relu(linear(p['mlp'][0], x)).max(1))


@register('plain_scaled_attention', prunable=4, protected={'head': 'output'})
def _():
    # The stream, the hidden layer, heads and the size of values; not the size of queries and keys.
    shapes = einsum_shapes()
    del shapes['attention']['temperature']
    shapes['mlp'].pop()
    shapes['head'] = affine(12, 3)
    return plain(scaled_transformer, shapes, (2, 9, 5))


def rms_norm(scale, x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def rotate(x):
    """Rotary embedding of `[b, n, ..., size]`, in halves."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    angles = angles.reshape(1, x.shape[1], *(1,) * (x.ndim - 3), half)
    first, second = x[..., :half], x[..., half:]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def grouped_query_attention(p, x):
    """Several heads of queries share one of keys and values; the numbers of heads stand in the code."""
    b, n, _ = x.shape
    q = rotate((x @ p['wq']).reshape(b, n, 4, -1))
    k = rotate((x @ p['wk']).reshape(b, n, 2, -1))
    v = (x @ p['wv']).reshape(b, n, 2, -1)
    k, v = jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2)
    scores = jnp.einsum('bqhd,bkhd->bhqk', q, k) / math.sqrt(q.shape[-1])
    scores = jnp.where(jnp.arange(n)[:, None] >= jnp.arange(n), scores, -jnp.inf)
    y = jnp.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(scores), v)
    return y.reshape(b, n, -1) @ p['wo']


def llama(p, x):
    x = x @ p['embed']
    for layer in p['layers']:
        x = x + grouped_query_attention(layer['attention'], rms_norm(layer['attention_norm'], x))
        y = rms_norm(layer['ffn_norm'], x)
        x = x + (jax.nn.silu(y @ layer['ffn']['gate']) * (y @ layer['ffn']['up'])) @ layer['ffn']['down']
    return rms_norm(p['norm'], x) @ p['output']


@register(
    'plain_llama',
    prunable=4,
    protected={
        'embed': '',
        'layers/*/ffn/down': '',
        'layers/*/attention/w[qk]': '',
        'layers/*/attention/wo': '',
        'output': 'output',
    },
)
def _():
    # Of each block the hidden layer and the size of a head's values.
    def layer(hidden):
        attention = {'wq': array(8, 16), 'wk': array(8, 8), 'wv': array(8, 8), 'wo': array(16, 8)}
        ffn = {'gate': array(8, hidden), 'up': array(8, hidden), 'down': array(hidden, 8)}
        return {'attention': attention, 'attention_norm': array(8), 'ffn': ffn, 'ffn_norm': array(8)}

    shapes = {'embed': array(6, 8), 'layers': [layer(12), layer(10)], 'norm': array(8), 'output': array(8, 7)}
    return plain(llama, shapes, (2, 8, 6))


def mixture(p, x):
    """Two experts, weighed by a softmax of a gate; the experts' layers lie on top of each other."""
    x = jnp.tanh(linear(p['embed'], x))
    gates = jax.nn.softmax(x @ p['gate'], axis=-1)
    hidden = jax.nn.relu(jnp.einsum('bd,edh->beh', x, p['experts']['w1']) + p['experts']['b1'])
    y = jnp.einsum('beh,ehd->bed', hidden, p['experts']['w2']) + p['experts']['b2']
    x = x + jnp.einsum('be,bed->bd', gates, y)
    return linear(p['head'], x)


@register('plain_mixture', prunable=2, protected={'gate': 'reduce', 'head': 'output'})
def _():
    experts = {'w1': array(2, 6, 8), 'b1': array(2, 8), 'w2': array(2, 8, 6), 'b2': array(2, 6)}
    shapes = {'embed': affine(4, 6), 'gate': array(6, 2), 'experts': experts, 'head': affine(6, 3)}
    return plain(mixture, shapes, (3, 4))
