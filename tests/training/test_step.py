"""Schedule, optimizers, accumulation and running mean against PyTorch's optimizers (see make_golden.py)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.training import Recipe, Schedule, TrainState, groups, make_step

FILE = pathlib.Path(__file__).parents[1] / 'golden' / 'training' / 'optimizer.npz'
SETTINGS = {
    'lr0': 0.02, 'lrf': 0.1, 'momentum': 0.9, 'weight_decay': 0.01, 'warmup_momentum': 0.6, 'warmup_bias_lr': 0.1,
    'nominal_batch': 12, 'warmup_steps': 7, 'warmup_epochs': 0.0, 'ema_decay': 0.9, 'ema_steps': 5.0,
}  # fmt: skip


def schedule(kind='sgd', batch=4, **options):
    recipe = Recipe(**{**SETTINGS, 'optimizer': kind, **options})
    return Schedule(recipe=recipe, batch=batch, steps_per_epoch=5, epochs=4)


def leaves(params):
    return {'scale': params['bn']['scale'], 'kernel': params['conv']['kernel'], 'bias': params['bn']['bias']}


def linear(variables, gradients):
    """A loss whose gradients are `gradients`."""
    values = leaves(variables['params'])
    return sum((values[name] * gradients[name]).sum() for name in gradients), ({}, {})


@pytest.mark.parametrize('kind', ['sgd', 'adam'])
def test_every_step_is_pytorchs(kind):
    golden = dict(np.load(FILE))
    start = {name: jnp.asarray(golden[f'start/{name}']) for name in ('scale', 'kernel', 'bias')}
    plan = schedule(kind)
    params = {'bn': {'scale': start['scale'], 'bias': start['bias']}, 'conv': {'kernel': start['kernel']}}
    state, step = TrainState.create({'params': params}, plan), make_step(linear, plan)
    for i in range(20):
        state, metrics = step(state, {name: golden[f'gradients/{name}'][i] for name in start})
        np.testing.assert_allclose(metrics['rate'], golden[f'{kind}/rates'][i, 0], rtol=1e-5, atol=1e-9)
        for name, value in leaves(state.variables['params']).items():
            np.testing.assert_allclose(value, golden[f'{kind}/{name}'][i], rtol=2e-5, atol=2e-6, err_msg=f'step {i}')
        for name, value in leaves(state.ema['params']).items():
            np.testing.assert_allclose(value, golden[f'{kind}/ema_{name}'][i], rtol=2e-5, atol=2e-6)


def test_rates_are_the_originals():
    plan, golden = schedule(), np.load(FILE)['sgd/rates']
    rates = jax.vmap(plan.rates)(jnp.arange(20))
    np.testing.assert_allclose(np.stack(rates, axis=1), golden, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(('epoch', 'expected'), [(0, 1.0), (1, 0.7), (2, 0.4), (3, 0.1)])
def test_linear_decay(epoch, expected):
    plan = schedule(decay='linear', warmup_steps=0)
    np.testing.assert_allclose(plan.rates(jnp.int32(epoch * 5)).weights, 0.02 * expected, rtol=1e-6)


@pytest.mark.parametrize(('batch', 'accumulate', 'decay'), [(12, 1, 0.01), (24, 1, 0.02), (5, 2, 0.01 * 10 / 12)])
def test_weight_decay_counts_the_images_of_an_update(batch, accumulate, decay):
    plan = schedule(batch=batch)
    assert plan.accumulate == accumulate
    np.testing.assert_allclose(plan.weight_decay, decay)


def test_groups_of_a_detectors_parameters():
    params = {
        'head': {'conv': {'kernel': np.ones((1, 1, 2, 2)), 'bias': np.ones(2)}, 'implicit_add': np.ones(2)},
        'layer': {'conv': {'kernel': np.ones((3, 3, 2, 2))}, 'bn': {'scale': np.ones(2), 'bias': np.ones(2)}},
    }
    assert groups(params) == {
        'head': {'conv': {'kernel': 'kernels', 'bias': 'biases'}, 'implicit_add': 'scales'},
        'layer': {'conv': {'kernel': 'kernels'}, 'bn': {'scale': 'scales', 'bias': 'biases'}},
    }


def test_state_leaves_the_callers_variables_alone():
    params = {'bn': {'scale': jnp.ones(3), 'bias': jnp.ones(3)}, 'conv': {'kernel': jnp.ones((1, 1, 2, 3))}}
    plan = schedule(batch=12)
    state = TrainState.create({'params': params}, plan)
    gradients = jax.tree.map(jnp.ones_like, leaves(params))
    make_step(linear, plan)(state, gradients)
    np.testing.assert_array_equal(params['conv']['kernel'], 1)
