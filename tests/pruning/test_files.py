"""What `--plan FILE` understands, and the published plans that travel with the program."""

import json

import pytest

from jaxprune import resources
from jaxprune.errors import UserError
from jaxprune.pruning import (
    Choice,
    kept_plan,
    plan_rates,
    published_iterations,
    rates_from_json,
    read_plan,
    write_rates,
)


@pytest.fixture
def write(tmp_path):
    def put(plain):
        file = tmp_path / 'plan.json'
        file.write_text(json.dumps(plain))
        return file

    return put


def test_own_plan(tmp_path, graph, variables):
    plan = plan_rates(graph, variables, {'b': 0.5, 'd': 0.4})
    plan.write(tmp_path / 'plan.json')
    assert read_plan(tmp_path / 'plan.json', graph, variables) == plan


def test_rates(tmp_path, graph, variables, write):
    write_rates([Choice(1, 0.5, 'both'), Choice(0, 0.25, 'params')], tmp_path / 'rates.json')
    plain = json.loads((tmp_path / 'rates.json').read_text())
    assert plain == {
        'version': 1,
        'kind': 'rates',
        'layers': [
            {'layer': 1, 'rate': 0.5, 'chosen_for': 'both'},
            {'layer': 0, 'rate': 0.25, 'chosen_for': 'params'},
        ],
    }
    expected = plan_rates(graph, variables, {1: 0.5, 0: 0.25}, criterion='l1')
    assert read_plan(tmp_path / 'rates.json', graph, variables, criterion='l1') == expected
    assert read_plan(write(plain['layers']), graph, variables, criterion='l1') == expected
    by_alias = write([{'layer': 'model.1', 'rate': 0.5}, {'layer': 'a', 'rate': 0.25}])
    assert read_plan(by_alias, graph, variables, criterion='l1', aliases={'model.1': 'b'}) == expected


def test_kept_filters_from_elsewhere(graph, variables, write):
    plan = read_plan(write({'1': [5, 0, 2], 'model.2': [1], 'e': [0, 4]}), graph, variables, aliases={'model.2': 'c'})
    assert plan.keep == {'b': (0, 2, 5), 'c': (1,), 'd': (0, 4)}
    assert plan.channels == {'b': 8, 'c': 4, 'd': 5}


def test_nothing_to_remove(graph, variables, write, tmp_path):
    write_rates([], tmp_path / 'rates.json')
    assert read_plan(tmp_path / 'rates.json', graph, variables).layers == ()


@pytest.mark.parametrize(
    ('plain', 'message'),
    [
        ({'9': [0]}, "'9' does not exist.*0 to 5"),
        ({'b': [0, 0]}, 'not repeat'),
        ({'b': [8]}, 'channel 8 is out of range'),
        ({'b': []}, 'at least one'),
        ({'b': 3}, 'list of whole numbers'),
        ({'b': [0.5]}, 'list of whole numbers'),
        ({'head': [0]}, 'cannot be pruned'),
        ({'d': [0], 'e': [1]}, 'd, e are pruned together'),
        ([{'layer': 1}], 'does not give a layer and its rate'),
        ([{'layer': 1, 'rate': 'much'}], 'does not give a layer and its rate'),
        ([{'layer': 1.5, 'rate': 0.5}], '1.5 is neither an index nor a name'),
        ([{'layer': 1, 'rate': 0.5}, {'layer': 1, 'rate': 0.25}], 'two rates'),
        ([{'layer': 1, 'rate': 2}], 'rate 2.0'),
        ({'version': 9, 'kind': 'rates', 'layers': []}, 'version 9'),
        ({'version': 1, 'kind': 'rates'}, 'does not give a layer'),
        ({'version': 1, 'kind': 'masks', 'layers': []}, "'masks'"),
        ('text', 'not a plan'),
    ],
)
def test_senseless_files_are_named(graph, variables, write, plain, message):
    file = write(plain)
    with pytest.raises(UserError, match=message) as caught:
        read_plan(file, graph, variables)
    assert str(caught.value).count(str(file)) == 1


def test_kept_plan_of_numbers(graph):
    assert kept_plan(graph, {1: range(3)}).keep == {'b': (0, 1, 2)}


@pytest.mark.parametrize('name', ['yolov7', 'yolov7-tiny'])
def test_published_iterations(golden, name):
    published = json.loads((golden / f'pruning/{name}.json').read_text())
    assert published_iterations(name) == published['iterations']
    assert rates_from_json(published_iterations(name)[0]['layers'])


def test_nothing_published():
    with pytest.raises(UserError, match=r"'yolov9'.*yolov7, yolov7-tiny"):
        published_iterations('yolov9')


def test_origin_is_stated():
    for file in resources.path('prune').glob('*.yaml'):
        assert 'Origin:' in file.read_text()
