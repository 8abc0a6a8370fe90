"""Criteria of the variables against formulas written out, and the contract over the whole registry."""

import dataclasses
import types

import numpy as np
import pytest

from jaxprune.errors import UserError
from jaxprune.pruning import CRITERIA, register, score
from jaxprune.pruning._evidence import Activations, Evidence

OF_WEIGHTS = sorted(name for name, criterion in CRITERIA.items() if criterion.needs == 'variables')


@pytest.fixture
def evidence(graph, variables):
    """Gradients and activations drawn at random, for every group."""
    rng = np.random.default_rng(0)
    gates = {group.name: rng.normal(size=(4, group.channels)) for group in graph.groups}
    drawn = {group.name: rng.uniform(size=(3, group.channels)) for group in graph.groups}
    return Evidence(graph, variables, gates=gates, activations={k: Activations(9, *v) for k, v in drawn.items()})


def norm(kernel, order):
    return np.linalg.norm(kernel.astype(np.float64), ord=order, axis=0)


def branches(params):
    """The kernels of the group of `c`, a group of two members."""
    return [params['c'][name]['kernel'].astype(np.float64) for name in ('dense', 'pointwise')]


def test_names():
    weights = {'l2', 'l1', 'l2-largest', 'l1-largest', 'bn', 'bn-l1', 'lamp', 'fpgm', 'random'}
    assert set(CRITERIA) >= weights | {'taylor', 'fisher', 'activation-mean', 'apoz', 'hrank'}


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


REDUCED = {
    'sum': lambda one, two: one + two,
    'mean': lambda one, two: (one + two) / 2,
    'max': np.maximum,
    'l2': np.hypot,
}


@pytest.mark.parametrize('reduce', REDUCED)
@pytest.mark.parametrize(('name', 'sign'), [('l1', 1), ('l1-largest', -1)])
def test_reductions(graph, variables, name, sign, reduce):
    expected = sign * REDUCED[reduce](*(norm(kernel, 1) for kernel in branches(variables['params'])))
    found = score(name, graph, graph.group_of('c'), variables, reduce=reduce)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('reduce', REDUCED)
def test_bn_times_l1_reduces_each(graph, variables, reduce):
    params = variables['params']
    scales = (np.abs(params[name]['bn']['scale']).astype(np.float64) for name in 'de')
    norms = (norm(params[name]['kernel'], 1) for name in 'de')
    found = score('bn-l1', graph, graph.group_of('d'), variables, reduce=reduce)
    np.testing.assert_allclose(found, REDUCED[reduce](*scales) * REDUCED[reduce](*norms), rtol=1e-6)


def test_unknown_reduction(graph, variables):
    with pytest.raises(UserError, match="reduction 'median' does not exist: give one of sum, mean, max, l2"):
        score('l2', graph, graph.group_of('c'), variables, reduce='median')


def test_bn_counts_scales_of_the_group_only(graph, variables):
    params = variables['params']
    gamma = np.abs(params['d']['bn']['scale']) + np.abs(params['e']['bn']['scale'])
    np.testing.assert_allclose(score('bn', graph, graph.group_of('d'), variables), gamma, rtol=1e-6)
    product = np.abs(params['b']['bn']['scale']) * norm(params['b']['kernel'], 1)
    np.testing.assert_allclose(score('bn-l1', graph, graph.group_of('b'), variables), product, rtol=1e-6)


@pytest.mark.parametrize('name', ['bn', 'bn-l1'])
def test_bn_refuses_models_without_it(graph, variables, name):
    head = graph.group_of('head')  # the only layer without batch normalisation
    with pytest.raises(UserError, match=r'head has no batch normalisation.*only bias: call its scale one of scale'):
        score(name, graph, head, variables)


def _lamp(kernel):
    """By the paper's definition: squares in rising order, each over the sum from itself on."""
    squares = [sum(float(value) ** 2 for value in column) for column in kernel.T]
    return [square / sum(other for other in squares if other >= square) for square in squares]


def _fpgm(kernel):
    return [sum(np.linalg.norm(one - other) for other in kernel.T) for one in kernel.T]


@pytest.mark.parametrize(('name', 'formula'), [('lamp', _lamp), ('fpgm', _fpgm)])
def test_lamp_and_fpgm_against_loops(graph, variables, name, formula):
    expected = np.sum([formula(kernel) for kernel in branches(variables['params'])], axis=0)
    np.testing.assert_allclose(score(name, graph, graph.group_of('c'), variables), expected, rtol=1e-6)


def test_lamp_of_equal_and_of_zero_filters(graph, variables):
    kernel = variables['params']['b']['kernel']
    kernel[:] = 0
    b = graph.group_of('b')
    assert score('lamp', graph, b, variables).tolist() == [0] * 8
    kernel[0] = [0, 1, 1, 2, 0, 2, 0, 0]  # squares 1, 1, 4, 4
    np.testing.assert_allclose(score('lamp', graph, b, variables), [0, 0.1, 0.1, 0.5, 0, 0.5, 0, 0], rtol=1e-6)


def test_fpgm_of_filters_far_from_zero_and_close_together(graph, variables):
    kernel = 1e6 + np.random.default_rng(0).normal(size=(6, 8))  # distances near 1, squared norms near 1e13
    variables['params']['b']['kernel'] = kernel
    found = score('fpgm', graph, graph.group_of('b'), variables)
    np.testing.assert_allclose(found, _fpgm(kernel), rtol=1e-6)
    kernel[:] = 1e6
    np.testing.assert_array_equal(score('fpgm', graph, graph.group_of('b'), variables), 0)


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


def test_random_of_several_groups_of_a_layer():
    layer = types.SimpleNamespace(index=0, name='qkv')
    groups = tuple(types.SimpleNamespace(index=i, layers=('qkv',), channels=8, slots=()) for i in range(2))
    graph = types.SimpleNamespace(layers=(layer,), groups=groups)
    first, second = (score('random', graph, group, {}) for group in groups)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize('reduce', REDUCED)
@pytest.mark.parametrize('name', sorted(CRITERIA))
def test_contract(graph, variables, evidence, name, reduce):
    for layer in ('a', 'b', 'c', 'd'):
        group = graph.group_of(layer)
        scores = score(name, graph, group, variables, reduce=reduce, evidence=evidence)
        assert scores.shape == (group.channels,) and scores.dtype == np.float32
        assert np.all(np.isfinite(scores)) and len(np.unique(scores)) > 1


@pytest.mark.parametrize('name', sorted(set(CRITERIA) - {'random'}))
def test_scores_follow_the_channels(graph, variables, evidence, name):
    """Channels in another order, at every place of the group: the same scores, in that order."""
    for layer in ('b', 'c', 'd'):
        group = graph.group_of(layer)
        order = np.random.default_rng(1).permutation(group.channels)
        slots = [_reordered(slot, order) for slot in group.slots]
        moved = types.SimpleNamespace(**{**vars(group), 'slots': tuple(slots)})
        statistics = evidence.activations[group.name]
        there = Evidence(
            graph,
            variables,
            gates={group.name: evidence.gates[group.name][:, order]},
            activations={group.name: Activations(9, *(each[order] for each in list(vars(statistics).values())[1:]))},
        )
        before = score(name, graph, group, variables, evidence=evidence)
        np.testing.assert_allclose(score(name, graph, moved, variables, evidence=there), before[order], rtol=1e-6)


def _reordered(slot, order):
    return dataclasses.replace(slot, indices=slot.indices[order])


@pytest.mark.parametrize('name', OF_WEIGHTS)
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


@pytest.mark.parametrize('name', ['l2', 'l1', 'bn-l1', 'lamp'])
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
        register('l2')(lambda group, evidence: np.zeros((1, group.channels)))


def test_a_criterion_of_ones_own(graph, variables, monkeypatch):
    monkeypatch.setattr('jaxprune.pruning._criteria_registry.CRITERIA', dict(CRITERIA))

    @register('largest-weight')
    def largest_weight(group, evidence):
        return np.stack([np.abs(kernel).max(axis=1) for kernel in evidence.kernels(group)])

    @register('flat')
    def flat(group, evidence):
        return np.ones(group.channels)

    expected = np.max([np.abs(kernel).max(axis=0) for kernel in branches(variables['params'])], axis=0)
    c = graph.group_of('c')
    found = score('largest-weight', graph, c, variables, reduce='max')
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(UserError, match=r"'flat' gave an array of shape \(4,\) for layer c.*\[members, 4\]"):
        score('flat', graph, c, variables)


def test_weights_that_are_not_finite(graph, variables):
    variables['params']['b']['kernel'][0, 0] = np.nan
    with pytest.raises(UserError, match='layer b has weights that are not finite'):
        score('l2', graph, graph.group_of('b'), variables)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('taylor', r'needs the gradient of the loss: gather it with gather_gates\(graph, loss'),
        ('fisher', 'needs the gradient of the loss'),
        ('apoz', r'needs activations: gather them with gather_activations\(graph, apply'),
        ('hrank', 'needs activations'),
    ],
)
def test_what_is_missing_is_named(graph, variables, evidence, name, message):
    b = graph.group_of('b')
    with pytest.raises(UserError, match=message):
        score(name, graph, b, variables)
    with pytest.raises(UserError, match='holds nothing of group'):
        score(name, graph, b, variables, evidence=dataclasses.replace(evidence, gates={}, activations={}))
    other = {'b': Activations(1, np.ones(3), np.ones(3), np.ones(3))}
    with pytest.raises(UserError, match=r"another model: group 'b' had 3 channels there and has 8 here"):
        score(
            name,
            graph,
            b,
            variables,
            evidence=Evidence(graph, variables, gates={'b': np.ones((1, 3))}, activations=other),
        )


def test_hrank_without_maps(graph, variables):
    held = Evidence(graph, variables, activations={'b': Activations(1, np.ones(8), np.ones(8))})
    with pytest.raises(UserError, match=r"group 'b' has no ranks.*ranks=True"):
        score('hrank', graph, graph.group_of('b'), variables, evidence=held)
