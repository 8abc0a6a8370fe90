"""Penalties against their formulas, channel by channel; masked training against training the sliced model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import trace
from jaxprune.pruning import Plan, PlanLayer, mask, slice_variables
from jaxprune.pruning import regularise as reg

IMAGES = np.random.default_rng(0).normal(size=(4, 6, 6, 3))
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
LABELS = np.random.default_rng(1).normal(size=(4, 2))


class LinenNet(nn.Module):
    """Residual, concatenation and a flattened head, with normalisation in evaluation mode."""

    stem: int = 6
    inner: int = 5

    @nn.compact
    def __call__(self, x):
        options = {'use_bias': False, 'param_dtype': jnp.float64}
        norm = functools.partial(nn.BatchNorm, use_running_average=True, param_dtype=jnp.float64)
        x = nn.silu(norm(name='bn_a')(nn.Conv(self.stem, (3, 3), name='a', **options)(x)))
        y = nn.relu(norm(name='bn_b')(nn.Conv(self.inner, (3, 3), name='b', **options)(x)))
        x = x + nn.Conv(self.stem, (1, 1), name='c', **options)(y)
        x = nn.max_pool(jnp.concatenate([x, y], -1), (3, 3), (3, 3))
        return nn.Dense(2, param_dtype=jnp.float64, name='head')(x.reshape(len(x), -1))


def plain(p, x):
    """Two convolutions of different layouts of parameters, one with a bias, and a gate."""

    def conv(w, x):
        return lax.conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    x = jax.nn.silu(conv(p['a']['w'], x) + p['a']['bias'].reshape(1, 1, 1, -1))
    gate = jax.nn.sigmoid(jnp.einsum('bc,dc->bd', x.mean((1, 2)), p['gate']['w']))
    x = jnp.tanh(conv(p['b']['w'], x * gate[:, None, None]))
    return x.mean((1, 2)) @ p['head']['w']


@dataclasses.dataclass(frozen=True)
class Case:
    variables: Any
    graph: Any
    apply: Callable
    resized: Callable


def linen_case():
    module = LinenNet()
    with jax.numpy_dtype_promotion('standard'):  # Flax starts statistics in single precision
        variables = _random(jax.eval_shape(module.init, jax.random.key(0), IMAGES))

    narrow = functools.cache(lambda *widths: LinenNet(*widths).apply)

    def resized(small):
        return narrow(*(small['params'][name]['kernel'].shape[-1] for name in 'ab'))

    return Case(variables, trace(module.apply, variables, IMAGES), module.apply, resized)


def plain_case():
    shapes = {
        'a': {'w': (3, 3, 3, 6), 'bias': (6,)},
        'gate': {'w': (6, 6)},
        'b': {'w': (1, 1, 6, 5)},
        'head': {'w': (5, 2)},
    }
    variables = _random(jax.tree.map(jax.ShapeDtypeStruct, shapes, _like(shapes), is_leaf=_is_shape))
    return Case(variables, trace(plain, variables, IMAGES), plain, lambda small: plain)


def _is_shape(node):
    return isinstance(node, tuple)


def _like(shapes):
    return jax.tree.map(lambda shape: np.dtype(np.float64), shapes, is_leaf=_is_shape)


def _random(shapes):
    rng = np.random.default_rng(2)

    def draw(leaf):
        scale = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(scale * rng.uniform(0.3, 1, leaf.shape) * rng.choice([-1, 1], leaf.shape))

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope='module')
def cases():
    with jax.enable_x64(True):
        made = {'linen': linen_case(), 'plain': plain_case()}
        made['linen'].variables['batch_stats'] = jax.tree.map(jnp.abs, made['linen'].variables['batch_stats'])
        yield made


def make_plan(graph):
    groups = [group for group in graph.groups if not group.protected]
    lowest = {layer.name: layer.index for layer in graph.layers}
    kept = (PlanLayer(lowest[g.layers[0]], g.name, g.channels, tuple(range(0, g.channels, 2))) for g in groups)
    return Plan(tuple(kept)).on(graph)


OPTIMISERS = {
    'momentum': optax.sgd(0.02, momentum=0.9, nesterov=True),
    'adam': optax.adam(0.02),
    'clipped adamw': optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.02, weight_decay=0.1)),
    'lamb': optax.lamb(0.02, weight_decay=0.1),
}


@functools.cache
def gradient_of(apply):
    def loss(params, rest):
        variables = {'params': params, **rest} if rest else params
        return jnp.mean((apply(variables, IMAGES) - LABELS) ** 2)

    return jax.jit(jax.grad(loss), compiler_options=QUICK)


def train(optimiser, apply, variables, steps=4):
    """All steps on `params`; the statistics stay."""
    rest = {key: value for key, value in variables.items() if key == 'batch_stats'}
    params = variables['params'] if rest else variables
    update = jax.jit(optimiser.update, compiler_options=QUICK)
    with jax.numpy_dtype_promotion('standard'):  # Optax multiplies numbers with counts of steps
        state = optimiser.init(params)
        for _ in range(steps):
            updates, state = update(gradient_of(apply)(params, rest), state, params)
            params = optax.apply_updates(params, updates)
    return {'params': params, **rest} if rest else params


def distance(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return np.max([np.max(np.abs(np.asarray(a) - np.asarray(b, float))) for a, b in pairs])


@pytest.mark.parametrize(
    ('model', 'name'),
    [('linen', 'momentum'), ('linen', 'clipped adamw'), ('plain', 'adam'), ('plain', 'lamb')],
)
def test_masked_training_is_training_of_the_sliced_model(cases, model, name):
    case, optimiser = cases[model], OPTIMISERS[name]
    plan = make_plan(case.graph)
    start = mask(case.variables, plan)
    end = train(reg.masked(optimiser, plan), case.apply, start)
    small = slice_variables(start, plan)
    expected = train(optimiser, case.resized(small), small)
    assert distance(slice_variables(end, plan), expected) < 1e-10
    assert distance(expected, small) > 1e-3, 'nothing was trained'
    assert distance(mask(end, plan), end) == 0, 'a removed channel came back'


def test_the_optimiser_meets_zeros_and_what_is_removed_stays_put(cases):
    case, seen = cases['linen'], []
    plan = make_plan(case.graph)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape), case.variables['params'])
    watch = optax.GradientTransformation(
        seen.append,
        lambda updates, state, params: (seen.extend([updates, params]) or ones, None),
    )
    optimiser = reg.masked(watch, plan)
    updates, _ = optimiser.update(ones, optimiser.init(ones), ones)
    kept_a, kept_b = np.arange(6) % 2 == 0, np.arange(5) % 2 == 0
    for tree in (*seen, updates):
        assert distance(tree['a']['kernel'], np.broadcast_to(kept_a, (3, 3, 3, 6))) == 0
        assert distance(tree['c']['kernel'], np.broadcast_to(kept_b[:, None] & kept_a, (1, 1, 5, 6))) == 0
        assert distance(tree['bn_b']['bias'], kept_b) == 0
    assert len(seen) == 3


def lasso_by_hand(params, channels_of):
    """`channels_of`: per group, per channel, the arrays of its weights."""
    total = 0.0
    for channels in channels_of(jax.tree.map(np.asarray, params)):
        for parts in channels:
            weights = np.concatenate([np.ravel(part) for part in parts])
            total += np.sqrt(weights.size) * np.sqrt((weights**2).sum())
    return total


def produced(p):
    yield [[p['a']['kernel'][..., i], p['c']['kernel'][..., i]] for i in range(6)]
    yield [[p['b']['kernel'][..., i]] for i in range(5)]


def channels(p):
    return [channel for group in produced(p) for channel in group]


def produced_and_read(p):
    head = p['head']['kernel'].reshape(4, 11, 2)
    yield [
        [p['a']['kernel'][..., i], p['c']['kernel'][..., i], p['b']['kernel'][:, :, i], head[:, i]] for i in range(6)
    ]
    yield [[p['b']['kernel'][..., i], p['c']['kernel'][:, :, i], head[:, 6 + i]] for i in range(5)]


@pytest.mark.parametrize(('roles', 'channels_of'), [(('produce',), produced), (('produce', 'read'), produced_and_read)])
def test_group_lasso_is_its_formula(cases, roles, channels_of):
    case = cases['linen']
    penalty = jax.jit(reg.group_lasso(case.graph, strength=0.3, roles=roles))
    expected = 0.3 * lasso_by_hand(case.variables['params'], channels_of)
    np.testing.assert_allclose(penalty(case.variables), expected, rtol=1e-12)
    np.testing.assert_allclose(penalty(case.variables['params']), expected, rtol=1e-12)


def test_group_lasso_can_be_derived_where_a_channel_is_zero(cases):
    case = cases['linen']
    zeros = jax.tree.map(jnp.zeros_like, case.variables)
    slopes = jax.jit(jax.grad(reg.group_lasso(case.graph, strength=1.0)))(zeros)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_excluded_groups_do_not_count(cases):
    case = cases['linen']
    only_b = jax.jit(reg.group_lasso(case.graph, strength=1.0, exclude=['c']))(case.variables)
    np.testing.assert_allclose(
        only_b, lasso_by_hand(case.variables['params'], lambda p: list(produced(p))[1:]), rtol=1e-12
    )


def test_half_precision_is_summed_in_single(cases):
    case = cases['linen']
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), case.variables)
    value = jax.jit(reg.group_lasso(case.graph, strength=1.0))(half)
    assert value.dtype == jnp.float32
    exact = lasso_by_hand(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), half['params']), produced)
    np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_proximal_step_meets_the_condition_of_optimality(cases):
    """`x = prox(w)` minimises `|x - w|^2 / 2 + t |x|`: `w - x = t x / |x|`, or `|w| <= t` where `x` is zero."""
    case = cases['linen']
    params = case.variables['params']
    strength, rate = 0.3, 0.5
    transform = optax.chain(
        optax.sgd(rate), reg.proximal_group_lasso(case.graph, strength=strength, learning_rate=rate)
    )
    rng = np.random.default_rng(5)
    gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    scale = jnp.where(jnp.arange(5) < 2, 0.1, 1.0).reshape(1, 1, 1, 5)
    params = {**params, 'b': {'kernel': params['b']['kernel'] * scale}}
    gradients = {**gradients, 'b': {'kernel': gradients['b']['kernel'] * scale}}
    updates, _ = jax.jit(transform.update)(gradients, transform.init(params), params)
    stepped = jax.tree.map(lambda w, g: np.asarray(w - rate * g), params, gradients)
    after = jax.tree.map(np.asarray, optax.apply_updates(params, updates))
    zeros = 0
    for before_parts, after_parts in zip(channels(stepped), channels(after), strict=True):
        w, x = (np.concatenate([part.ravel() for part in parts]) for parts in (before_parts, after_parts))
        threshold = rate * strength * np.sqrt(w.size)
        if np.any(x):
            np.testing.assert_allclose(w - x, threshold * x / np.linalg.norm(x), atol=1e-12)
        else:
            assert np.linalg.norm(w) <= threshold
            zeros += 1
    assert 0 < zeros < 11
    assert distance(after['head'], stepped['head']) == 0


def test_proximal_step_follows_a_schedule(cases):
    case = cases['linen']
    params = case.variables['params']
    transform = reg.proximal_group_lasso(case.graph, strength=1.0, learning_rate=lambda step: 0.01 * step.astype(float))
    nothing = jax.tree.map(jnp.zeros_like, params)
    state = transform.init(params)
    update = jax.jit(transform.update)
    first, state = update(nothing, state, params)
    second, state = update(nothing, state, params)
    assert distance(first, nothing) == 0
    shrunk = params['b']['kernel'] + second['b']['kernel']
    old, new = (np.sqrt(np.sum(np.square(kernel), axis=(0, 1, 2))) for kernel in (params['b']['kernel'], shrunk))
    np.testing.assert_allclose(new, old - 0.01 * np.sqrt(54), rtol=1e-10)


def test_bn_slimming_is_the_sum_of_the_scales_and_its_transform_its_derivative(cases):
    case = cases['linen']
    params = case.variables['params']
    penalty = jax.jit(reg.bn_slimming(case.graph, strength=0.2))
    scales = [np.asarray(params[name]['scale']) for name in ('bn_a', 'bn_b')]
    np.testing.assert_allclose(penalty(params), 0.2 * sum(np.abs(scale).sum() for scale in scales), rtol=1e-12)
    np.testing.assert_allclose(penalty(case.variables), penalty(params), rtol=1e-12)
    transform = reg.add_bn_slimming(case.graph, strength=0.2)
    rng = np.random.default_rng(6)
    gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    updates, _ = jax.jit(transform.update)(gradients, transform.init(params), params)
    expected = jax.tree.map(lambda g, own: g + own, gradients, jax.grad(penalty)(params))
    assert distance(updates, expected) < 1e-15
    assert (
        distance(updates['bn_a'], {**gradients['bn_a'], 'scale': gradients['bn_a']['scale'] + 0.2 * np.sign(scales[0])})
        < 1e-15
    )


def test_optimiser_may_hold_the_whole_variables(cases):
    case = cases['linen']
    plan = make_plan(case.graph)
    ones = jax.tree.map(jnp.ones_like, case.variables)
    optimiser = reg.masked(optax.identity(), plan)
    updates, _ = optimiser.update(ones, optimiser.init(ones), ones)
    inner, _ = optimiser.update(ones['params'], optimiser.init(ones['params']), ones['params'])
    assert distance(updates['params'], inner) == 0
    left = sum(leaf.size for leaf in jax.tree.leaves(slice_variables(case.variables, plan)))
    assert sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(updates)) == left
    assert trees.flatten(updates).keys() == trees.flatten(ones).keys()


class NnxNet(nnx.Module):
    def __init__(self):
        self.a, self.b = nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.b(nnx.relu(self.a(x)))


def test_optimisers_of_nnx_hold_arrays_without_boxes():
    shapes = nnx.eval_shape(NnxNet)
    structure, state = nnx.split(shapes)
    graph = trace(lambda state, x: nnx.merge(structure, state)(x), state, np.ones((2, 3), np.float32))
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), nnx.as_pure(state))
    optimiser = reg.masked(optax.identity(), make_plan(graph))
    updates, _ = optimiser.update(ones, optimiser.init(ones), ones)
    assert np.asarray(updates['a']['kernel']).tolist() == [[1, 0, 1, 0]] * 3
    assert np.asarray(updates['b']['kernel']).tolist() == [[1, 1], [0, 0]] * 2
    assert np.asarray(updates['b']['bias']).tolist() == [1, 1]


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda graph: reg.group_lasso(graph, strength=-1.0), 'strength is -1.0'),
        (lambda graph: reg.bn_slimming(graph, strength=float('nan')), 'strength is nan'),
        (lambda graph: reg.group_lasso(graph, strength=1.0, roles=['write']), "role 'write'"),
        (lambda graph: reg.group_lasso(graph, strength=1.0, exclude=['*']), 'no group is left'),
        (lambda graph: reg.group_lasso(graph, strength=1.0, exclude=['x']), "pattern 'x'"),
        (lambda graph: reg.group_lasso(graph, strength=1.0, exclude='ab'), "exclude is 'ab': give a list"),
        (lambda graph: reg.group_lasso(graph, strength=1.0)({'x': jnp.ones(3)}), 'paths such as x'),
        (lambda graph: reg.group_lasso(graph, strength=1.0)({'a': {'kernel': jnp.ones((1, 2))}}), 'a/kernel has shape'),
        (lambda graph: reg.add_bn_slimming(graph, strength=1.0).update({}, optax.EmptyState()), 'needs the parameters'),
    ],
)
def test_mistakes_are_named(cases, make, message):
    with pytest.raises(UserError, match=message):
        make(cases['linen'].graph)


def test_a_model_without_normalisation_has_no_scales(cases):
    with pytest.raises(UserError, match='group_lasso'):
        reg.bn_slimming(cases['plain'].graph, strength=1.0)


def test_a_plan_without_a_graph_is_refused(cases):
    layer = PlanLayer(0, 'a', 6, (0, 1))
    with pytest.raises(UserError, match='on'):
        reg.masked(optax.sgd(0.1), Plan((layer,)))
