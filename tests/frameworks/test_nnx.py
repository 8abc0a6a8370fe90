"""NNX modules at other widths do what their class does when it is built at these widths."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxprune.errors import UserError
from jaxprune.frameworks import following, resize

WIDE, NARROW = 12, 8
IMAGES = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)


class Sequence(nnx.Module):
    """Pixels as a sequence, for a layer that reads one."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(x.reshape(2, 16, -1))


class Cell(Sequence):
    """A cell over a sequence, its carry made by the cell."""

    def __init__(self, cell):
        self.layer = nnx.RNN(cell)


class Entries(Sequence):
    def __call__(self, x):
        return self.layer(jnp.argmax(x, -1))


class Attention(Sequence):
    def __call__(self, x):
        return self.layer(x.reshape(2, 16, -1), decode=False)


class Stack(nnx.Module):
    """Layers on a leading axis, scanned."""

    def __init__(self, width, rngs):
        make = nnx.vmap(lambda rngs: nnx.Linear(width, width, rngs=rngs))
        self.layers = make(rngs.split(3))

    def __call__(self, x):
        return nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)


LAYERS = {
    'Linear': lambda w, r: nnx.Linear(w, 2 * w, rngs=r),
    'LinearGeneral': lambda w, r: nnx.LinearGeneral((4, w), (w // 2, w), axis=(-2, -1), rngs=r),
    'LinearGeneral of a batch': lambda w, r: nnx.LinearGeneral(w, w, batch_axis={0: 2}, rngs=r),
    'Einsum': lambda w, r: nnx.Einsum('...a,abc->...bc', (w, 3, w // 2), (3, w // 2), rngs=r),
    'Conv': lambda w, r: nnx.Conv(w, 2 * w, (3, 3), strides=2, rngs=r),
    'Conv in groups': lambda w, r: nnx.Conv(w, 2 * w, (3, 3), feature_group_count=4, rngs=r),
    'Conv depthwise': lambda w, r: nnx.Conv(w, w, (3, 3), feature_group_count=w, rngs=r),
    'Conv depthwise, multiplier 3': lambda w, r: nnx.Conv(w, 3 * w, (3, 3), feature_group_count=w, rngs=r),
    'ConvTranspose': lambda w, r: nnx.ConvTranspose(w, 2 * w, (3, 3), strides=(2, 2), rngs=r),
    'ConvTranspose, kernel transposed': lambda w, r: nnx.ConvTranspose(w, 6, (2, 2), transpose_kernel=True, rngs=r),
    'Embed': lambda w, r: Entries(nnx.Embed(5, w, rngs=r)),
    'Embed of one': lambda w, r: Entries(nnx.Embed(1, w, rngs=r)),
    'BatchNorm': lambda w, r: nnx.BatchNorm(w, rngs=r),
    'BatchNorm without scale': lambda w, r: nnx.BatchNorm(w, use_scale=False, use_bias=False, rngs=r),
    'LayerNorm': lambda w, r: nnx.LayerNorm(w, rngs=r),
    'RMSNorm': lambda w, r: nnx.RMSNorm(w, rngs=r),
    'InstanceNorm': lambda w, r: nnx.InstanceNorm(w, rngs=r),
    'GroupNorm, 4 groups': lambda w, r: nnx.GroupNorm(w, num_groups=4, rngs=r),
    'GroupNorm of single channels': lambda w, r: nnx.GroupNorm(w, num_groups=w, rngs=r),
    'PReLU': lambda w, r: nnx.PReLU(),
    'MultiHeadAttention': lambda w, r: Attention(nnx.MultiHeadAttention(4, w, 2 * w, normalize_qk=True, rngs=r)),
    'MultiHeadAttention, fewer heads': lambda w, r: Attention(nnx.MultiHeadAttention(w // 4, w, rngs=r)),
    'LSTMCell': lambda w, r: Cell(nnx.LSTMCell(w, 2 * w, rngs=r)),
    'OptimizedLSTMCell': lambda w, r: Cell(nnx.OptimizedLSTMCell(w, 2 * w, rngs=r)),
    'SimpleCell': lambda w, r: Cell(nnx.SimpleCell(w, 2 * w, rngs=r)),
    'GRUCell': lambda w, r: Cell(nnx.GRUCell(w, 2 * w, rngs=r)),
    'LoRA': lambda w, r: nnx.LoRA(w, 2, 2 * w, base_module=nnx.Linear(w, 2 * w, rngs=r), rngs=r),
    'LoRALinear': lambda w, r: nnx.LoRALinear(w, 2 * w, lora_rank=2, rngs=r),
    'stack': Stack,
}


class Model(nnx.Module):
    """The layer behind another one, at a width."""

    def __init__(self, layer, width):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, width, rngs=rngs)
        self.layers = nnx.List([LAYERS[layer](width, rngs)])

    def __call__(self, x):
        for layer in (self.first, *self.layers):
            x = layer(x)
        return x


def abstract(layer, width) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: Model(layer, width)))


def program(graphdef, state, images=IMAGES) -> str:
    """The jaxpr of a call and what the call changes: two functions of one program compute the same, bit for bit."""

    def call(state, images):
        model = nnx.merge(graphdef, state)
        return model(images), nnx.state(model)

    return _text(call, state, images)


def _text(function, *inputs) -> str:
    return re.sub(r' at 0x\w+', '', str(jax.make_jaxpr(function)(*inputs)))


def integers(module) -> dict[Any, Any]:
    """Every attribute of every module that states sizes."""
    return {
        (*path, name): value
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Module)
        for name, value in vars(node).items()
        if isinstance(value, (int, tuple)) or name == 'batch_axis'
    }


@pytest.mark.parametrize('layer', LAYERS)
def test_every_layer(layer):
    (wide, _), (native, small) = abstract(layer, WIDE), abstract(layer, NARROW)
    module = resize(nnx.merge(*abstract(layer, WIDE)), small)
    assert integers(module) == integers(nnx.merge(native, small))
    graphdef, state = nnx.split(module)
    expected = program(native, small)
    assert program(graphdef, state) == expected
    assert _text(following(wide), small, IMAGES) == _text(following(native), small, IMAGES)


@pytest.fixture
def pair() -> tuple[nnx.Module, nnx.Module]:
    rng = np.random.default_rng(0)

    def build(width):
        graphdef, state = abstract('Conv depthwise', width)
        return nnx.merge(
            graphdef, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), state)
        )

    return build(WIDE), build(NARROW)


def test_training(pair):
    wide, native = pair
    module = resize(wide, nnx.state(native))

    @nnx.jit
    def step(model, optimizer, images):
        loss, gradients = nnx.value_and_grad(lambda model: jnp.sum(model(images) ** 2))(model)
        optimizer.update(model, gradients)
        return loss

    def train(graphdef, state, images):
        model = nnx.merge(graphdef, state)
        losses = [step(model, nnx.Optimizer(model, optax.sgd(0.01), wrt=nnx.Param), images) for _ in range(2)]
        return losses, nnx.state(model)

    programs = [
        _text(functools.partial(train, graphdef), state, IMAGES) for graphdef, state in map(nnx.split, (module, native))
    ]
    assert programs[0] == programs[1]
    assert wide.layers[0].kernel.shape == (3, 3, 1, WIDE)
    assert wide.layers[0].feature_group_count == WIDE


def test_some_of_the_variables(pair):
    wide, native = pair
    _, params, rest = nnx.split(native, nnx.PathContains('first'), ...)
    small = resize(wide, (params, rest))
    assert integers(small) == integers(native)
    only_bias = nnx.State({'first': {'bias': nnx.Param(jnp.full(WIDE, 7.0))}})
    changed = resize(wide, only_bias)
    assert changed.first.bias[0] == 7
    assert wide.first.bias[0] != 7
    np.testing.assert_array_equal(changed.first.kernel[...], wide.first.kernel[...])
    assert integers(resize(wide, nnx.to_pure_dict(nnx.state(native)))) == integers(native)
    assert integers(resize(wide, native)) == integers(native)
    with pytest.raises(UserError, match='it has no second/bias'):
        resize(wide, nnx.State({'second': {'bias': nnx.Param(jnp.ones(3))}}))
    with pytest.raises(UserError, match=r'takes an nnx\.State or several of them, not a int'):
        resize(wide, 3)


def outer(graphdef, merge):
    """A function in a function, as a library might make one."""
    return lambda state, images: merge(graphdef, state, images)


def test_following_functions_that_hold_a_graph_definition(pair):
    wide, native = (nnx.split(module)[0] for module in pair)
    small = nnx.state(pair[1])
    _, part, rest = nnx.split(pair[1], nnx.PathContains('first'), ...)
    expected = _text(following(native), small, IMAGES)

    def merge(graphdef, state, images):
        return nnx.merge(graphdef, state)(images)

    functions = [
        functools.partial(merge, wide),
        outer(wide, merge),
        jax.jit(outer(wide, merge)),
        lambda state, images, graphdef=wide: merge(graphdef, state, images),
    ]
    for function in functions:
        assert _text(following(function), small, IMAGES) == expected
    assert _text(following(lambda part, x: nnx.merge(wide, part, rest)(x)), part, IMAGES).count('lambda') == 1
    with_parts = following(lambda states, x: nnx.merge(wide, *states)(x))
    assert _text(with_parts, (part, rest), IMAGES) == _text(following(native), (part, rest), IMAGES)
    assert wide == nnx.split(pair[0])[0]


def test_following_a_function_of_a_module(pair):
    wide, native = pair
    stale = nnx.merge(nnx.split(wide)[0], nnx.state(native))

    def call(module, images):
        return module(images)

    assert _text(following(call), stale, IMAGES) == _text(call, native, IMAGES)
    assert stale.first.out_features == WIDE


def test_weight_norm():
    def build(width):
        return nnx.WeightNorm(nnx.Linear(3, width, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))

    def resized(images):
        wide, native = build(WIDE), build(NARROW)
        module = resize(wide, nnx.state(native))
        assert integers(module) == integers(native)
        return module(images), native(images)

    got, expected = jax.eval_shape(resized, IMAGES)
    assert got == expected


def test_groups_that_cannot_be_kept():
    wide = nnx.GroupNorm(12, num_groups=4, rngs=nnx.Rngs(0))
    assert resize(wide, nnx.State({'scale': nnx.Param(jnp.ones(8)), 'bias': nnx.Param(jnp.ones(8))})).group_size == 2
    with pytest.raises(UserError, match='10 channels do not divide into the 4 groups that it had'):
        resize(wide, nnx.State({'scale': nnx.Param(jnp.ones(10)), 'bias': nnx.Param(jnp.ones(10))}))
