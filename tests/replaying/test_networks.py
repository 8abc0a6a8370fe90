"""Networks that fix their widths in their source: the replayed function computes what the masked one does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxprune import graph, pruning
from jaxprune.errors import UserError
from jaxprune.pruning import Plan, PlanLayer
from jaxprune.replaying import kept_places, replay, replay_kept

from ._masks import blank, close, cut, draw, quick, some

IMAGES = np.random.default_rng(3).normal(size=(2, 6, 6, 3))
TOKENS = np.random.default_rng(4).normal(size=(2, 5, 8))


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(size, float) for name, size in sizes.items()}


def conv(x, kernel, groups=1, **options):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=numbers, feature_group_count=groups
    )


def residual(v, x):
    """Adds where the widths are those that were written down."""
    x = conv(x, v['stem'])
    y = conv(jax.nn.relu(conv(x, v['up'])), v['depth'], groups=v['depth'].shape[-1])
    y = conv(jax.nn.relu6(y), v['down'])
    x = x + y if x.shape[-1] == 8 else y
    return x.mean((1, 2)) @ v['head']


def attention(v, x):
    """Three heads of four channels; the scale is a number."""
    q, k, u = (jnp.reshape(x @ v[name] + v[name + '_bias'], (*x.shape[:2], 3, 4)) for name in 'qku')
    weights = jax.nn.softmax(jnp.einsum('bihd,bjhd->bhij', q, k) / np.sqrt(4), axis=-1)
    return jnp.einsum('bhij,bjhd->bihd', weights, u).reshape(*x.shape[:2], 12) @ v['out']


def rotary(v, x):
    """Turns pairs of channels by angles from a table with an entry per channel."""
    angles = np.arange(5.0)[:, None] * 0.1 ** np.tile(np.arange(4), 2)
    q, k = (x @ v[name] for name in 'qk')

    def turn(y):
        return y * np.cos(angles) + jnp.concatenate([-y[..., 4:], y[..., :4]], -1) * np.sin(angles)

    return jnp.einsum('bic,bjc->bij', turn(q), turn(k))


def norm(v, x):
    """Root mean square of all 12 channels, of which some are zero."""
    x = x @ v['up']
    x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * v['scale']
    return x @ v['down']


def shuffle(v, x):
    """Grouped convolutions with a channel shuffle between them."""
    x = conv(x, v['stem'])
    x = jax.nn.relu(conv(x, v['first'], groups=2))
    x = x.reshape(*x.shape[:3], 2, 4).swapaxes(-1, -2).reshape(*x.shape[:3], 8)
    return conv(x, v['second'], groups=4).mean((1, 2)) @ v['last']


def recurrent(v, x):
    """A gated recurrent unit that starts from zeros."""

    def cell(h, row):
        z = jax.nn.sigmoid(row @ v['z'] + h @ v['hz'])
        return z * h + (1 - z) * jnp.tanh(row @ v['n'] + h @ v['hn']), h

    last, states = jax.lax.scan(cell, jnp.zeros((x.shape[0], 6)), x.swapaxes(0, 1))
    return last @ v['out'], states @ v['out']


def wavelets(v, x):
    """Hard-coded slices, a learned table that is looked up, and a blur with a kernel of constants."""
    x = conv(x, v['stem'])
    x = conv(x, np.ones((3, 3, 1, 6)) / 9, groups=6) + v['table'][np.arange(6) % 4][:, None]
    low, high = x[..., :3], x[..., 3:6]
    return (low * v['gain'][:3]) @ v['low'] + (high * v['gain'][3:]) @ v['high']


HEADS, SIZES = np.repeat(some(3, 0, 2), 4), np.tile(some(4, 0, 1, 3), 3)
PAIRS = np.tile(some(4, 0, 3), 2)
QKV, BIASES = ('q', 'k', 'u'), ('q_bias', 'k_bias', 'u_bias')
CASES = {
    'residual': (
        residual,
        shapes(stem=(3, 3, 3, 8), up=(1, 1, 8, 6), depth=(3, 3, 1, 6), down=(1, 1, 6, 8), head=(8, 3)),
        {'stem': {3: some(8, 1, 2, 5)}, 'up': {2: some(8, 1, 2, 5), 3: some(6, 0, 5)}, 'depth': {3: some(6, 0, 5)}}
        | {'down': {2: some(6, 0, 5), 3: some(8, 1, 2, 5)}, 'head': {0: some(8, 1, 2, 5)}},
        IMAGES,
    ),
    'heads': (
        attention,
        shapes(**dict.fromkeys(QKV, (8, 12)), **dict.fromkeys(BIASES, (12,)), out=(12, 8)),
        {name: {1: HEADS} for name in QKV} | {name: {0: HEADS} for name in BIASES} | {'out': {0: HEADS}},
        TOKENS,
    ),
    'size of heads': (
        attention,
        shapes(**dict.fromkeys(QKV, (8, 12)), **dict.fromkeys(BIASES, (12,)), out=(12, 8)),
        {name: {1: SIZES} for name in QKV} | {name: {0: SIZES} for name in BIASES} | {'out': {0: SIZES}},
        TOKENS,
    ),
    'rotary': (rotary, shapes(q=(8, 8), k=(8, 8)), {'q': {1: PAIRS}, 'k': {1: PAIRS}}, TOKENS),
    'norm': (
        norm,
        shapes(up=(8, 12), scale=(12,), down=(12, 8)),
        {'up': {1: some(12, 0, 3, 4, 9)}, 'scale': {0: some(12, 0, 3, 4, 9)}, 'down': {0: some(12, 0, 3, 4, 9)}},
        TOKENS,
    ),
    'the same places of every group': (
        shuffle,
        shapes(stem=(1, 1, 3, 6), first=(3, 3, 3, 8), second=(3, 3, 2, 4), last=(4, 3)),
        {'stem': {3: np.tile(some(3, 0, 2), 2)}, 'first': {2: some(3, 0, 2), 3: np.tile(some(4, 1, 2), 2)}}
        | {'second': {3: some(4, 1, 2)}, 'last': {0: some(4, 1, 2)}},
        IMAGES,
    ),
    'other channels of every group': (
        lambda v, x: conv(conv(x, v['first'], groups=3), v['last']),
        shapes(first=(1, 1, 1, 6), last=(1, 1, 6, 2)),
        {'first': {3: some(6, 1, 2, 4)}, 'last': {2: some(6, 1, 2, 4)}},
        IMAGES,
    ),
    'recurrent': (
        recurrent,
        shapes(z=(8, 6), hz=(6, 6), n=(8, 6), hn=(6, 6), out=(6, 2)),
        {name: {1: some(6, 1, 2)} for name in 'zn'}
        | {name: {0: some(6, 1, 2), 1: some(6, 1, 2)} for name in ('hz', 'hn')}
        | {'out': {0: some(6, 1, 2)}},
        TOKENS,
    ),
    'slices': (
        wavelets,
        shapes(stem=(1, 1, 3, 6), table=(4, 6), gain=(6,), low=(3, 2), high=(3, 2)),
        {'stem': {3: some(6, 0, 4, 5)}, 'gain': {0: some(6, 0, 4, 5)}, 'table': {1: some(6, 0, 4, 5)}}
        | {'low': {0: some(3, 0)}, 'high': {0: some(3, 1, 2)}},
        IMAGES,
    ),
}


def both(apply, run, masked, small, *inputs):
    """What two functions make of their variables and the same inputs."""
    return quick(lambda masked, small, *inputs: (apply(masked, *inputs), run(small, *inputs)))(masked, small, *inputs)


@pytest.mark.parametrize('case', CASES)
def test_masked_is_replayed(case):
    apply, structs, places, inputs = CASES[case]
    kept = {(name,): axes for name, axes in places.items()}
    whole = draw(structs)
    if 'q' in structs:  # scores join channels of parameters with each other: no reader of its own is masked
        whole = blank(whole, kept)
    run = replay_kept(apply, structs, kept)
    expected, actual = both(apply, run, blank(whole, kept), cut(whole, kept), inputs)
    close(actual, expected)
    assert np.abs(jax.tree.leaves(expected)[0]).max() > 1e-3


def test_the_source_at_other_widths_is_another_function():
    """Why the program is replayed: the comparison of widths in the block turns out otherwise."""
    apply, structs, places, inputs = CASES['residual']
    kept = {(name,): axes for name, axes in places.items()}
    small = cut(draw(structs), kept)
    plain, replayed = both(apply, replay_kept(apply, structs, kept), small, small, inputs)
    assert np.abs(plain - replayed).max() > 0.1


FREED = {'residual': 'stem', 'heads': 'q', 'norm': 'up', 'recurrent': 'z'}


@pytest.mark.parametrize('case', FREED)
def test_groups_that_need_not_run_at_other_widths(case):
    """What the tracer protects only because the source fixes widths can be pruned where the program is replayed."""
    apply, structs, _, inputs = CASES[case]
    proven, found = (graph.trace(apply, structs, inputs, prove=prove) for prove in (True, False))
    assert proven.group_of(FREED[case]).protected and not found.group_of(FREED[case]).protected
    plan, whole = prune_all(found), draw(structs)
    run = replay(apply, structs, plan)
    expected, actual = both(apply, run, pruning.mask(whole, plan), pruning.slice_variables(whole, plan), inputs)
    close(actual, expected)


def prune_all(found):
    """A plan that keeps three channels of every group that can be pruned."""
    free = [group for group in found.groups if group.protected is None]
    index = {layer.name: layer.index for layer in found.layers}
    layers = [
        PlanLayer(index[group.layers[0]], group.name, group.channels, (0, 2, group.channels - 1)) for group in free
    ]
    return Plan(tuple(layers)).on(found)


class Net(nn.Module):
    """A residual block with a fixed width, batch norms and dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (1, 1))(x)
        y = nn.Conv(6, (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train, name='inner')(y))
        y = nn.Dropout(0.5, deterministic=not train, name='drop')(nn.Conv(8, (1, 1))(y))
        x = x + y if x.shape[-1] == 8 else y
        x = nn.BatchNorm(use_running_average=not train, name='outer')(x)
        return nn.Dense(4)(x.mean((1, 2)))


@pytest.fixture(scope='module')
def network():
    """The model, float64 variables, its graph, and a plan that prunes every group that can be."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
        model = Net()
        structs = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
        variables = jax.tree.map(np.abs, draw(structs))
        found = graph.trace(model.apply, structs, IMAGES, prove=False)
        plan = prune_all(found)
        assert sorted(plan.channels.values()) == [6, 8]
        return model, variables, plan


def test_plan(network):
    model, variables, plan = network
    run = replay(model.apply, variables, plan)
    small = pruning.slice_variables(variables, plan)
    expected, actual = both(model.apply, run, pruning.mask(variables, plan), small, IMAGES)
    close(actual, expected)
    with pytest.raises(UserError, match=r'plan\.on\(graph\)'):
        replay(model.apply, variables, Plan(plan.layers))
    with pytest.raises(UserError, match='do not belong to this model'):
        replay(model.apply, {'params': {}}, plan)


def test_training(network):
    """Updated statistics are those of the masked network, without the channels that went; dropout draws the same."""
    model, variables, plan = network
    options = {'train': True, 'rngs': {'dropout': jax.random.key(3)}, 'mutable': ['batch_stats']}
    run, small = replay(model.apply, variables, plan), pruning.slice_variables(variables, plan)
    pair = (functools.partial(each, **options) for each in (model.apply, run))
    (expected, changed), (actual, smaller) = both(*pair, pruning.mask(variables, plan), small, IMAGES)
    kept = kept_places(plan.graph, variables, plan.keep)
    changed = jax.tree.map(np.asarray, changed)
    close(actual, expected)
    close(smaller, cut(changed, {path: axes for path, axes in kept.items() if path[0] == 'batch_stats'}))
    assert smaller['batch_stats']['outer']['mean'].shape == (3,)


def test_pure_and_compiled_once(network):
    model, variables, plan = network
    traced = []

    def apply(*arguments):
        traced.append(arguments[1].shape)
        return model.apply(*arguments)

    run, small = replay(apply, variables, plan), pruning.slice_variables(variables, plan)
    compiled = quick(run)
    results = [compiled(small, images) for images in (IMAGES, IMAGES + 1, IMAGES)]
    assert traced == [IMAGES.shape]
    assert jax.eval_shape(run, small, np.zeros((7, 4, 4, 3))).shape == (7, 4)
    close(quick(jax.vmap(run, in_axes=(None, 0)))(small, IMAGES[:, None])[:, 0], results[0])


def test_variables_may_have_another_type(network):
    model, variables, plan = network
    small = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), pruning.slice_variables(variables, plan))
    run = replay(model.apply, variables, plan)
    assert jax.eval_shape(run, small, IMAGES.astype(np.float32)).dtype == np.float32


def test_size_of_the_program(network):
    """Nothing is computed at the original width: every product and convolution is small."""
    model, variables, plan = network
    program = jax.make_jaxpr(replay(model.apply, variables, plan))(pruning.slice_variables(variables, plan), IMAGES)
    outputs = [
        equation.outvars[0].aval.shape[-1]
        for equation in program.jaxpr.eqns
        if equation.primitive.name in ('conv_general_dilated', 'dot_general')
    ]
    assert outputs == [3, 3, 3, 4]
