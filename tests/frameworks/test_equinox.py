"""Equinox modules at other widths do what their class does when it is built at these widths."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from jaxprune.errors import UserError
from jaxprune.frameworks import following, resize

WIDE, NARROW = 12, 8
KEY = jax.random.key(0)
IMAGE = (6, 6)
PIXELS = (5,)


class Attention(eqx.Module):
    layer: eqx.nn.MultiheadAttention

    def __call__(self, x):
        return self.layer(x.T, x.T, x.T).T


class Loop(eqx.Module):
    """A cell over a sequence, its first state made from its static width."""

    cell: eqx.nn.GRUCell

    def __call__(self, x):
        start = jnp.zeros(self.cell.hidden_size)
        return jax.lax.scan(lambda state, step: (self.cell(step, state), None), start, x.T)[0]


class LongLoop(Loop):
    cell: eqx.nn.LSTMCell

    def __call__(self, x):
        start = (jnp.zeros(self.cell.hidden_size), jnp.zeros(self.cell.hidden_size))
        return jax.lax.scan(lambda state, step: (self.cell(step, state), None), start, x.T)[0]


class PerPixel(eqx.Module):
    layer: eqx.Module

    def __call__(self, x):
        return jax.vmap(self.layer, in_axes=-1, out_axes=-1)(x)


class Stack(eqx.Module):
    """Layers on a leading axis, scanned."""

    layers: eqx.nn.Linear

    def __init__(self, width):
        self.layers = eqx.filter_vmap(lambda key: eqx.nn.Linear(width, width, key=key))(jax.random.split(KEY, 3))

    def __call__(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)
        return jax.lax.scan(lambda x, layer: (jax.vmap(eqx.combine(layer, static), 1, 1)(x), None), x, arrays)[0]


class Words(eqx.Module):
    layer: eqx.nn.Embedding

    def __call__(self, x):
        return jax.vmap(self.layer)(jnp.argmax(x, 0))


def attention(w, heads, size):
    return Attention(eqx.nn.MultiheadAttention(heads, w, qk_size=size, vo_size=2 * size, output_size=w, key=KEY))


LAYERS = {
    'Linear': (PIXELS, lambda w: PerPixel(eqx.nn.Linear(w, 2 * w, key=KEY))),
    'Linear to a scalar': (PIXELS, lambda w: PerPixel(eqx.nn.Linear(w, 'scalar', key=KEY))),
    'MLP': (PIXELS, lambda w: PerPixel(eqx.nn.MLP(w, 3, 2 * w, 2, key=KEY))),
    'Conv': (IMAGE, lambda w: eqx.nn.Conv2d(w, 2 * w, 3, stride=2, key=KEY)),
    'Conv in groups': (IMAGE, lambda w: eqx.nn.Conv2d(w, 2 * w, 3, groups=4, key=KEY)),
    'Conv depthwise': (IMAGE, lambda w: eqx.nn.Conv2d(w, w, 3, groups=w, key=KEY)),
    'Conv depthwise, multiplier 3': (IMAGE, lambda w: eqx.nn.Conv2d(w, 3 * w, 3, groups=w, use_bias=False, key=KEY)),
    'Conv of one axis': (PIXELS, lambda w: eqx.nn.Conv1d(w, 2 * w, 3, key=KEY)),
    'ConvTranspose': (IMAGE, lambda w: eqx.nn.ConvTranspose2d(w, 2 * w, 3, stride=2, key=KEY)),
    'ConvTranspose in groups': (IMAGE, lambda w: eqx.nn.ConvTranspose2d(w, w, 3, groups=w, key=KEY)),
    'LayerNorm': (PIXELS, lambda w: PerPixel(eqx.nn.LayerNorm(w))),
    'RMSNorm': (PIXELS, lambda w: PerPixel(eqx.nn.RMSNorm(w, use_weight=False))),
    'GroupNorm, 4 groups': (IMAGE, lambda w: eqx.nn.GroupNorm(4, w)),
    'GroupNorm of single channels': (IMAGE, lambda w: eqx.nn.GroupNorm(w, w)),
    'MultiheadAttention, smaller heads': (PIXELS, lambda w: attention(w, 4, w)),
    'MultiheadAttention, fewer heads': (PIXELS, lambda w: attention(w, 5 if w == WIDE else 4, 6)),
    'GRUCell': (PIXELS, lambda w: Loop(eqx.nn.GRUCell(w, 2 * w, key=KEY))),
    'LSTMCell': (PIXELS, lambda w: LongLoop(eqx.nn.LSTMCell(w, 2 * w, key=KEY))),
    'Embedding': (PIXELS, lambda w: Words(eqx.nn.Embedding(5, w, key=KEY))),
    'PReLU': (IMAGE, lambda w: eqx.nn.PReLU()),
    'WeightNorm': (PIXELS, lambda w: PerPixel(eqx.nn.WeightNorm(eqx.nn.Linear(w, 2 * w, key=KEY)))),
    'stack': (PIXELS, Stack),
}


class Model(eqx.Module):
    """The layer behind another one, at a width; lists, dictionaries and leaves that are no arrays."""

    first: dict[str, PerPixel]
    layers: list[eqx.Module]
    name: str = 'model'

    def __init__(self, layer, width):
        self.first = {'linear': PerPixel(eqx.nn.Linear(3, width, key=KEY))}
        self.layers = [LAYERS[layer][1](width)]

    def __call__(self, x):
        shape = x.shape[1:]
        return self.layers[0](self.first['linear'](x.reshape(3, -1)).reshape(-1, *shape))


def abstract(layer, width):
    return eqx.filter_eval_shape(Model, layer, width)


def arrays_of(module):
    return eqx.filter(module, lambda leaf: hasattr(leaf, 'shape'))


def static_of(module):
    return eqx.filter(module, lambda leaf: hasattr(leaf, 'shape'), inverse=True)


def program(function, *inputs) -> str:
    """The jaxpr: two functions of one program compute the same, bit for bit."""
    return re.sub(r' at 0x\w+', '', str(jax.make_jaxpr(function)(*inputs)))


def call(static, arrays, x):
    return eqx.combine(arrays, static)(x)


@pytest.mark.parametrize('layer', LAYERS)
def test_every_layer(layer):
    wide, native = abstract(layer, WIDE), abstract(layer, NARROW)
    image = jax.ShapeDtypeStruct((3, *LAYERS[layer][0]), jnp.float32)
    leaves, structure = jax.tree.flatten(wide)
    stale = jax.tree.unflatten(structure, jax.tree.leaves(native))
    expected = program(functools.partial(call, static_of(native)), arrays_of(native), image)
    for small in (stale, arrays_of(stale)):
        module = resize(wide, small)
        assert jax.tree.structure(module) == jax.tree.structure(native)
        assert program(functools.partial(call, static_of(module)), arrays_of(module), image) == expected
    assert jax.tree.leaves(wide) == leaves
    static = static_of(wide)
    for function in (functools.partial(call, static), lambda arrays, x: eqx.combine(arrays, static)(x)):
        assert program(following(function), arrays_of(stale), image) == expected


def test_training():
    wide, native = (abstract('Conv depthwise', width) for width in (WIDE, NARROW))
    module = resize(wide, native)
    image = jax.ShapeDtypeStruct((3, *IMAGE), jnp.float32)

    def gradients(model):
        loss = eqx.filter_value_and_grad(lambda model, x: jnp.sum(model(x) ** 2))
        return lambda arrays, x: arrays_of(loss(eqx.combine(arrays, static_of(model)), x))

    assert program(gradients(module), arrays_of(module), image) == program(gradients(native), arrays_of(native), image)


def test_batch_norm_with_its_state():
    def build(width):
        return eqx.nn.make_with_state(eqx.nn.BatchNorm)(width, axis_name='batch', mode='batch')

    (wide, _), (native, state) = build(WIDE), build(NARROW)
    module = resize(wide, jax.tree.unflatten(jax.tree.structure(wide), jax.tree.leaves(native)))
    assert module.input_size == NARROW
    assert wide.input_size == WIDE
    x = jax.ShapeDtypeStruct((4, NARROW, 5), jnp.float32)

    def run(batch_norm):
        def train(x):
            y, changed = jax.vmap(batch_norm, axis_name='batch', in_axes=(0, None), out_axes=(0, None))(x, state)
            return y, jax.tree.leaves(changed)

        return program(train, x)

    assert run(module) == run(native)


def test_following_a_function_of_a_module():
    wide, native = abstract('GroupNorm of single channels', WIDE), abstract('GroupNorm of single channels', NARROW)
    stale = jax.tree.unflatten(jax.tree.structure(arrays_of(wide)), jax.tree.leaves(arrays_of(native)))
    image = jax.ShapeDtypeStruct((3, *IMAGE), jnp.float32)
    seen = []

    def apply(model, x):
        seen.append(wide)  # a module of its own, with its arrays: not to be touched
        return model(x)

    assert program(following(apply), stale, image) == program(apply, arrays_of(native), image)
    assert seen[0] is wide


def test_groups_that_cannot_be_kept():
    wide = eqx.nn.GroupNorm(4, 12)
    small = eqx.tree_at(lambda norm: (norm.weight, norm.bias), wide, (jnp.ones(10), jnp.ones(10)))
    with pytest.raises(UserError, match='10 channels do not divide into the 4 groups that it had'):
        resize(wide, small)


def test_variables_of_another_model():
    with pytest.raises(UserError, match='they have 1 leaves, it has 2'):
        resize(eqx.nn.Linear(2, 3, key=KEY), [1])
