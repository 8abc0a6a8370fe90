"""Plans as data: validation, composition, difference, files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprune.errors import UserError
from jaxprune.pruning import Difference, Plan, PlanLayer, Row


def plan(*layers):
    return Plan(tuple(PlanLayer(*layer) for layer in layers))


A = plan((0, 'a', 6, (0, 2, 5)), (1, 'b', 4, (1, 3)))

subsets = st.integers(1, 9).flatmap(
    lambda width: st.tuples(st.just(width), st.sets(st.integers(0, width - 1), min_size=1))
)


@given(subsets, st.data())
def test_then_counts_what_the_first_kept(first, data):
    width, kept = first
    again = data.draw(st.sets(st.integers(0, len(kept) - 1), min_size=1))
    one = plan((0, 'a', width, tuple(sorted(kept))))
    two = plan((0, 'a', len(kept), tuple(sorted(again))))
    names = [f'channel {place}' for place in range(width)]
    left = [names[place] for place in one.keep['a']]
    expected = [left[place] for place in two.keep['a']]
    assert [names[place] for place in one.then(two).keep['a']] == expected
    assert one.then(two).channels == {'a': width}


def test_then_joins_different_layers_and_has_a_neutral_element():
    assert plan((1, 'b', 4, (1, 3))).then(plan((0, 'a', 6, (0, 2, 5)))) == A
    assert A.then(Plan()) == Plan().then(A) == A
    assert len({A, A.then(Plan())}) == 1


def test_then_refuses_other_widths():
    with pytest.raises(UserError, match=r'layer 0 \(a\).*6 channels.*leaves 3'):
        A.then(A)


def test_diff_and_rows():
    other = plan((0, 'a', 6, (0, 1, 5)), (1, 'b', 4, (1, 3)), (2, 'c', 3, (0, 1, 2)), (3, 'd', 3, (2,)))
    assert A.diff(A) == []
    assert A.diff(other) == [Difference(0, 'a', (1,), (2,)), Difference(3, 'd', (), (0, 1))]
    assert A.rows() == [Row(0, 'a', 6, 3, 3, 0.5), Row(1, 'b', 4, 2, 2, 0.5)]


def test_file_round_trip(tmp_path):
    A.write(tmp_path / 'plan.json')
    assert Plan.read(tmp_path / 'plan.json') == A
    assert [file.name for file in tmp_path.iterdir()] == ['plan.json']
    plain = json.loads((tmp_path / 'plan.json').read_text())
    assert plain['version'] == 1 and plain['kind'] == 'channels'
    assert plain['layers'][0] == {'layer': 0, 'name': 'a', 'channels': 6, 'keep': [0, 2, 5]}


@pytest.mark.parametrize(
    ('layer', 'message'),
    [
        ((0, 'a', 6, ()), 'at least one'),
        ((0, 'a', 6, (2, 1)), 'rise'),
        ((0, 'a', 6, (1, 1)), 'not repeat'),
        ((0, 'a', 6, (0, 6)), 'channel 6 is out of range.*0 to 5'),
        ((0, 'a', 6, (-1, 3)), 'channel -1 is out of range'),
    ],
)
def test_senseless_layers(layer, message):
    with pytest.raises(UserError, match=message):
        PlanLayer(*layer)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'is not JSON'),
        ('\x80', 'is not JSON'),
        ('[]', 'not a plan'),
        ('{"version": 2, "kind": "channels", "layers": []}', 'version 2'),
        ('{"version": 1, "kind": "rates", "layers": []}', "kind 'rates'"),
        ('{"version": 1, "kind": "channels"}', 'layers'),
        ('{"version": 1, "kind": "channels", "layers": [{"layer": 0}]}', 'not complete'),
        (
            '{"version": 1, "kind": "channels", "layers": [{"layer": 0, "name": "a", "channels": 2, "keep": [0.5]}]}',
            '0.5',
        ),
        ('{"version": 1, "kind": "channels", "layers": [{"layer": 0, "name": "a", "channels": 2, "keep": 1}]}', 'type'),
        ('{"version": 1, "kind": "channels", "layers": 3}', 'type'),
    ],
)
def test_senseless_files(tmp_path, text, message):
    file = tmp_path / 'plan.json'
    file.write_bytes(text.encode('latin1'))
    with pytest.raises(UserError, match=message) as caught:
        Plan.read(file)
    assert str(file) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r'none\.json: cannot be read'):
        Plan.read(tmp_path / 'none.json')


def test_a_layer_stands_once():
    with pytest.raises(UserError, match='layer a twice'):
        plan((0, 'a', 2, (0,)), (0, 'a', 2, (1,)))
