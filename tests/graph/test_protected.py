"""A channel that cannot be removed exactly, or not be followed, is protected and the reason names the primitive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxprune import graph

IMAGE = jax.ShapeDtypeStruct((2, 8), np.float32)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.float32)


def layer_norm(p, x):
    y = x @ p['a']
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
    return y @ p['b']


def gated_by_one(p, x):
    return ((x @ p['a']) * jax.nn.sigmoid(x @ p['gate'])) @ p['b']


def group_norm(p, x):
    y = (x @ p['a']).reshape(2, 2, -1)
    return (y - y.mean(-1, keepdims=True)).reshape(2, -1) @ p['b']


def centred_kernel(p, x):
    kernel = p['b'] - p['b'].mean(0, keepdims=True)
    return (x @ p['a']) @ kernel


def recurrent(p, x):
    y = x @ p['a']
    return jnp.tanh(y @ p['r'] + jnp.tanh(y @ p['r']) @ p['r']) @ p['b']


WIDE = {'a': shape(8, 6), 'b': shape(6, 3)}
# name: apply, parameters, layer -> what its reason says; all other layers but the last can be pruned
CASES = {
    'layer norm': (layer_norm, WIDE, {'a': 'reduce_sum'}),
    'softmax over channels': (lambda p, x: jax.nn.softmax(x @ p['a']) @ p['b'], WIDE, {'a': 'reduce_max'}),
    'largest channel': (lambda p, x: jnp.argmax(x @ p['a'], 1).astype(x.dtype), WIDE, {'a': 'argmax'}),
    'cumulative over channels': (lambda p, x: jnp.cumsum(x @ p['a'], 1) @ p['b'], WIDE, {'a': 'cumsum'}),
    'sorted channels': (lambda p, x: jnp.sort(x @ p['a'], 1) @ p['b'], WIDE, {'a': 'sort'}),
    'window over channels': (
        lambda p, x: lax.reduce_window(x @ p['a'], -jnp.inf, lax.max, (1, 3), (1, 1), 'SAME') @ p['b'],
        WIDE,
        {'a': 'reduce_window_max'},
    ),
    'group norm': (group_norm, WIDE, {'a': 'uses a number that depends on its width'}),
    'a constant per channel': (
        lambda p, x: (x @ p['a'] * jnp.arange(6, dtype=x.dtype)[None]) @ p['b'],
        WIDE,
        {'a': 'combines its channels with values that have none'},
    ),
    'added to the input': (lambda p, x: (x @ p['a'] + x) @ p['b'], {'a': shape(8, 8), 'b': shape(8, 3)}, {'a': 'add'}),
    'one channel for all': (gated_by_one, {**WIDE, 'gate': shape(8, 1)}, {'gate': 'repeats its channel'}),
    'one channel broadcast': (
        lambda p, x: jnp.broadcast_to(x @ p['gate'], (2, 6)) @ p['b'],
        {'gate': shape(8, 1), 'b': shape(6, 3)},
        {'gate': 'broadcast_in_dim'},
    ),
    'one channel without its axis': (
        lambda p, x: lax.squeeze(x @ p['gate'], (1,)),
        {'gate': shape(8, 1)},
        {'gate': 'squeeze'},
    ),
    'cut out at a computed place': (
        lambda p, x: lax.dynamic_slice_in_dim(x @ p['a'], jnp.argmax(x), 3, axis=1) @ p['b'][:3],
        WIDE,
        {'a': 'dynamic_slice'},
    ),
    'picked channels': (
        lambda p, x: (x @ p['a'])[:, jnp.array([0, 2, 5])] @ p['b'][:3],
        WIDE,
        {'a': 'gather'},
    ),
    'kernel centred over its input': (centred_kernel, WIDE, {'a': 'uses a number that depends on its width'}),
    'recurrent kernel': (recurrent, {**WIDE, 'r': shape(6, 6)}, {}),
    'also an output': (lambda p, x: ((y := x @ p['a']), y @ p['b']), WIDE, {'a': 'output of the model'}),
    'dropout': (
        lambda p, x: (x @ p['a'] * jax.random.normal(jax.random.key(0), (2, 6))) @ p['b'],
        WIDE,
        {'a': 'mul'},
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_protected_with_reason(name):
    apply, parameters, kept = CASES[name]
    found = graph.trace(apply, parameters, IMAGE)
    for layer in found.layers:
        if layer.name in kept:
            assert not layer.prunable
            reasons = [group.protected or '' for group in found.groups if layer.name in group.layers]
            assert any(kept[layer.name] in reason for reason in reasons), reasons
            assert layer.reason in reasons
        elif layer.name != 'b':
            assert layer.prunable, layer
    assert set(kept) <= {layer.name for layer in found.layers}


def test_reason_names_the_line_of_the_user():
    found = graph.trace(layer_norm, WIDE, IMAGE)
    assert 'test_protected.py:' in found.layers[0].reason


def test_unknown_primitive_is_named():
    def apply(p, x):
        return jnp.linalg.cholesky((x @ p['a'])[:1].T * jnp.eye(6)) @ p['b']

    found = graph.trace(apply, WIDE, IMAGE)
    assert not found.layers[0].prunable
    assert 'channels' in found.layers[0].reason
