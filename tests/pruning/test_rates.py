"""Rates to plans: the published count, the order of layers, limits and refusals."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.pruning import CRITERIA, Evidence, mask, plan_rates, register, removed_filters, score, uniform_rates


@given(st.integers(1, 2048), st.integers(0, 99))
def test_removed_filters_is_exact(channels, percent):
    assert removed_filters(channels, percent / 100) == math.ceil(Fraction(percent, 200) * channels) * 2


@pytest.mark.parametrize(
    ('channels', 'rate', 'removed'),
    [(20, 0.1, 2), (100, 0.07 * 2, 14), (60, 0.1 + 0.2, 18), (64, 0.75, 48), (7, 0.5, 4), (6, 0.001, 2), (8, 0, 0)],
)
def test_removed_filters_is_not_fooled_by_binary_fractions(channels, rate, removed):
    assert removed_filters(channels, rate) == removed


@pytest.mark.parametrize('name', sorted(name for name, each in CRITERIA.items() if each.needs == 'variables'))
def test_lowest_scores_go(graph, variables, name):
    plan = plan_rates(graph, variables, {'b': 0.5}, criterion=name, seed=2)
    scores = score(name, graph, graph.group_of('b'), variables, 2)
    keep = list(plan.keep['b'])
    assert len(keep) == 4
    assert scores[keep].min() > np.delete(scores, keep).max()


def test_ties_remove_the_lower_index(graph, variables):
    variables['params']['b']['kernel'][:] = 1
    assert plan_rates(graph, variables, {1: 0.5}).keep == {'b': (4, 5, 6, 7)}
    assert plan_rates(graph, variables, {1: 0.5}, criterion='l2-largest').keep == {'b': (4, 5, 6, 7)}


def test_layers_are_ranked_on_what_the_ones_before_left(graph, variables):
    together = plan_rates(graph, variables, {'d': 0.4, 'b': 0.5, 'a': 0.5})
    first = plan_rates(graph, variables, {'a': 0.5})
    second = plan_rates(graph, mask(variables, first), {'b': 0.5})
    masked = mask(mask(variables, first), second)
    assert together.keep == {**first.keep, **second.keep, **plan_rates(graph, masked, {'d': 0.4}).keep}


def test_removed_inputs_do_not_count(graph, variables):
    b, d = variables['params']['b']['kernel'], variables['params']['d']['kernel']
    b[:, :4] *= 0.01  # channels 0 to 3 of b go
    d[:], d[0, 0], d[7] = 0, 100, np.arange(1, 6)  # only through them is channel 0 of d the largest
    variables['params']['e']['kernel'][:] = 0
    assert 0 in plan_rates(graph, variables, {'d': 0.4}).keep['d']
    assert 0 not in plan_rates(graph, variables, {'d': 0.4, 'b': 0.5}).keep['d']


def test_criteria_see_masked_variables(graph, variables, monkeypatch):
    monkeypatch.delitem(CRITERIA, 'seen', raising=False)
    seen = {}

    @register('seen')
    def look(group, evidence):
        seen[group.name] = evidence
        return np.stack([kernel.sum(axis=1) for kernel in evidence.kernels(group)])

    plan = plan_rates(graph, variables, {'a': 0.5, 'b': 0.5, 'd': 0.4}, criterion='seen')
    del CRITERIA['seen']
    for name, before in {'a': (), 'b': ('a',), 'd': ('a', 'b')}.items():
        expected = mask(variables, dataclasses.replace(plan, layers=[x for x in plan.layers if x.name in before]))
        assert trees.flatten(seen[name].variables).keys() == trees.flatten(expected).keys()
        for path, leaf in trees.flatten(expected).items():
            np.testing.assert_array_equal(trees.get(seen[name].variables, path), leaf)
            np.testing.assert_array_equal(seen[name].leaf(path), leaf)


@pytest.mark.parametrize('reduce', ['sum', 'mean', 'max', 'l2'])
def test_members_of_a_group_are_combined_as_asked(graph, variables, reduce):
    """Layers d and e are one group."""
    scores = score('l2', graph, graph.group_of('d'), variables, reduce=reduce)
    kept = plan_rates(graph, variables, {'d': 0.4}, reduce=reduce).keep['d']
    assert kept == tuple(sorted(np.argsort(scores, kind='stable')[-len(kept) :].tolist()))


def test_reductions_differ(graph, variables):
    for name, scale in (('d', [3, 1, 0, 2, 2, 2]), ('e', [0, 2.5, 3.9, 2, 2, 2])):
        kernel = variables['params'][name]['kernel']
        kernel[:] = np.resize(scale, kernel.shape[-1])
    summed, largest = (plan_rates(graph, variables, {'d': 0.2}, reduce=reduce).keep for reduce in ('sum', 'max'))
    assert summed != largest


def test_evidence(graph, variables):
    gates = np.stack([np.arange(8.0), -np.arange(8.0)[::-1]])
    held = Evidence(graph, variables, gates={'b': gates})
    expected = score('taylor', graph, graph.group_of('b'), variables, evidence=held)
    kept = plan_rates(graph, variables, {'b': 0.5}, criterion='taylor', evidence=held).keep['b']
    assert kept == tuple(sorted(np.argsort(expected, kind='stable')[-4:].tolist()))
    with pytest.raises(UserError, match='gather_gates'):
        plan_rates(graph, variables, {'b': 0.5}, criterion='taylor')


def test_a_group_goes_by_any_member(graph, variables):
    by_lower, by_upper = (plan_rates(graph, variables, {name: 0.4}) for name in ('d', 4))
    assert by_lower == by_upper == plan_rates(graph, variables, {'e': 0.4, 'd': 0.4})
    assert list(by_lower.keep) == ['d']


def test_minimum_and_rounding(graph, variables):
    def kept(rate, **options):
        return len(plan_rates(graph, variables, {'b': rate}, **options).keep['b'])

    assert [kept(0.6), kept(0.6, min_channels=3), kept(0.6, round_to=3), kept(0.6, round_to=16)] == [2, 3, 3, 8]
    assert kept(0.99, min_channels=1) == 1
    assert kept(0.99, min_channels=3, round_to=4) == 4
    assert kept(0.5, min_channels=100) == 8
    assert kept(0) == 8


def test_uniform_rate_and_exclusion(graph, variables):
    assert uniform_rates(graph, 0.5) == {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5}
    assert uniform_rates(graph, 0.5, exclude=['e', '[bc]']) == {0: 0.5}
    assert uniform_rates(graph, 0.5, exclude=['0', 'model.1'], aliases={'model.1': 'b'}) == {2: 0.5, 3: 0.5}
    assert list(plan_rates(graph, variables, {0: 0.5, 1: 0.5}, exclude=['a']).keep) == ['b']
    with pytest.raises(UserError, match="'x\\*' matches no layer"):
        uniform_rates(graph, 0.5, exclude=['x*'])
    for pattern in ('10', 1, None):
        with pytest.raises(UserError, match=f'exclude is {pattern!r}: give a list'):
            uniform_rates(graph, 0.5, exclude=pattern)
        with pytest.raises(UserError, match=f'exclude is {pattern!r}: give a list'):
            plan_rates(graph, variables, {0: 0.5}, exclude=pattern)


def test_aliases(graph, variables):
    assert plan_rates(graph, variables, {'model.1': 0.5}, aliases={'model.1': 'b'}) == plan_rates(
        graph, variables, {1: 0.5}
    )


@pytest.mark.parametrize(
    ('rates', 'options', 'message'),
    [
        ({6: 0.5}, {}, 'layer 6 does not exist.*0 to 5'),
        ({-1: 0.5}, {}, 'layer -1 does not exist'),
        ({'x': 0.5}, {}, "layer 'x' does not exist.*0 to 5.*a, b"),
        ({True: 0.5}, {}, 'does not exist'),
        ({'head': 0.5}, {}, r'layer 5 \(head\) cannot be pruned.*output of the model'),
        ({5: 0.5}, {}, 'cannot be pruned'),
        ({1: 1.0}, {}, r'rate 1.0 of layer 1 \(b\).*below 1'),
        ({1: -0.1}, {}, 'rate -0.1'),
        ({1: math.nan}, {}, 'rate nan'),
        ({1: math.inf}, {}, 'rate inf'),
        ({1: 0.9}, {}, r'rate 0.9 leaves no filter of layer 1 \(b\), which has 8: give 0.75 or less'),
        ({3: 0.2, 4: 0.4}, {}, 'd, e are pruned together, but have rates 0.2 and 0.4'),
        ({1: 0.5}, {'criterion': 'l9'}, "'l9'"),
        ({1: 0.5}, {'reduce': 'median'}, "'median'"),
        ({1: 0.5}, {'min_channels': 0}, 'min_channels is 0'),
        ({1: 0.5}, {'round_to': -8}, 'round_to is -8'),
    ],
)
def test_refusals(graph, variables, rates, options, message):
    with pytest.raises(UserError, match=message):
        plan_rates(graph, variables, rates, **options)
