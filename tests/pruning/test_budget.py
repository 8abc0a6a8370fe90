"""Budgets: choices and bounds against every combination, a knapsack program, and networks built here."""

import itertools
import math
import time

import numpy as np
import pytest
from scipy import optimize, sparse

from jaxprune.errors import UserError
from jaxprune.graph import Cost
from jaxprune.pruning import _budget_bound
from jaxprune.pruning._budget import Limit, allocate, kept_options, kept_values
from jaxprune.pruning._budget_problem import build


def make_cost(groups, terms):
    """A `Cost` from terms `(scale, [(fixed, {group: share}), ...])`, all with as many factors."""
    factors = len(terms[0][1])
    share = np.zeros((len(terms) * factors, groups))
    for row, (_, lengths) in enumerate(terms):
        for place, (_, shares) in enumerate(lengths):
            for group, of_channel in shares.items():
                share[row * factors + place, group] = of_channel
    fixed = np.array([[length[0] for length in lengths] for _, lengths in terms], float)
    return Cost(np.array([scale for scale, _ in terms], float), fixed, sparse.csr_array(share))


def random_cost(rng, groups, factors):
    """Terms over random groups: some constant, some linear, some products, some of a group with itself."""
    terms = []
    for _ in range(2 * groups):
        lengths = []
        for _ in range(factors):
            members = rng.choice(groups, size=rng.integers(0, 3), replace=False)
            shares = {int(group): int(rng.integers(1, 3)) for group in members}
            lengths.append((float(rng.integers(0 if shares else 1, 4)), shares))
        terms.append((float(rng.integers(1, 5)), lengths))
    return make_cost(groups, terms)


def random_problem(seed, groups, factors=2):
    """Values, options and a cost; values rise, but not evenly, and a group may have a single option."""
    rng = np.random.default_rng(seed)
    options = [np.sort(rng.choice(np.arange(1, 20), size=rng.integers(1, 6), replace=False)) for _ in range(groups)]
    values = [np.sort(rng.random(len(option))) for option in options]
    return rng, values, options, random_cost(rng, groups, factors)


def every(values, options, limits):
    """The best value of all combinations, with costs computed term by term; None where none fits."""
    best = None
    for choice in itertools.product(*(range(len(option)) for option in options)):
        kept = np.array([option[place] for option, place in zip(options, choice, strict=True)], float)
        costs = [
            reached(limit.cost, kept)
            if isinstance(limit.cost, Cost)
            else sum(table[place] for table, place in zip(limit.cost, choice, strict=True))
            for limit in limits
        ]
        if all(cost <= limit.limit for cost, limit in zip(costs, limits, strict=True)):
            value = sum(value[place] for value, place in zip(values, choice, strict=True))
            best = value if best is None else max(best, value)
    return best


def reached(cost, kept):
    """A cost by its definition, in plain loops over terms and factors."""
    factors, share = cost.fixed.shape[1], cost.share.toarray()
    total = 0.0
    for term, scale in enumerate(cost.scale):
        lengths = [cost.fixed[term, factor] + share[term * factors + factor] @ kept for factor in range(factors)]
        total += scale * math.prod(lengths)
    return total


def between(cost, options, share):
    """A limit that lies at a share of the way from the least to the most that options cost."""
    least, most = (reached(cost, np.array([option[end] for option in options], float)) for end in (0, -1))
    return least + share * (most - least)


def check(found, values, options, limits, best):
    assert found.kept == tuple(option[place] for option, place in zip(options, found.choice, strict=True))
    assert found.value == pytest.approx(sum(v[place] for v, place in zip(values, found.choice, strict=True)))
    assert all(found.costs[limit.name] <= limit.limit * (1 + 1e-9) for limit in limits)
    assert found.value <= best + 1e-9 <= found.bound + 2e-6
    assert found.gap == pytest.approx((found.bound - found.value) / found.bound, abs=1e-12)


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('factors', [1, 2, 3])
def test_as_good_as_the_best_of_all_combinations(seed, factors):
    rng, values, options, cost = random_problem(seed, 5, factors)
    limits = [Limit('macs', cost, between(cost, options, rng.uniform(0.05, 0.7)))]
    best = every(values, options, limits)
    exact = allocate(values, options, limits, gap=0)
    check(exact, values, options, limits, best)
    assert exact.optimal
    assert exact.value == pytest.approx(best)
    rough = allocate(values, options, limits, gap=0.05)
    check(rough, values, options, limits, best)
    assert rough.gap <= 0.05


@pytest.mark.parametrize('factors', [2, 3])
def test_a_cut_is_below_the_cost_everywhere_and_touches_it_where_it_was_made(factors):
    rng, values, options, cost = random_problem(7, 4, factors)
    problem = build(values, options, [cost], [100.0])
    combinations = list(itertools.product(*(range(len(option)) for option in options)))
    costs = [reached(cost, np.array([option[i] for option, i in zip(options, c, strict=True)])) for c in combinations]
    for made_at in range(0, len(combinations), 7):
        whole = np.zeros(len(problem.count))
        whole[np.array(combinations[made_at]) + problem.start[:-1]] = 1
        spread = rng.dirichlet(np.full(len(problem.count), 0.2))
        spread /= np.bincount(problem.group, spread)[problem.group]
        for point in (whole, spread):
            state = _budget_bound.begin(problem)
            _budget_bound._cut(state, point)
            below = [state.rows[-1][c + problem.start[:-1]].sum() + 1 - state.sides[-1] for c in combinations]
            assert np.all(100 * np.array(below) <= np.array(costs) + 1e-6)
            assert point is spread or 100 * below[made_at] == pytest.approx(costs[made_at])


@pytest.mark.parametrize('seed', range(4))
def test_several_limits_at_once(seed):
    rng, values, options, cost = random_problem(100 + seed, 5)
    second = random_cost(rng, 5, 2)
    table = [np.cumsum(rng.random(len(option))) for option in options]
    time_limit = sum(entry.min() + 0.4 * (entry.max() - entry.min()) for entry in table)
    limits = [
        Limit('parameters', cost, between(cost, options, 0.4)),
        Limit('macs', second, between(second, options, 0.3)),
        Limit('latency', table, time_limit),
    ]
    best = every(values, options, limits)
    found = allocate(values, options, limits, gap=0)
    check(found, values, options, limits, best)
    assert found.optimal
    assert found.value == pytest.approx(best)


@pytest.mark.parametrize('measured', [True, False])
def test_separable_costs_make_a_multiple_choice_knapsack(measured):
    rng = np.random.default_rng(5)
    options = [kept_options(int(rng.integers(16, 200)), round_to=8) for _ in range(40)]
    values = [np.cumsum(rng.random(len(option))) for option in options]
    slope = rng.uniform(0.5, 2, size=40)
    table = [factor * option for factor, option in zip(slope, options, strict=True)]
    cost = make_cost(40, [(factor, [(0.0, {group: 1}), (1.0, {})]) for group, factor in enumerate(slope)])
    limit = 0.4 * sum(entry[-1] for entry in table)
    found = allocate(values, options, [Limit('latency', table if measured else cost, limit)], gap=0)
    assert found.optimal
    sizes = [len(option) for option in options]
    one = sparse.block_diag([sparse.coo_array(np.ones((1, size))) for size in sizes])
    program = optimize.milp(
        -np.concatenate(values),
        integrality=1,
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(one, 1, 1),
            optimize.LinearConstraint(np.concatenate(table)[None], ub=limit),
        ],
        options={'mip_rel_gap': 0},
    )
    assert found.value == pytest.approx(-program.fun, rel=1e-7)


def test_a_table_may_be_uneven():
    """Measured times do not rise with every channel: keeping more can be faster."""
    options = [np.array([8, 16, 24])] * 2
    values = [np.array([1.0, 2.0, 3.0])] * 2
    table = [np.array([5.0, 3.0, 4.0]), np.array([6.0, 7.0, 2.0])]
    assert allocate(values, options, [Limit('latency', table, 5.0)], gap=0).kept == (16, 24)
    with pytest.raises(UserError, match=r'latency: 5 is the least with these options, asked for 4\.5'):
        allocate(values, options, [Limit('latency', table, 4.5)])


def test_a_higher_limit_is_never_worth_less():
    _, values, options, cost = random_problem(42, 6)
    limits = [between(cost, options, share) for share in np.linspace(0, 1, 9)]
    found = [allocate(values, options, [Limit('macs', cost, limit)], gap=0).value for limit in limits]
    assert np.all(np.diff(found) >= -1e-9)
    assert found[0] < found[-1]
    assert found[-1] == pytest.approx(sum(value.max() for value in values))


def test_says_the_least_that_can_be_reached():
    cost = make_cost(2, [(9.0, [(0.0, {0: 1}), (0.0, {1: 1})])])
    options = [kept_options(64, min_channels=8, round_to=8)] * 2
    values = [np.sqrt(option) for option in options]
    assert allocate(values, options, [Limit('parameters', cost, 576)]).kept == (8, 8)
    with pytest.raises(UserError, match='parameters: 576 is the least with min_channels=8 round_to=8, asked for 300'):
        allocate(values, options, [Limit('parameters', cost, 300)], rule='min_channels=8 round_to=8')


def test_limits_that_only_together_are_too_low():
    options, values = [np.array([1, 2])], [np.array([1.0, 2.0])]
    limits = [Limit('first', [np.array([1.0, 3.0])], 2), Limit('second', [np.array([3.0, 1.0])], 2)]
    with pytest.raises(UserError, match='first <= 2 and second <= 2 cannot be met together'):
        allocate(values, options, limits)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'constraints': []}, 'no limit'),
        ({'values': [np.ones(2)]}, 'same groups'),
        ({'values': [np.ones(2), np.array([1.0, np.nan])]}, 'not finite'),
        ({'options': [np.array([2, 1]), np.array([1, 2])]}, 'options of group 0'),
        ({'options': [np.array([0, 1]), np.array([1, 2])]}, 'options of group 0'),
        ({'constraints': [Limit('latency', [np.ones(2)], 3.0)]}, 'latency: the table'),
        ({'constraints': [Limit('macs', make_cost(1, [(1.0, [(1.0, {0: 1})])]), 3.0)]}, 'macs is a cost of 1 groups'),
        ({'constraints': [Limit('macs', make_cost(2, [(-1.0, [(1.0, {0: 1})])]), 3.0)]}, 'negative parts'),
        ({'constraints': [Limit('latency', [np.ones(2)] * 2, np.inf)]}, 'the limit is inf'),
    ],
)
def test_refuses(change, message):
    arguments = {
        'values': [np.array([1.0, 2.0])] * 2,
        'options': [np.array([1, 2])] * 2,
        'constraints': [Limit('latency', [np.ones(2)] * 2, 3.0)],
    }
    with pytest.raises(UserError, match=message):
        allocate(**arguments | change)


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ((20, 1, 8), [8, 16, 20]),
        ((24, 10, 8), [16, 24]),  # a minimum between two multiples
        ((4, 8, 8), [4]),  # fewer than the minimum: all stay
        ((3, 1, 1), [1, 2, 3]),
    ],
)
def test_kept_options(arguments, expected):
    channels, min_channels, round_to = arguments
    assert kept_options(channels, min_channels=min_channels, round_to=round_to).tolist() == expected


def test_kept_options_refuse_what_is_below_one():
    with pytest.raises(UserError, match='round_to is 0'):
        kept_options(8, round_to=0)


def test_kept_values_sum_the_best():
    scores = np.array([0.5, 3.0, 1.0, 2.0], np.float32)
    assert kept_values(scores, np.array([1, 3, 4])).tolist() == [3.0, 6.0, 6.5]


def network(groups, seed):
    """Parameters and multiply-accumulates of a chain of 3x3 convolutions with concatenations and residual additions.

    A layer reads its predecessor and, now and then, one or two earlier groups beside it (concatenation). Where it adds
    its output to an earlier group, both are one group: that group reads and is read by others again (residual).
    """
    rng = np.random.default_rng(seed)
    terms = [(9.0, [(3.0, {}), (0.0, {0: 1})])]
    for group in range(1, groups):
        read = {group - 1: 1} | {int(other): 1 for other in rng.integers(max(group - 8, 0), group, rng.integers(0, 3))}
        terms.append((9.0, [(0.0, read), (0.0, {group: 1})]))
        if rng.random() < 0.3:
            terms.append((9.0, [(0.0, {group: 1}), (0.0, {max(group - 3, 0): 1})]))
    terms.append((1.0, [(0.0, {groups - 1: 1}), (10.0, {})]))
    area = 4.0 ** -np.minimum(np.arange(len(terms)) // (len(terms) // 4 + 1), 3) * 64 * 64
    channels = 32 * rng.integers(2, 9, size=groups)
    parameters = make_cost(groups, terms)
    return parameters, Cost(parameters.scale * area, parameters.fixed, parameters.share), channels


def importance(channels, options, seed):
    """Sums of the best of scores that are spread as those of trained filters are."""
    rng = np.random.default_rng(seed)
    scores = [np.abs(rng.normal(1, rng.uniform(0.1, 0.5), size=size)) * np.exp(rng.normal() / 2) for size in channels]
    return [kept_values(score, option) for score, option in zip(scores, options, strict=True)]


def test_a_network_of_sixty_groups_takes_seconds_and_the_gap_is_small():
    parameters, macs, channels = network(60, 0)
    options = [kept_options(int(size), min_channels=8, round_to=8) for size in channels]
    values = importance(channels, options, 1)
    limits = [Limit('parameters', parameters, 0.4 * parameters(channels)), Limit('macs', macs, 0.35 * macs(channels))]
    begin = time.monotonic()
    found = allocate(values, options, limits, gap=1e-3, time_limit=30)
    assert time.monotonic() - begin < 35
    assert found.gap <= 1e-3
    assert all(found.costs[limit.name] <= limit.limit for limit in limits)
    assert found.costs['macs'] == reached(macs, np.array(found.kept, float))
    assert found.bound < sum(value.max() for value in values)
    assert allocate(values, options, limits, gap=1e-3, time_limit=30) == found
