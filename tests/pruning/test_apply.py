"""Masks and slices of a small net: laws 1 to 3, and what does not fit together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.errors import UserError
from jaxprune.pruning import Plan, PlanLayer, mask, plan_rates, planned_parameters, slice_variables, widths

GROUPS = {'a': (0, 6), 'b': (1, 8), 'c': (2, 4), 'd': (3, 5)}
IMAGES = np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32)
TOLERANCE = {'rtol': 1e-4, 'atol': 1e-4}


@st.composite
def plans(draw, channels=None):
    layers = []
    for name in draw(st.sets(st.sampled_from(sorted(GROUPS)))):
        width = (channels or {}).get(name, GROUPS[name][1])
        keep = draw(st.sets(st.integers(0, width - 1), min_size=1))
        layers.append(PlanLayer(GROUPS[name][0], name, width, tuple(sorted(keep))))
    return Plan(tuple(layers))


def kept(plan):
    return {name: len(keep) for name, keep in plan.keep.items()}


@given(plans(), st.integers(0, 5))
def test_masked_is_sliced(graph, net, plan, seed):
    plan = plan.on(graph)
    variables = net.make_variables(seed)
    masked = net.forward(mask(variables, plan), IMAGES)
    sliced = net.forward(slice_variables(variables, plan), IMAGES)
    np.testing.assert_allclose(masked, sliced, **TOLERANCE)


def test_masking_changes_what_is_read_and_nothing_else(graph, net):
    variables = net.make_variables()
    plan = Plan((PlanLayer(2, 'c', 4, (0, 3)),)).on(graph)
    expected = net.make_variables()
    expected['params']['d']['kernel'][[9, 10]] = 0
    jax.tree.map(np.testing.assert_array_equal, mask(variables, plan), expected)
    jax.tree.map(np.testing.assert_array_equal, variables, net.make_variables())
    assert not np.allclose(net.forward(expected, IMAGES), net.forward(variables, IMAGES), **TOLERANCE)


@given(plans(), st.data())
def test_slices_compose(graph, net, first, data):
    first = first.on(graph)
    second = data.draw(plans(kept(first))).on(net.graph(**widths(first)))
    variables = net.make_variables()
    both = first.then(second)
    assert both.graph is graph
    twice = slice_variables(slice_variables(variables, first), second)
    jax.tree.map(np.testing.assert_array_equal, twice, slice_variables(variables, both))


@given(plans())
def test_prediction_is_what_slicing_leaves(graph, net, plan):
    plan = plan.on(graph)
    variables = net.make_variables()
    sliced = slice_variables(variables, plan)
    assert planned_parameters(variables, plan) == sum(leaf.size for leaf in jax.tree.leaves(sliced['params']))
    for layer, width in widths(plan).items():
        assert sliced['params'][layer]['bn']['scale'].shape == (width,)
    assert set(widths(plan)) == {name for key in plan.keep for name in graph.group_of(key).layers}


@settings(max_examples=5)
@given(plans())
def test_numpy_jax_tracers_and_shapes_agree(graph, net, plan):
    plan = plan.on(graph)
    variables = net.make_variables()
    arrays = jax.tree.map(jnp.asarray, variables)
    for change in (mask, slice_variables):
        expected = change(variables, plan)
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(expected))
        eager = change(arrays, plan)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(eager))
        traced = jax.jit(lambda tree, change=change: change(tree, plan))(arrays)
        for got in (eager, traced):
            jax.tree.map(np.testing.assert_array_equal, got, expected)
        if change is slice_variables:
            shapes = change(jax.eval_shape(lambda: arrays), plan)
            assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, expected)


def test_trees_that_mirror_a_part(graph, variables):
    plan = Plan((PlanLayer(1, 'b', 8, (0, 1)),)).on(graph)
    part = slice_variables({'params': variables['params']}, plan)
    assert list(part) == ['params'] and part['params']['d']['kernel'].shape == (6, 5)


def test_rates_then_slice_equals_rates_on_the_slice(graph, net):
    """Iterated pruning: ranking masked variables and ranking sliced ones keep the same filters."""
    variables = net.make_variables()
    first = plan_rates(graph, variables, {'a': 0.5, 'b': 0.25})
    smaller = net.graph(**widths(first))
    again = plan_rates(smaller, slice_variables(variables, first), {'c': 0.5, 'd': 0.4})
    assert first.then(again) == plan_rates(graph, variables, {'a': 0.5, 'b': 0.25, 'c': 0.5, 'd': 0.4})


@pytest.mark.parametrize(
    ('layer', 'message'),
    [
        (PlanLayer(1, 'x', 8, (0,)), "'x' does not exist"),
        (PlanLayer(2, 'b', 8, (0,)), 'layer b has index 1 here, 2 there'),
        (PlanLayer(1, 'b', 7, (0,)), r'layer 1 \(b\) has 8 channels, but the plan is for 7'),
        (PlanLayer(5, 'head', 3, (0,)), 'cannot be pruned'),
    ],
)
def test_plans_for_another_model(graph, layer, message):
    with pytest.raises(UserError, match=message):
        Plan((layer,)).on(graph)


def test_a_plan_without_a_graph(variables):
    plan = Plan((PlanLayer(1, 'b', 8, (0,)),))
    for change in (mask, slice_variables, planned_parameters):
        with pytest.raises(UserError, match=r'plan\.on\(graph\)'):
            change(variables, plan)
    with pytest.raises(UserError, match=r'plan\.on\(graph\)'):
        widths(plan)


def test_members_of_one_group_named_apart(graph):
    by_upper = Plan((PlanLayer(4, 'e', 5, (0, 1)),))
    by_lower = Plan((PlanLayer(3, 'd', 5, (0, 1)),))
    assert by_upper != by_lower
    assert by_upper.on(graph) == by_lower == by_lower.on(graph)
    assert by_lower.on(graph).then(Plan((PlanLayer(4, 'e', 2, (1,)),))) == Plan((PlanLayer(3, 'd', 5, (1,)),))
    with pytest.raises(UserError, match='twice'):
        Plan(by_upper.layers + by_lower.layers).on(graph)


def test_variables_of_another_model(graph, variables):
    plan = Plan((PlanLayer(1, 'b', 8, (0,)),)).on(graph)
    del variables['params']['d']
    with pytest.raises(UserError, match='params/d/kernel are missing'):
        mask(variables, plan)
    variables['params']['d'] = {'kernel': np.zeros((4, 5), np.float32)}
    with pytest.raises(UserError, match='params/d/kernel have 4 channels on axis 0'):
        mask(variables, plan)


def test_slots_of_a_branched_layer(graph):
    """What the tests above stand on, whichever way the graph was made."""
    slots = graph.group_of('c').slots
    reads = [
        (slot.path, slot.axis, slot.layer, np.ravel(slot.indices).tolist()) for slot in slots if slot.role == 'read'
    ]
    assert reads == [(('params', 'd', 'kernel'), 0, 'd', [8, 9, 10, 11])]
    assert {slot.path for slot in slots if slot.role == 'along'} == {
        (collection, 'c', 'bn', leaf)
        for collection, leaves in (('params', ('scale', 'bias')), ('batch_stats', ('mean', 'var')))
        for leaf in leaves
    }
