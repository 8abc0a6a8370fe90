"""Linen modules at other widths do what their class does when it is built at these widths."""

import copy
import functools
import pickle
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import UserError
from jaxprune.frameworks import following, resize

WIDE, NARROW = 12, 8
IMAGES = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)
KEYS = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}


class OwnDense(nn.Module):
    """Parameters by hand: shapes from a field, by an initialiser without a shape, from an array, in `setup`."""

    features: int

    def setup(self):
        self.bias = self.param('bias', nn.initializers.ones, (self.features,))
        self.count = self.variable('stats', 'count', lambda: jnp.zeros(self.features))

    @nn.compact
    def __call__(self, x):
        kernel = self.param('kernel', nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        scale = self.param('scale', lambda key: jnp.ones(self.features))
        table = self.param('table', nn.initializers.constant(np.arange(self.features)), (self.features,), jnp.float32)
        vectors = jnp.stack([scale, self.bias, table, self.count.value])
        return x @ kernel @ jnp.einsum('ki,kj->ij', vectors, vectors)


class CellLoop(nn.Module):
    """A cell that is applied in the functional form of `nn.scan`, its carry made by the cell."""

    cell: Callable[..., Any]

    @nn.compact
    def __call__(self, x):
        cell = self.cell()
        carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
        loop = nn.scan(
            lambda cell, carry, x: cell(carry, x),
            variable_broadcast='params',
            split_rngs={'params': False},
            in_axes=1,
            out_axes=1,
        )
        return loop(cell, carry, x)[1]


class ScannedBlock(nn.Module):
    """Three equal blocks whose parameters are stacked on an axis."""

    width: int
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        def body(block, carry, _):
            return block(carry), None

        block = nn.remat(Block)(self.width)
        axes, split = {'params': self.axis, 'batch_stats': 0}, {'params': True}
        return nn.scan(body, variable_axes=axes, split_rngs=split, length=3)(block, x, None)[0]


class Block(nn.Module):
    width: int
    train: bool = False

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(2 * self.width, (1, 1))(x)
        y = nn.BatchNorm(use_running_average=not self.train)(y)
        y = nn.Conv(2 * self.width, (3, 3), feature_group_count=2 * self.width, use_bias=False)(nn.relu(y))
        return x + nn.Conv(self.width, (1, 1))(nn.GroupNorm(num_groups=4)(y))


class Shared(nn.Module):
    """One layer at two places, defined in `setup`, in a list and as a field of another module."""

    width: int

    def setup(self):
        self.dense = nn.Dense(self.width)
        self.blocks = [nn.Sequential([self.dense, nn.relu]), nn.Sequential([nn.Dense(self.width), self.dense])]

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def flat(layer):
    """Pixels as a sequence."""
    return lambda width: nn.Sequential([lambda x: x.reshape(2, 16, -1), layer(width)])


LAYERS = {
    'Dense': lambda w: nn.Dense(2 * w),
    'DenseGeneral': lambda w: nn.DenseGeneral((w // 2, w), axis=(-2, -1)),
    'DenseGeneral of a batch': lambda w: nn.DenseGeneral(w, axis=-1, batch_dims=(0,)),
    'Einsum': lambda w: nn.Einsum((w, 3, w // 2), '...a,abc->...bc'),
    'Conv': lambda w: nn.Conv(2 * w, (3, 3), strides=2),
    'Conv in groups': lambda w: nn.Conv(2 * w, (3, 3), feature_group_count=4),
    'Conv depthwise': lambda w: nn.Conv(w, (3, 3), feature_group_count=w),
    'Conv depthwise, multiplier 3': lambda w: nn.Conv(3 * w, (3, 3), feature_group_count=w),
    'ConvLocal': lambda w: nn.ConvLocal(2 * w, (3, 3)),
    'ConvTranspose': lambda w: nn.ConvTranspose(2 * w, (3, 3), strides=(2, 2)),
    'ConvTranspose, kernel transposed': lambda w: nn.ConvTranspose(2 * w, (2, 2), transpose_kernel=True),
    'BatchNorm': lambda w: nn.BatchNorm(use_running_average=True),
    'LayerNorm': lambda w: nn.LayerNorm(),
    'RMSNorm': lambda w: nn.RMSNorm(),
    'InstanceNorm': lambda w: nn.InstanceNorm(),
    'GroupNorm, 4 groups': lambda w: nn.GroupNorm(num_groups=4),
    'GroupNorm, groups of 4': lambda w: nn.GroupNorm(num_groups=None, group_size=4),
    'GroupNorm of single channels': lambda w: nn.GroupNorm(num_groups=w),
    'GroupNorm without parameters': lambda w: nn.GroupNorm(num_groups=w, use_bias=False, use_scale=False),
    'PReLU': lambda w: nn.PReLU(),
    'WeightNorm': lambda w: nn.WeightNorm(nn.Conv(2 * w, (3, 3))),
    'Embed': lambda w: nn.Sequential([lambda x: jnp.argmax(x, -1), nn.Embed(5, w)]),
    'Embed of one': lambda w: nn.Sequential([lambda x: jnp.argmax(x, -1), nn.Embed(1, w)]),
    'MultiHeadDotProductAttention': flat(lambda w: nn.MultiHeadDotProductAttention(4, normalize_qk=True)),
    'MultiHeadAttention': flat(lambda w: nn.MultiHeadAttention(w // 4, qkv_features=2 * w, out_features=w)),
    'SelfAttention': flat(lambda w: nn.SelfAttention(4, qkv_features=2 * w)),
    'GRUCell': flat(lambda w: nn.RNN(nn.GRUCell(w))),
    'LSTMCell': flat(lambda w: nn.RNN(nn.LSTMCell(w), reverse=True)),
    'OptimizedLSTMCell': flat(lambda w: nn.RNN(nn.OptimizedLSTMCell(w))),
    'SimpleCell': flat(lambda w: nn.RNN(nn.SimpleCell(w))),
    'MGUCell': flat(lambda w: nn.RNN(nn.MGUCell(w))),
    'ConvLSTMCell': lambda w: nn.Sequential([lambda x: x[:, None], nn.RNN(nn.ConvLSTMCell(w, (3, 3)))]),
    'Bidirectional': flat(lambda w: nn.Bidirectional(nn.RNN(nn.GRUCell(w)), nn.RNN(nn.LSTMCell(w)))),
    'cell in a functional scan': flat(lambda w: CellLoop(functools.partial(nn.GRUCell, w))),
    'own layer': OwnDense,
    'shared layer': Shared,
    'block': Block,
    'remat': nn.remat(Block),
    'jit': nn.jit(Block),
    'scan': ScannedBlock,
    'scan on the last axis': lambda w: ScannedBlock(w, axis=-1),
    'vmap': nn.vmap(
        nn.Dense, variable_axes={'params': 0}, split_rngs={'params': True}, in_axes=None, out_axes=-2, axis_size=5
    ),
    'vmap of a scan': nn.vmap(ScannedBlock, variable_axes={'params': 0, 'batch_stats': 0}, split_rngs={'params': True}),
}


class Model(nn.Module):
    """The layer between two others, at a width."""

    layer: Callable[[int], nn.Module]
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(self.layer(self.width)(nn.Dense(self.width, name='first')(x)))


def shapes_of(model, *inputs, **options) -> Any:
    return jax.eval_shape(functools.partial(model.init, **options), KEYS, *inputs)


def program(function, *inputs) -> str:
    """The jaxpr: two functions of one program compute the same, bit for bit."""
    return re.sub(r' at 0x\w+', '', str(jax.make_jaxpr(function)(*inputs)))


@pytest.mark.filterwarnings('ignore:SelfAttention will be deprecated')
@pytest.mark.parametrize('name', LAYERS)
def test_every_layer(name):
    wide, native = (Model(LAYERS[name], width) for width in (WIDE, NARROW))
    small = shapes_of(native, IMAGES)
    module = resize(wide, small)
    assert program(module.apply, small, IMAGES) == program(native.apply, small, IMAGES)
    assert shapes_of(module, IMAGES) == small


@pytest.mark.parametrize('name', ['block', 'Conv in groups', 'cell in a functional scan', 'Embed of one'])
def test_following(name):
    wide = Model(LAYERS[name], WIDE)
    for native in (wide, Model(LAYERS[name], NARROW)):
        variables = shapes_of(native, IMAGES)
        assert program(following(wide.apply), variables, IMAGES) == program(native.apply, variables, IMAGES)


@pytest.mark.parametrize('layer', [nn.Dense, lambda w: nn.Conv(w, (3, 3)), nn.remat(Block)])
def test_spectral_norm(layer):
    wide, native = (nn.SpectralNorm(layer(width)) for width in (WIDE, NARROW))
    features = jax.ShapeDtypeStruct((2, 4, 4, NARROW), jnp.float32)
    small = shapes_of(native, features, update_stats=True)
    train = [
        functools.partial(m.apply, update_stats=True, mutable=['batch_stats']) for m in (resize(wide, small), native)
    ]
    assert program(train[0], small, features) == program(train[1], small, features)
    assert shapes_of(resize(wide, small), features, update_stats=True) == small


def test_training():
    wide, native = (Model(functools.partial(Block, train=True), width) for width in (WIDE, NARROW))
    small = shapes_of(native, IMAGES)

    def step(model, params, stats, images):
        output, changed = model.apply({'params': params, 'batch_stats': stats}, images, mutable=['batch_stats'])
        return jnp.sum(output**2), changed

    gradients = [jax.value_and_grad(functools.partial(step, m), has_aux=True) for m in (resize(wide, small), native)]
    arguments = small['params'], small['batch_stats'], IMAGES
    assert program(gradients[0], *arguments) == program(gradients[1], *arguments)
    (_, changed), _ = jax.eval_shape(gradients[0], *arguments)
    assert changed['batch_stats']['Block_0']['BatchNorm_0']['mean'].shape == (2 * NARROW,)


def test_numbers():
    wide, native = (Model(LAYERS['Conv depthwise'], width) for width in (WIDE, NARROW))
    rng = np.random.default_rng(0)
    small = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes_of(native, IMAGES))
    images = rng.normal(size=IMAGES.shape).astype(np.float32)
    expected = jax.jit(native.apply)(small, images)
    np.testing.assert_array_equal(jax.jit(resize(wide, small).apply)(small, images), expected)
    assert np.ptp(expected) > 1


def test_boxed_parameters():
    kernel = nn.with_partitioning(nn.initializers.lecun_normal(), ('in', 'out'))
    wide, native = (nn.Sequential([nn.Dense(width, kernel_init=kernel), nn.Dense(2)]) for width in (WIDE, NARROW))
    small = shapes_of(native, IMAGES)
    assert isinstance(small['params']['layers_0']['kernel'], nn.Partitioned)
    for variables in (small, nn.unbox(small)):
        module = resize(wide, variables)
        assert shapes_of(module, IMAGES) == small
        assert program(module.apply, variables, IMAGES) == program(native.apply, variables, IMAGES)


def test_initialisers_are_asked_for_the_new_shape():
    """So that the scale of what they draw is right."""
    asked = []

    def init(key, shape, dtype):
        asked.append(shape)
        return jnp.zeros(shape, dtype)

    small = {'params': {'kernel': jnp.zeros((3, NARROW)), 'bias': jnp.zeros(NARROW)}}
    shapes_of(resize(nn.Dense(WIDE, kernel_init=init), small), IMAGES)
    assert asked == [(3, NARROW)]


class Coder(nn.Module):
    """Methods beside `__call__`, dropout, and a module given as a field."""

    width: int
    body: nn.Module

    def setup(self):
        self.encoder, self.decoder, self.dropout = nn.Dense(self.width), nn.Dense(3), nn.Dropout(0.5)
        self.depthwise = nn.Conv(self.width, (3, 3), feature_group_count=self.width)

    def encode(self, x, *, train=False):
        return self.dropout(self.depthwise(self.encoder(x)), deterministic=not train)

    def decode(self, x):
        return self.decoder(self.body(x))

    def __call__(self, x):
        return self.decode(self.encode(x))


@pytest.fixture
def coder() -> tuple[nn.Module, nn.Module, Any]:
    wide, native = (Coder(width, Block(width)) for width in (WIDE, NARROW))
    return wide, native, shapes_of(native, IMAGES)


def test_other_methods_and_ways_in(coder):
    wide, native, small = coder
    module = resize(wide, small)
    assert type(module).__name__ == 'Coder'
    assert isinstance(module, Coder)
    assert module.width == WIDE

    ways = [
        lambda model: functools.partial(model.apply, method='encode'),
        lambda model: functools.partial(model.apply, method=Coder.encode),
        lambda model: functools.partial(model.apply, method=lambda bound, x: bound.decode(2 * bound.encode(x))),
        lambda model: lambda v, x: model.apply(v, x, train=True, method='encode', rngs={'dropout': jax.random.key(0)}),
        lambda model: functools.partial(model.apply, capture_intermediates=True, mutable=['intermediates']),
        lambda model: lambda v, x: model.bind(v).decode(model.bind(v).encode(x)),
        lambda model: lambda v, x: model.bind(v).depthwise(model.bind(v).encoder(x)),
        lambda model: nn.apply(lambda bound, x: bound.encode(x), model),
    ]
    for way in ways:
        assert program(way(module), small, IMAGES) == program(way(native), small, IMAGES)
    with_output = [jax.eval_shape(model.init_with_output, KEYS, IMAGES) for model in (module, native)]
    assert with_output[0] == with_output[1]
    assert str(NARROW * 2) in module.tabulate(KEYS, jnp.zeros(IMAGES.shape))
    assert jax.eval_shape(lambda: module.lazy_init(KEYS, IMAGES))['params']['encoder']['kernel'].shape == (3, NARROW)
    assert program(resize(wide.apply, small), small, IMAGES) == program(native.apply, small, IMAGES)


def test_inside_another_module(coder):
    wide, native, small = coder

    class Outer(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.inner(nn.Dense(3)(x)))

    expected = shapes_of(Outer(native), IMAGES)
    module = Outer(resize(wide, small))
    assert shapes_of(module, IMAGES) == expected
    assert program(module.apply, expected, IMAGES) == program(Outer(native).apply, expected, IMAGES)
    rematted = Outer(nn.remat(type(module.inner))(WIDE, Block(WIDE)))
    assert shapes_of(rematted, IMAGES) == expected


def test_a_value_like_any_module(coder):
    wide, _, small = coder
    module = resize(wide, small)
    assert module == resize(wide, small)
    assert hash(module) == hash(resize(wide, small))
    assert module != wide
    for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.clone(), resize(module, small)):
        assert type(same) is type(module)
        assert shapes_of(same, IMAGES) == small
    back = shapes_of(wide, IMAGES)
    assert shapes_of(resize(module, back), IMAGES) == back


def test_nothing_outlives_the_call(coder):
    wide, _, small = coder
    before = shapes_of(wide, IMAGES)
    program(following(wide.apply), small, IMAGES)
    program(resize(wide, small).apply, small, IMAGES)
    assert shapes_of(wide, IMAGES) == before
    with pytest.raises(nn.module.errors.ScopeParamShapeError):
        jax.eval_shape(wide.apply, small, IMAGES)


def test_following_any_function_of_variables(coder):
    wide, native, small = coder
    functions = [
        lambda v, x: jnp.tanh(wide.apply({**v}, x)),
        jax.jit(lambda v, x: jnp.tanh(wide.apply(v, x))),
        functools.partial(lambda model, v, x: jnp.tanh(model.apply(v, x)), wide),
    ]
    expected = jax.eval_shape(native.apply, small, IMAGES)
    for function in functions:
        assert jax.eval_shape(following(function), small, IMAGES) == expected
        assert str(NARROW * 2) in program(following(function), small, IMAGES)


def test_groups_that_cannot_be_kept():
    small = {'params': {'scale': jnp.ones(10), 'bias': jnp.ones(10)}}
    module = resize(nn.GroupNorm(num_groups=4), small)
    with pytest.raises(UserError, match='10 channels do not divide into the 4 groups'):
        module.apply(small, jnp.ones((1, 2, 10)))


def test_variables_of_another_kind():
    with pytest.raises(UserError, match='Dense takes variables in a dictionary, not a list'):
        resize(nn.Dense(3), [1, 2])
