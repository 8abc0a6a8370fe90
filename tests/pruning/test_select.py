"""Selection against what the original's selection picked, and where it has to end all the same."""

import json
import math

import pytest

from jaxprune.errors import UserError
from jaxprune.pruning import Choice, select_layers

SETTINGS = [(6, 5, 20), (3, 2, 10), (8, 8, 20), (2, 2, 5), (10, 4, 40), (5, 6, 1)]
BASE = {'parameters_published': 1000.0, 'gflops': 100.0}


@pytest.fixture(scope='module')
def table(golden):
    table = json.loads((golden / 'trained/sensitivity.json').read_text())
    return [{**row, 'gflops': row['gflops_256']} for row in (table['baseline'], *table['cells'])]


@pytest.mark.parametrize('setting', SETTINGS)
def test_picks_what_the_original_picks(golden, table, setting):
    settings = json.loads((golden / 'trained/select.json').read_text())['settings']
    assert len(settings) == len(SETTINGS)
    names = ('params_layers', 'flops_layers', 'map_power')
    expected = next(case['layers'] for case in settings if tuple(case[name] for name in names) == setting)
    chosen = select_layers(table[0], table[1:], **dict(zip(names, setting, strict=True)))
    assert [choice.to_json() for choice in chosen] == expected


def cell(layer, rate, accuracy, params=0.0, flops=0.0):
    return {
        'layer': layer,
        'rate': rate,
        'map50_95': accuracy,
        'parameters_published': BASE['parameters_published'] - params,
        'gflops': BASE['gflops'] - flops,
    }


def pick(cells, params_layers, flops_layers=0, **options):
    options = {'map_power': 1, **options}
    return select_layers(BASE, cells, params_layers=params_layers, flops_layers=flops_layers, **options)


def layers(choices):
    return [choice.layer for choice in choices]


def line(scores):
    return [cell(layer, 0.5, 1.0, params=score) for layer, score in enumerate(scores)]


def brute(scores, count):
    """The published search, step by step; None where it finds nothing up to f = 20."""
    for step in range(18_000):
        admitted = [layer for layer, score in enumerate(scores) if score >= max(scores) / (2 + step / 1000)]
        if len(admitted) in (count - 1, count):
            return admitted
    return None


@pytest.mark.parametrize('count', range(1, 9))
@pytest.mark.parametrize(
    'scores',
    [
        (100, 90, 60, 45, 33, 20, 12, 7),
        (100, 30.001, 30, 29.999, 20, 15, 14, 6),
        (100, 49, 48, 47, 46, 45, 8, 7),
    ],
)
def test_is_the_step_by_step_search(scores, count):
    expected = brute(scores, count)
    if expected is None:  # more than k layers reach half of the best, or several enter in one step
        expected = list(range(count))
    assert layers(pick(line(scores), count)) == expected


def test_threshold_may_admit_one_layer_less_and_top_does_not():
    scores = (100, 90, 60, 20, 10)
    assert layers(pick(line(scores), 4)) == [0, 1, 2]
    assert layers(pick(line(scores), 4, rule='top')) == [0, 1, 2, 3]


def test_best_rate_stands_for_the_layer_and_power_makes_careful():
    cells = [cell(0, 0.25, 0.9, params=30), cell(0, 0.75, 0.5, params=80)]
    assert pick(cells, 1) == [Choice(0, 0.75, 'params')]
    assert pick(cells, 1, map_power=4) == [Choice(0, 0.25, 'params')]


def test_layer_of_both_lists_gets_the_lower_rate():
    cells = [
        cell(3, 0.25, 0.9, params=90, flops=1),
        cell(3, 0.75, 0.9, params=80, flops=9),
        cell(1, 0.5, 0.9, params=70),
    ]
    assert pick(cells, 2, 1, rule='top') == [Choice(3, 0.25, 'both'), Choice(1, 0.5, 'params')]
    assert pick(cells, 0, 1) == [Choice(3, 0.75, 'FLOPS')]


@pytest.mark.parametrize('rule', ['published', 'top'])
def test_ties_take_lower_indices_and_never_repeat(rule):
    cells = [cell(layer, rate, 0.5, params=10, flops=10) for rate in (0.5, 0.25) for layer in (4, 2, 3, 1)]
    assert pick(cells, 2, 2, rule=rule) == [Choice(1, 0.25, 'both'), Choice(2, 0.25, 'both')]


@pytest.mark.parametrize(
    ('cells', 'expected'),
    [
        ([], []),
        ([cell(0, 0.5, 0.0, params=10)], []),  # everything lost
        ([cell(0, 0.5, 0.5, params=-10)], []),  # grew
        ([cell(0, 0.5, math.nan, params=10), cell(1, 0.5, 0.1, params=1)], [1]),
        ([cell(0, 0.5, None, params=10)], []),
        ([cell(0, 0.5, 0.5, params=math.inf)], []),
        ([cell(0, 0.5, 0.5, params=10), cell(1, 0.5, 1e-300, params=9)], [0, 1]),  # f would be astronomic
        ([{**cell(0, 0.5, 0.5), 'layer': None}, cell(1, 0.5, 0.5, params=1)], [1]),
    ],
)
@pytest.mark.parametrize('rule', ['published', 'top'])
def test_always_ends(cells, expected, rule):
    assert layers(pick(cells, 7, 7, rule=rule)) == expected


def test_no_list_wanted():
    assert pick(line((3, 2, 1)), 0, 0) == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'params_layers': -1}, 'params_layers is -1'),
        ({'params_layers': 1, 'flops_layers': 1.5}, 'flops_layers is 1.5'),
        ({'params_layers': 1, 'map_power': math.nan}, 'map_power is nan'),
        ({'params_layers': 1, 'rule': 'best'}, "'best'.*published, top"),
    ],
)
def test_senseless_options(options, message):
    with pytest.raises(UserError, match=message):
        pick(line((1, 2)), **options)


def test_missing_column():
    with pytest.raises(UserError, match='gflops'):
        select_layers({'parameters_published': 1}, line((1,)), params_layers=1, flops_layers=1, map_power=1)
