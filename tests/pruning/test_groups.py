"""Layers that produce several groups, groups that are masked where they are made, and variables of any type."""

import dataclasses
import itertools
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
import pytest
from flax import nnx

from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group, LayerInfo, Slot
from jaxprune.pruning import (
    Plan,
    PlanLayer,
    kept_plan,
    mask,
    plan_rates,
    planned_parameters,
    slice_variables,
    uniform_rates,
    widths,
)

HEADS, SIZE, INPUTS = 3, 4, 5
X = np.random.default_rng(3).normal(size=(6, INPUTS))


class Weights(NamedTuple):
    """Values `v` of `HEADS` heads of `SIZE` channels that `o` reads, beside keys and queries."""

    q: dict
    k: dict
    v: dict
    o: list


def weights():
    rng = np.random.default_rng(0)
    width = HEADS * SIZE
    q, k = ({'kernel': rng.normal(size=(INPUTS, SIZE)), 'bias': rng.normal(size=SIZE)} for _ in range(2))
    return Weights(q, k, {'kernel': rng.normal(size=(INPUTS, width)), 'note': 'kept'}, [rng.normal(size=(width, 2))])


def forward(weights):
    q, k = (X @ each['kernel'] + each['bias'] for each in (weights.q, weights.k))
    return (q @ k.T) @ (X @ weights.v['kernel']) @ weights.o[0]


def slots(indices, role, masked, *places):
    return tuple(Slot(path, axis, indices, role, path[0], masked) for path, axis in places)


@pytest.fixture
def attention():
    """Queries and keys can be removed together, values by the head or by the channel of every head."""
    places = np.arange(HEADS * SIZE).reshape(HEADS, SIZE)
    keys = np.arange(SIZE)[:, None]
    value, read = (('v', 'kernel'), 1), (('o', '0'), 0)
    groups = (
        Group(
            0,
            'q',
            ('q', 'k'),
            SIZE,
            slots(keys, 'produce', True, (('q', 'kernel'), 1), (('k', 'kernel'), 1))
            + slots(keys, 'along', True, (('q', 'bias'), 0), (('k', 'bias'), 0)),
        ),
        Group(1, 'v#1', ('v',), HEADS, slots(places, 'produce', False, value) + slots(places, 'read', True, read)),
        Group(2, 'v#2', ('v',), SIZE, slots(places.T, 'produce', False, value) + slots(places.T, 'read', True, read)),
    )
    names = {'q': SIZE, 'k': SIZE, 'v': HEADS * SIZE}
    layers = [LayerInfo(index, name, channels, True) for index, (name, channels) in enumerate(names.items())]
    return Graph((*layers, LayerInfo(3, 'o', 2, False, 'its channels are the output')), (), groups)


KEPT = [
    {'q': q, 'v#1': heads, 'v#2': size}
    for q, heads, size in itertools.product([[0, 1, 2, 3], [1]], [[0, 1, 2], [2, 0]], [[0, 1, 2, 3], [3, 1]])
]


@pytest.mark.parametrize('kept', KEPT)
def test_groups_on_one_axis(attention, kept):
    plan = kept_plan(attention, kept)
    sliced, masked = slice_variables(weights(), plan), mask(weights(), plan)
    assert type(sliced) is type(masked) is Weights
    assert sliced.v['note'] == masked.v['note'] == 'kept'
    assert sliced.v['kernel'].shape == (INPUTS, len(kept['v#1']) * len(kept['v#2']))
    np.testing.assert_allclose(forward(masked), forward(sliced), rtol=1e-12, atol=1e-12)
    assert widths(plan) == {
        'q': len(kept['q']),
        'k': len(kept['q']),
        'v': len(kept['v#1']) * len(kept['v#2']),
    }
    arrays = [leaf for leaf in jax.tree.leaves(sliced) if hasattr(leaf, 'size')]
    assert planned_parameters(weights(), plan) == sum(leaf.size for leaf in arrays)


def test_one_axis_once_then_again(attention):
    first = kept_plan(attention, {'v#1': [0, 2]})
    places = np.arange(2 * SIZE).reshape(2, SIZE)
    group = dataclasses.replace(
        attention.groups[2],
        slots=tuple(dataclasses.replace(slot, indices=places.T) for slot in attention.groups[2].slots),
    )
    smaller = dataclasses.replace(attention, groups=(*attention.groups[:2], group))
    second = kept_plan(smaller, {'v#2': [1, 3]})
    both = first.then(second)
    assert both.graph is attention
    twice = slice_variables(slice_variables(weights(), first), second)
    jax.tree.map(np.testing.assert_array_equal, twice, slice_variables(weights(), both))


def test_a_layer_of_several_groups_is_named_by_group(attention, tmp_path):
    for ask in (lambda: kept_plan(attention, {'v': [0]}), lambda: Plan((PlanLayer(2, 'v', 3, (0,)),)).on(attention)):
        with pytest.raises(UserError, match=r'layer 2 \(v\) produces several groups.*v#1, v#2'):
            ask()
    with pytest.raises(UserError, match='index 2 here, 1 there'):
        Plan((PlanLayer(1, 'v#1', 3, (0,)),)).on(attention)
    plan = kept_plan(attention, {'k': [1], 'v#2': [0], 'v#1': [1, 2]})
    assert [(layer.index, layer.name) for layer in plan.layers] == [(0, 'q'), (2, 'v#1'), (2, 'v#2')]
    plan.write(tmp_path / 'plan.json')
    assert Plan.read(tmp_path / 'plan.json').on(attention) == plan
    assert Plan.read(tmp_path / 'plan.json').graph is None
    protected = dataclasses.replace(attention.groups[2], protected='it is')
    only = dataclasses.replace(attention, groups=(*attention.groups[:2], protected))
    assert kept_plan(only, {'v': [1]}).keep == kept_plan(only, {2: [1]}).keep == {'v#1': (1,)}
    with pytest.raises(UserError, match=r'layer 2 \(v\) cannot be pruned: it is'):
        kept_plan(only, {'v#2': [1]})


def test_rates_of_groups(attention):
    assert uniform_rates(attention, 0.5) == {0: 0.5, 'v#1': 0.5, 'v#2': 0.5}
    assert uniform_rates(attention, 0.5, exclude=['v#1', 'k']) == {'v#2': 0.5}
    plan = plan_rates(attention, weights(), {'v#2': 0.5, 'q': 0.5})
    assert {name: len(keep) for name, keep in plan.keep.items()} == {'q': 2, 'v#2': 2}
    assert plan.graph is attention


def linear(prefix, out, inputs, suffix=()):
    """One hidden layer of four channels between two others, traced by hand."""
    path = (*prefix, 'layers')
    indices = np.arange(4)[:, None]
    places = [(('0', out), 'produce', False), (('0', 'bias'), 'along', False), (('1', inputs), 'read', True)]
    axes = {'weight': (0, 1), 'kernel': (1, 0)}[out]
    found = [
        Slot((*path, *place, *suffix), axes[role == 'read'] if place[1] == out else 0, indices, role, place[0], masked)
        for place, role, masked in places
    ]
    group = Group(0, 'hidden', ('hidden',), 4, tuple(found))
    return Graph((LayerInfo(0, 'hidden', 4, True),), (), (group,))


def test_equinox_modules():
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    plan = kept_plan(linear((), 'weight', 'weight'), {'hidden': [1, 3]})
    sliced, masked = slice_variables(model, plan), mask(model, plan)
    assert type(sliced) is eqx.nn.MLP and sliced.activation is model.activation
    x = np.array([0.5, -2], np.float32)
    np.testing.assert_allclose(sliced(x), masked(x), rtol=1e-6)
    assert not np.allclose(masked(x), model(x))
    gradients = eqx.filter_grad(lambda model: model(x).sum())(model)
    assert slice_variables(gradients, plan).layers[0].weight.shape == (2, 2)


def test_nnx_states():
    make = nnx.Sequential(nnx.Linear(2, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 3, rngs=nnx.Rngs(1)))
    definition, state = nnx.split(make)
    plan = kept_plan(linear((), 'kernel', 'kernel', ('value',)), {'hidden': [1, 3]})
    sliced, masked = slice_variables(state, plan), mask(state, plan)
    assert type(sliced) is nnx.State
    assert sliced['layers'][0]['kernel'].shape == (2, 2)
    x = np.ones((1, 2), np.float32)
    expected = nnx.merge(definition, masked)(x)
    np.testing.assert_allclose(nnx.merge(definition, sliced)(x), expected, rtol=1e-6)
    statistics = jax.tree.map(lambda leaf: leaf, nnx.state(make, nnx.Param))
    del statistics['layers'][0]['bias']
    assert slice_variables(statistics, plan)['layers'][1]['kernel'].shape == (2, 3)
