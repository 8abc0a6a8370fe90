"""Criteria against norms written out, and their contract over the whole registry."""

import numpy as np
import pytest

from jaxprune.errors import UserError
from jaxprune.pruning import CRITERIA, register, score


def norm(kernel, order):
    return np.linalg.norm(kernel.astype(np.float64), ord=order, axis=0)


def test_names():
    assert set(CRITERIA) >= {'l2', 'l1', 'l2-largest', 'l1-largest', 'bn', 'bn-l1', 'random'}


@pytest.mark.parametrize(('name', 'order'), [('l2', 2), ('l1', 1)])
def test_norms_sum_over_branches_and_members(graph, variables, name, order):
    params = variables['params']
    expected = {
        'b': norm(params['b']['kernel'], order),
        'c': norm(params['c']['dense']['kernel'], order) + norm(params['c']['pointwise']['kernel'], order),
        'e': norm(params['d']['kernel'], order) + norm(params['e']['kernel'], order),
    }
    for layer, scores in expected.items():
        np.testing.assert_allclose(score(name, graph, graph.group_of(layer), variables), scores, rtol=1e-6)
        largest = score(f'{name}-largest', graph, graph.group_of(layer), variables)
        np.testing.assert_allclose(largest, -scores, rtol=1e-6)


def test_bn_counts_scales_of_the_group_only(graph, variables):
    params = variables['params']
    gamma = np.abs(params['d']['bn']['scale']) + np.abs(params['e']['bn']['scale'])
    np.testing.assert_allclose(score('bn', graph, graph.group_of('d'), variables), gamma, rtol=1e-6)
    product = np.abs(params['b']['bn']['scale']) * norm(params['b']['kernel'], 1)
    np.testing.assert_allclose(score('bn-l1', graph, graph.group_of('b'), variables), product, rtol=1e-6)


@pytest.mark.parametrize('name', ['bn', 'bn-l1'])
def test_bn_refuses_models_without_it(graph, variables, name):
    head = graph.group_of('head')  # the only layer without batch normalisation
    with pytest.raises(UserError, match='head has no batch normalisation'):
        score(name, graph, head, variables)


def test_random_depends_on_seed_and_layer_only(graph, net):
    b, d = graph.group_of('b'), graph.group_of('d')
    first, other = net.make_variables(0), net.make_variables(1)
    np.testing.assert_array_equal(score('random', graph, b, first, 3), score('random', graph, b, other, 3))
    assert not np.array_equal(score('random', graph, b, first, 3), score('random', graph, b, first, 4))
    assert not np.array_equal(score('random', graph, b, first, 3)[:5], score('random', graph, d, first, 3))
    # From NumPy's own definition of PCG64; layer b has index 1.
    np.testing.assert_array_equal(
        score('random', graph, b, first, 3), np.random.default_rng([3, 1]).random(8, dtype=np.float32)
    )
    with pytest.raises(UserError, match='seed -1'):
        score('random', graph, b, first, -1)


@pytest.mark.parametrize('name', sorted(CRITERIA))
def test_contract(graph, variables, name):
    for layer in ('a', 'b', 'c', 'd'):
        group = graph.group_of(layer)
        scores = score(name, graph, group, variables, seed=0)
        assert scores.shape == (group.channels,) and scores.dtype == np.float32
        np.testing.assert_array_equal(scores, CRITERIA[name](graph, group, variables, seed=0))


@pytest.mark.parametrize('name', sorted(CRITERIA))
def test_half_precision_is_ranked_in_full(graph, variables, name):
    half = {
        **variables,
        'params': {**variables['params'], 'b': {k: _half(v) for k, v in variables['params']['b'].items()}},
    }
    full = {**half, 'params': {**half['params'], 'b': {k: _full(v) for k, v in half['params']['b'].items()}}}
    b = graph.group_of('b')
    np.testing.assert_array_equal(score(name, graph, b, half), score(name, graph, b, full))


def _half(leaf):
    return {k: _half(v) for k, v in leaf.items()} if isinstance(leaf, dict) else (100 * leaf).astype(np.float16)


def _full(leaf):
    return {k: _full(v) for k, v in leaf.items()} if isinstance(leaf, dict) else leaf.astype(np.float32)


@pytest.mark.parametrize('name', ['l2', 'l1', 'bn-l1'])
def test_zeroed_inputs_score_as_absent_ones(graph, net, name):
    zeroed, cut = net.make_variables(), net.make_variables()
    zeroed['params']['d']['kernel'][3:9] = 0
    cut['params']['d']['kernel'] = np.delete(cut['params']['d']['kernel'], range(3, 9), axis=0)
    d = graph.group_of('d')
    np.testing.assert_array_equal(score(name, graph, d, zeroed), score(name, graph, d, cut))


def test_unknown_and_repeated_names(graph, variables):
    with pytest.raises(UserError, match=r"'l3'.*l2, l1"):
        score('l3', graph, graph.group_of('a'), variables)
    with pytest.raises(ValueError, match='registered already'):
        register('l2')(CRITERIA['l1'])


def test_weights_that_are_not_finite(graph, variables):
    variables['params']['b']['kernel'][0, 0] = np.nan
    with pytest.raises(UserError, match='layer b has weights that are not finite'):
        score('l2', graph, graph.group_of('b'), variables)
