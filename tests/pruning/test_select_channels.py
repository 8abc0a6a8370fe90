"""From requests to plans, against rules applied by hand and, for budgets, against all choices."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import sparse

from jaxprune.errors import UserError
from jaxprune.graph import Cost, Graph, Group, LayerInfo, Slot
from jaxprune.pruning import Plan, planned_costs, select_channels, slice_variables

WIDTHS = {'a': 8, 'b': 8, 'c': 12, 'wide': 30}
INPUTS = 3
NAMES = [*WIDTHS, 'out']


def slots(name, reader, width):
    indices = np.arange(width)[:, None]
    return (
        Slot(('params', name, 'kernel'), 1, indices, 'produce', name, False),
        Slot(('params', name, 'bias'), 0, indices, 'along', name, False),
        Slot(('params', reader, 'kernel'), 0, indices, 'read', reader, True),
    )


def parameters():
    """`sum_l (inputs + 1) * outputs`, by hand."""
    fixed, share = np.ones((5, 2)), np.zeros((5, 2, 5))
    for layer in range(5):
        fixed[layer] = [INPUTS + 1 if layer == 0 else 1, 2 if layer == 4 else 0]
        if layer > 0:
            share[layer, 0, layer - 1] = 1
        if layer < 4:
            share[layer, 1, layer] = 1
    return Cost(np.ones(5), fixed, sparse.csr_array(share.reshape(10, 5)))


@pytest.fixture
def chain():
    """Layers one behind the other: `a`, `b`, `c`, `wide` and `out`, which is protected."""
    layers = [LayerInfo(index, name, width, True) for index, (name, width) in enumerate(WIDTHS.items())]
    why = 'its channels are the output of the model'
    groups = [
        Group(index, name, (name,), width, slots(name, NAMES[index + 1], width))
        for index, (name, width) in enumerate(WIDTHS.items())
    ]
    last = Group(4, 'out', ('out',), 2, slots('out', 'nowhere', 2)[:2], protected=why)
    layers.append(LayerInfo(4, 'out', 2, False, why))
    return Graph(tuple(layers), (), (*groups, last), {'parameters': parameters(), 'macs': parameters()})


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    sizes = [INPUTS, *WIDTHS.values(), 2]
    shapes = zip(NAMES, sizes, sizes[1:], strict=False)
    return {
        'params': {
            name: {'kernel': rng.normal(size=(inputs, outputs)), 'bias': rng.normal(size=outputs)}
            for name, inputs, outputs in shapes
        }
    }


def norms(weights):
    return {name: np.linalg.norm(weights['params'][name]['kernel'], axis=0) for name in WIDTHS}


def counts(plan):
    return {name: len(keep) for name, keep in plan.keep.items()}


def top(scores, count):
    return tuple(sorted(np.argsort(scores)[len(scores) - count :].tolist()))


def test_every_group_keeps_its_share(chain, weights):
    plan = select_channels(chain, weights, keep=0.5)
    assert plan.keep == {name: top(scores, WIDTHS[name] // 2) for name, scores in norms(weights).items()}
    assert plan.graph is chain
    assert select_channels(chain, weights, remove=0.5) == plan
    assert select_channels(chain, weights, keep=1.0) == Plan()
    random = [select_channels(chain, weights, keep=0.5, criterion='random', seed=seed) for seed in (0, 0, 1)]
    assert random[0] == random[1] != random[2]


@pytest.mark.parametrize(
    ('keep', 'options', 'expected'),
    [
        (0.5, {}, [4, 4, 6, 15]),
        (0.3, {}, [2, 2, 4, 9]),  # 2.4, 2.4, 3.6, 9
        (0.25, {}, [2, 2, 3, 8]),  # 7.5: of two, the larger
        (0.01, {}, [1, 1, 1, 1]),
        (0.5, {'round_to': 4}, [4, 4, 8, 16]),  # 6 and 15
        (0.85, {'round_to': 8}, [8, 8, 12, 24]),  # 25.5 of 30: 24 or all
        (0.9, {'round_to': 8}, [8, 8, 12, 30]),  # 27
        (0.5, {'round_to': 16}, [8, 8, 12, 16]),  # narrow groups have no multiple but all
        (0.1, {'min_channels': 5}, [5, 5, 5, 5]),
        (0.1, {'min_channels': 5, 'round_to': 4}, [8, 8, 8, 8]),
        (0.1, {'min_channels': 10}, [8, 8, 10, 10]),
    ],
)
def test_the_count_nearest_to_the_share(chain, weights, keep, options, expected):
    found = counts(select_channels(chain, weights, keep=keep, **options))
    assert [found.get(name, width) for name, width in WIDTHS.items()] == expected


@pytest.mark.parametrize(
    ('keep', 'expected'),
    [
        ({'a': 0.5}, {'a': 4}),
        ({1: 0.5, '2': 0.25}, {'b': 4, 'c': 3}),
        ({'[ab]': 0.5, 'w*': 0.1}, {'a': 4, 'b': 4, 'wide': 3}),
        ({'*': 0.5, '[ab]': 0.25, 'a': 1.0}, {'b': 2, 'c': 6, 'wide': 15}),
        ({'a': 1.0, '[ab]': 0.25, '*': 0.5}, {'b': 2, 'c': 6, 'wide': 15}),
        ({'model.0': 0.5}, {'a': 4}),
        ({'[abo]*': 0.5, '[ab]': 0.5}, {'a': 4, 'b': 4}),  # `out` stays; the same share twice
    ],
)
def test_shares_by_name_index_and_pattern(chain, weights, keep, expected):
    assert counts(select_channels(chain, weights, keep=keep, aliases={'model.0': 'a'})) == expected
    gone = {key: 1 - share for key, share in keep.items()}
    assert counts(select_channels(chain, weights, remove=gone, aliases={'model.0': 'a'})) == expected


def test_layers_that_share_a_group(graph, variables):
    plans = [select_channels(graph, variables, keep={key: 0.4}) for key in ('d', 'e', 3, 4)]
    assert all(plan == plans[0] for plan in plans)
    assert counts(plans[0]) == {'d': 2}
    assert select_channels(graph, variables, keep={'d': 0.4, 4: 0.4}) == plans[0]
    assert counts(select_channels(graph, variables, keep=0.5, ignore=['e', '0'])) == {'b': 4, 'c': 2}


def test_one_threshold_for_all(chain, weights):
    relative = {name: scores / scores.mean() for name, scores in norms(weights).items()}
    ranked = sorted((score, name, channel) for name, scores in relative.items() for channel, score in enumerate(scores))
    for share in (0.5, 0.8, 0.93):
        plan = select_channels(chain, weights, keep=share, scope='global')
        left = {name: set(plan.keep.get(name, range(width))) for name, width in WIDTHS.items()}
        assert sum(map(len, left.values())) == round(share * 58)
        kept = [channel in left[name] for _, name, channel in ranked]
        gone_first = kept.index(True)
        assert all(kept[gone_first:]), 'a channel above the threshold goes, one below stays'
    sizes = counts(select_channels(chain, weights, keep=0.5, scope='global', normalise='none'))
    second_best = {name: np.sort(scores)[:-1] for name, scores in norms(weights).items()}  # one stays in any case
    threshold = np.sort(np.concatenate(list(second_best.values())))[-(29 - 4)]
    assert sizes == {name: 1 + int(np.sum(scores >= threshold)) for name, scores in second_best.items()}
    assert sizes['a'] == 1, 'the smallest norms, as it has the fewest inputs'


def test_one_threshold_respects_minimum_and_rounding(chain, weights):
    weights['params']['a']['kernel'] *= 1e-3
    scale = {'scope': 'global', 'normalise': 'none'}
    plan = select_channels(chain, weights, keep=0.5, min_channels=4, round_to=4, **scale)
    assert counts(plan)['a'] == 4
    assert all(count % 4 == 0 for count in counts(plan).values())
    assert sum(counts(plan).get(name, width) for name, width in WIDTHS.items()) == 28  # 29 asked for: 28 or 32
    smaller = select_channels(chain, weights, keep={'[ab]': 0.5, '*': 1.0}, **scale)
    assert counts(smaller) == {'a': 1, 'b': 7}, 'only groups of one key share a threshold'
    with pytest.raises(UserError, match=r'keep 0.2 of the 58 channels of a, b, c, \.\.\. cannot.*at least 16 .*0.2759'):
        select_channels(chain, weights, keep=0.2, min_channels=4, **scale)
    assert sum(counts(select_channels(chain, weights, keep=0.2759, min_channels=4, **scale)).values()) == 16


def test_equal_scores_remove_lower_groups_first(chain, weights):
    for leaves in weights['params'].values():
        leaves['kernel'][:] = 1
    plan = select_channels(chain, weights, keep=50 / 58, scope='global')
    assert plan.keep == {'a': (7,), 'b': (1, 2, 3, 4, 5, 6, 7)}


def test_like_with_like(chain, weights):
    """`b`, `c` and `wide` are alike; the inputs of `a` are no channels, so it stands alone."""
    weights['params']['wide']['kernel'] *= 100
    weights['params']['a']['kernel'] *= 1e-3
    plan = select_channels(chain, weights, keep=0.6, scope='isomorphic')
    assert counts(plan) == {'a': 5, 'b': 1, 'c': 1, 'wide': 28}  # 30 of 50, one per group at least
    together = select_channels(chain, weights, keep=0.6, scope='global', normalise='none')
    assert counts(together)['a'] == 1


@pytest.mark.parametrize('limit', [0.3, 0.62, 400])
def test_a_budget_keeps_the_most_valuable(chain, weights, limit):
    allowed = {'ignore': ['wide'], 'round_to': 2}
    plan = select_channels(chain, weights, budget={'parameters': limit}, **allowed)
    relative = {name: np.sort(scores / scores.mean())[::-1] for name, scores in norms(weights).items()}
    cost, best = chain.costs['parameters'], -math.inf
    largest = limit if limit > 1 else limit * cost(np.array([8, 8, 12, 30, 2]))
    for kept in itertools.product(range(2, 9, 2), range(2, 9, 2), range(2, 13, 2)):
        if cost(np.array([*kept, 30, 2])) <= largest:
            best = max(best, sum(relative[name][:count].sum() for name, count in zip('abc', kept, strict=True)))
    found = sum(relative[name][: counts(plan).get(name, WIDTHS[name])].sum() for name in 'abc')
    assert found == pytest.approx(best, rel=1e-4)
    sliced = slice_variables(weights, plan)
    assert sum(leaf.size for each in sliced['params'].values() for leaf in each.values()) <= largest
    assert planned_costs(plan)['parameters'] <= largest


def test_budgets_with_shares_and_scopes(chain, weights):
    whole = planned_costs(Plan().on(chain))['parameters']
    assert whole == sum(leaf.size for each in weights['params'].values() for leaf in each.values())
    fixed = select_channels(chain, weights, budget={'parameters': 0.5}, keep={'a': 0.25, 'c': 1.0})
    assert counts(fixed)['a'] == 2 and 'c' not in counts(fixed)
    assert planned_costs(fixed)['parameters'] <= 0.5 * whole
    for scope in ('layer', 'isomorphic'):
        plan = select_channels(chain, weights, budget={'parameters': 0.5}, scope=scope)
        cost = planned_costs(plan)['parameters']
        plans = [select_channels(chain, weights, keep=share, scope=scope) for share in np.arange(0.1, 1, 0.005)]
        fitting = [planned_costs(other)['parameters'] for other in plans]
        assert cost == max(other for other in fitting if other <= 0.5 * whole)
    assert select_channels(chain, weights, budget={'parameters': 1.0}, scope='layer') == Plan()
    by_operations = [select_channels(chain, weights, budget={name: 0.5}) for name in ('macs', 'flops')]
    assert by_operations[0] == by_operations[1]
    assert select_channels(chain, weights, budget={'flops': 1000}) == select_channels(
        chain, weights, budget={'macs': 500}
    )


def test_measured_tables(chain, weights):
    """Narrowing `a` pays off only below six channels."""
    tables = {'latency': {'a': {1: 1.0, 5: 1.0, 6: 9.0, 8: 9.0}, 2: {1: 0.5, 12: 6.0}}}
    options = {'tables': tables, 'ignore': ['b', 'wide']}
    assert counts(select_channels(chain, weights, budget={'latency': 10}, **options)) == {'a': 5}
    assert counts(select_channels(chain, weights, budget={'latency': 0.2}, **options)) == {'a': 5, 'c': 4}  # 3 of 15
    uniform = select_channels(chain, weights, budget={'latency': 4}, scope='layer', **options)
    assert counts(uniform) == {'a': 4, 'c': 6}
    both = select_channels(chain, weights, budget={'latency': 0.9, 'parameters': 500}, **options)
    assert planned_costs(both)['parameters'] <= 500


def test_steps_within_one_another(chain, weights):
    first = select_channels(chain, weights, keep=0.75)
    louder = {'params': {**weights['params'], 'a': {**weights['params']['a']}}}
    louder['params']['a']['kernel'] = weights['params']['a']['kernel'].copy()
    louder['params']['a']['kernel'][:, sorted(set(range(8)) - set(first.keep['a']))] = 100
    second = select_channels(chain, louder, keep={'a': 0.5}, within=Plan(first.layers))
    assert set(second.keep['a']) < set(first.keep['a']) and len(second.keep['a']) == 4
    assert second.keep['b'] == first.keep['b']
    assert select_channels(chain, louder, keep=1.0, within=first) == first
    third = select_channels(chain, louder, budget={'parameters': 0.3}, within=second)
    assert all(set(third.keep[name]) <= set(second.keep[name]) for name in WIDTHS)


def test_criteria_that_remove_the_largest_first(chain, weights):
    plan = select_channels(chain, weights, criterion='l2-largest', budget={'parameters': 0.5})
    assert 0.4 < planned_costs(plan)['parameters'] / planned_costs(Plan().on(chain))['parameters'] <= 0.5
    assert all(top(-norms(weights)[name], len(keep)) == keep for name, keep in plan.keep.items())
    spread = select_channels(chain, weights, criterion='l2-largest', keep=0.5, scope='global')
    assert sum(counts(spread).values()) == 29


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'nothing is asked for'),
        ({'keep': 0.5, 'remove': 0.5}, 'keep and remove are both given'),
        ({'keep': 0.5, 'budget': {'macs': 0.5}}, 'one share for all .* and a budget'),
        ({'keep': 0}, r"keep 0 for '\*' is out of range: give a share above 0, at most 1"),
        ({'keep': {'a': 1.5}}, "keep 1.5 for 'a'"),
        ({'keep': math.nan}, 'keep nan'),
        ({'keep': 'half'}, "keep 'half'"),
        ({'remove': {'a': 1.0}}, "remove 1.0 for 'a' is out of range: give a share 0 or more, below 1"),
        ({'keep': {'conv': 0.5}}, "pattern 'conv' matches no layer: layers have names such as a, b"),
        ({'keep': {9: 0.5}}, 'layer 9 does not exist'),
        ({'keep': {'out': 0.5}}, r'layer 4 \(out\) cannot be pruned: its channels are the output'),
        ({'keep': {'o*': 0.5}}, r"pattern 'o\*' matches only what cannot be pruned \(out: its channels"),
        ({'keep': {'a': 0.5, 0: 0.25}}, r"layer 0 \(a\) has two shares, for 'a' and for 0: give one"),
        ({'keep': {'[ab]': 0.5, '[a]': 0.25}}, r"two shares, for '\[ab\]' and for '\[a\]'"),
        ({'keep': 0.5, 'ignore': ['conv*']}, r"pattern 'conv\*' matches no layer"),
        ({'keep': 0.5, 'ignore': '*'}, r'no channel can be removed: the patterns \* match'),
        ({'keep': 0.5, 'scope': 'all'}, "scope 'all' does not exist: give one of layer, global, isomorphic"),
        ({'keep': 0.5, 'normalise': 'max'}, "normalisation 'max'"),
        ({'keep': 0.5, 'round_to': 0}, 'round_to is 0'),
        ({'keep': 0.5, 'min_channels': 0}, 'min_channels is 0'),
        ({'keep': 0.5, 'criterion': 'l9'}, "criterion 'l9' does not exist"),
        ({'keep': 0.5, 'tables': {'latency': {}}}, "a table of 'latency' is given, but no budget"),
        ({'budget': {'memory': 0.5}}, "budget 'memory' is of no known cost: give one of parameters, macs, flops"),
        ({'budget': {'macs': -1}}, "budget 'macs' is -1"),
        ({'budget': {'macs': 10}}, r'macs: 14 is the least with min_channels=1 round_to=1, asked for 10'),
        ({'budget': {'macs': 10}, 'scope': 'layer'}, r'macs: 14 is the least with min_channels=1 round_to=1'),
        ({'budget': {'t': 0.5}, 'tables': {'t': {'a': {4: 1.0, 8: 2.0}}}}, "table 't' does not cover a: .* 1 to 8"),
        ({'budget': {'macs': 0.5}, 'tables': {'t': {}}}, "table 't' is not used"),
    ],
)
def test_refusals(chain, weights, options, message):
    with pytest.raises(UserError, match=message):
        select_channels(chain, weights, **options)


def test_contradictory_shares_of_one_group(graph, variables):
    with pytest.raises(
        UserError, match=r"layer 3 \(d\) has two shares, for 'd' and for 'e' \(d, e are pruned together\)"
    ):
        select_channels(graph, variables, keep={'d': 0.5, 'e': 0.4})


def test_nothing_can_be_pruned(chain, weights):
    closed = dataclasses.replace(chain, groups=tuple(dataclasses.replace(g, protected='it is') for g in chain.groups))
    with pytest.raises(UserError, match=r'no channel can be removed: a: it is'):
        select_channels(closed, weights, keep=0.5)
