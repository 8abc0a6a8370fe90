"""Functions, metrics and requests that a scan could get wrong, against masking and calling the function."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune import sensitivity
from jaxprune.errors import UserError
from jaxprune.sensitivity._rows import Candidate, Sample, measured
from jaxprune.sensitivity._scan import _own

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6)).astype(np.float32)


def weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def dead_code(v, x):
    """Two parts with the same program but for what they compute in vain, which reads other weights."""
    h = jnp.tanh(x @ v['a']) @ v['b']
    _ = h * v['unused']
    h = jnp.tanh(h * v['scale']) @ v['c']
    y = h * v['other_scale']
    _ = h * v['other_unused']
    return jnp.tanh(y) @ v['head']


DEAD = {
    **{name: weights(1, 8) for name in ('unused', 'scale', 'other_scale', 'other_unused')},
    **{'a': weights(6, 8), 'b': weights(8, 8), 'c': weights(8, 8), 'head': weights(8, 3)},
}


def callbacks(v, x, functions=(lambda array: array * 2, lambda array: array * 3)):
    """Two equal programs that call different functions on the host."""
    for function, name in zip(functions, 'bc', strict=True):
        x = jnp.tanh(x @ v['a']) @ v[name] if name == 'b' else jnp.tanh(x) @ v[name]
        x = jax.pure_callback(lambda array, f=function: f(np.asarray(array)), jax.ShapeDtypeStruct(x.shape, x.dtype), x)
    return jnp.tanh(x) @ v['head']


def without_callbacks(v, x):
    """What the graph is traced from: channels cannot be followed through a function on the host."""
    return jnp.tanh(jnp.tanh(jnp.tanh(x @ v['a']) @ v['b']) @ v['c']) @ v['head']


SMALL = {'a': weights(6, 8), 'head': weights(8, 3)}
FUNCTIONS = {'dead code': (dead_code, dead_code), 'callbacks': (callbacks, without_callbacks)}


def batches(valid=(True,) * 4):
    return [sensitivity.Batch(X, np.zeros(4, np.int32), np.array(valid))]


def mean(outputs, labels, unpruned):
    leaf = jax.tree.leaves(outputs)[0]
    return leaf.reshape(len(leaf), -1).mean(axis=1)


METRIC = sensitivity.Mean('mean', mean)


def scan(tmp_path, function, variables, *, data=None, metric=METRIC, rates=(0.5,), table='scan.jsonl', **options):
    graph = jaxprune.trace(function, variables, X)
    given = batches() if data is None else data
    return graph, jaxprune.scan(
        function, variables, given, tmp_path / table, graph=graph, metric=metric, rates=rates, **options
    )


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_cell_is_what_the_masked_model_gives(name, tmp_path):
    function, traced = FUNCTIONS[name]
    graph = jaxprune.trace(traced, DEAD, X)
    options = {'graph': graph, 'metric': METRIC, 'rates': (0.5,)}
    rows = jaxprune.scan(function, DEAD, batches(), tmp_path / 'scan.jsonl', **options)
    assert len(rows) > 1
    for row, cell in zip(rows, sensitivity.candidates(graph, DEAD, (0.5,)), strict=True):
        expected = mean(function(jaxprune.mask(DEAD, cell.plan), X), None, None).mean()
        assert row['mean'] == pytest.approx(float(expected), rel=1e-5), row


def test_modules_with_functions_and_random_keys_in_them(tmp_path):
    class Net(eqx.Module):
        first: eqx.nn.Linear
        second: eqx.nn.Linear
        dropout: eqx.nn.Dropout
        activation: object
        key: jax.Array

        def __call__(self, x):
            h = self.dropout(self.activation(jax.vmap(self.first)(x)), key=self.key)
            return jax.vmap(self.second)(h)

    keys = jax.random.split(jax.random.key(0), 3)
    dropout = eqx.nn.Dropout(0.5, inference=True)
    net = Net(eqx.nn.Linear(6, 8, key=keys[0]), eqx.nn.Linear(8, 3, key=keys[1]), dropout, jax.nn.silu, keys[2])
    graph, rows = scan(tmp_path, lambda module, x: module(x), net)
    for row, cell in zip(rows, sensitivity.candidates(graph, net, (0.5,)), strict=True):
        assert row['mean'] == pytest.approx(float(jaxprune.mask(net, cell.plan)(X).mean()), rel=1e-5)
    assert len({row['mean'] for row in rows}) == len(rows) > 1


def test_another_function_or_metric_is_refused(tmp_path):
    def smooth(v, x):
        return jnp.tanh(x @ v['a']) @ v['head']

    def sharp(v, x):
        return jax.nn.relu(x @ v['a']) @ v['head']

    _, rows = scan(tmp_path, smooth, SMALL)
    assert scan(tmp_path, smooth, SMALL)[1] == rows
    with pytest.raises(UserError, match='another model'):
        scan(tmp_path, sharp, SMALL)
    with pytest.raises(UserError, match='another model'):
        scan(tmp_path, smooth, SMALL, metric=sensitivity.Mean('mean', lambda *given: mean(*given) * 2))


def test_another_graph_or_another_function_of_a_later_batch_is_refused(tmp_path):
    def both(v, x):
        return jnp.tanh(x @ v['a']) @ v['head'] + jnp.tanh(x @ v['b']) @ v['tail']

    def halved(v, x):
        return both(v, x) * (1 if len(x) == len(X) else 0.5)

    variables = {**SMALL, 'b': weights(6, 8), 'tail': weights(8, 3)}
    given = {'metric': sensitivity.Mean('mean', lambda outputs, *_: outputs.mean(axis=1)), 'rates': [0.5]}
    data = [*batches(), sensitivity.Batch(X[:2], np.zeros(2, np.int32), np.ones(2, bool))]
    layers = [(name, (name,)) for name in variables]
    graphs = [jaxprune.trace(both, variables, X, layers=order) for order in (layers, layers[::-1])]
    table = tmp_path / 'scan.jsonl'
    rows = jaxprune.scan(both, variables, data, table, graph=graphs[0], **given)
    assert jaxprune.scan(both, variables, data, table, graph=graphs[0], **given) == rows
    for function, graph in ((both, graphs[1]), (halved, graphs[0])):
        with pytest.raises(UserError, match='another model'):
            jaxprune.scan(function, variables, data, table, graph=graph, **given)


def test_settings_of_a_thread_hold_for_all_candidates(tmp_path):
    """Two more candidates than run in the thread that asks."""

    def both(v, x):
        return jnp.tanh(jnp.tanh(x @ v['a']) @ v['b']) @ v['head']

    def tiny(outputs, labels, unpruned):
        return (outputs.astype(float) / 3 * 1e-3 + 1).mean(axis=1) - 1  # in 32 bits, few digits are left

    variables = {'a': weights(6, 8), 'b': weights(8, 8), 'head': weights(8, 3)}
    with jax.enable_x64(True):
        metric = sensitivity.Mean('mean', tiny)
        graph, rows = scan(tmp_path, both, variables, metric=metric, rates=(0.25, 0.5))
        for row, cell in zip(rows, sensitivity.candidates(graph, variables, (0.25, 0.5)), strict=True):
            outputs = both(jaxprune.mask(variables, cell.plan), jnp.asarray(X))
            assert row['mean'] == pytest.approx(float(tiny(outputs, None, None).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        (np.array([[200, 3], [7, 9]], np.uint8), np.array([[5, 250], [7, 8]], np.uint8)),
        (np.array([[True, False], [True, True]]), np.array([[True, True], [False, True]])),
        (np.array([[1j, 2], [3, 4j]], np.complex64), np.array([[2j, 2], [3 + 1j, 4j]], np.complex64)),
        (np.array([[1.5, 2], [3, 4]], np.float16), np.array([[2.5, 2], [3, 1]], np.float16)),
    ],
)
def test_distance_of_outputs_of_all_kinds(before, after):
    wide = [array.astype(np.promote_types(array.dtype, np.float64)) for array in (before, after)]
    expected = np.linalg.norm(wide[1] - wide[0], axis=1) / np.linalg.norm(wide[0], axis=1)
    np.testing.assert_allclose(sensitivity.distance(after, None, before), expected, rtol=1e-6)


def test_figures_that_are_no_numbers(tmp_path):
    """In a race they are what they are in the table; JSON knows neither NaN nor infinity."""
    seen = []

    def choose(rows):
        seen.extend(row['mean'] for row in rows)
        return [(row['layer'], row['rate']) for row in rows]

    def infinite(outputs, *_):
        return jnp.full(len(outputs), jnp.inf)

    race = sensitivity.Racing(choose=choose, purpose={}, resamples=3)
    data = batches() * 8
    metric = sensitivity.Mean('mean', infinite)
    _, rows = scan(tmp_path, dead_code, DEAD, data=data, metric=metric, racing=race)
    assert seen and not any(seen)
    assert all(row['mean'] is None for row in rows)
    assert 'Infinity' not in (tmp_path / 'scan.jsonl').read_text()


def test_a_choice_that_fails_is_not_blamed_for_its_result(tmp_path):
    def choose(rows):
        yield from ()
        raise UserError('out of stock')

    with pytest.raises(UserError, match=r'^out of stock$'):
        scan(tmp_path, dead_code, DEAD, data=batches() * 8, racing=sensitivity.Racing(choose=choose, purpose={}))


def test_a_race_whose_first_images_are_not_valid(tmp_path):
    race = sensitivity.Racing(choose=lambda rows: [], purpose={})
    _, rows = scan(tmp_path, dead_code, DEAD, data=batches((False,) * 4) * 4 + batches() * 12, racing=race)
    assert [row.get('stopped', {}).get('images') for row in rows[1:]] == [16] * (len(rows) - 1)


def test_valid_of_other_kinds(tmp_path):
    expected = scan(tmp_path, dead_code, DEAD, data=batches((True, False, True, False)))[1]
    for number, valid in enumerate((np.array([1, 0, 1, 0]), [True, False, True, False], jnp.array([1, 0, 1, 0]))):
        data = [sensitivity.Batch(X, np.zeros(4, np.int32), valid)]
        assert scan(tmp_path, dead_code, DEAD, data=data, table=f'{number}')[1] == expected
    with pytest.raises(UserError, match=r'valid of a batch has the shape \(0,\)'):
        scan(tmp_path, dead_code, DEAD, data=batches(()), table='empty')


def test_processes_have_the_same_shares_in_whatever_order():
    keys = [(None, 0), *((layer, rate) for layer in (3, 'b', 12, 'a') for rate in (0.5, 0.25))]
    cells = [Candidate(layer=layer, rate=rate, plan=None, cost={}) for layer, rate in keys]
    orders = (cells, cells[::-1], cells[4:] + cells[:4])
    shares = [_own(order, sensitivity.Share(index, 3)) for index, order in enumerate(orders)]
    assert set.union(*shares) == set(keys)
    assert sum(map(len, shares)) == len(keys)


def test_a_figure_that_some_resamples_lack(tmp_path):
    class Sometimes(sensitivity.Mean):
        def figures(self, kept, weights):
            found = super().figures(kept, weights)
            return {**found, 'never': np.full(len(weights), np.nan)}

    metric = Sometimes('mean', mean)
    intervals = sensitivity.Intervals(resamples=5, keep=('mean', 'never'))
    row = measured(metric, Sample(4, {'mean': np.arange(4.0)}), intervals)
    assert row['never'] is None
    assert row['never_interval'] == [None, None]
    assert row['never_resamples'] == [None] * 5
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'metric': sensitivity.Mean('rate', mean)}, "a figure named 'rate', which is another column"),
        ({'metric': sensitivity.Mean('settings', mean)}, "a figure named 'settings', which is another column"),
        ({'metric': sensitivity.Mean('stopped', mean)}, "a figure named 'stopped', which is another column"),
        ({'metric': sensitivity.Mean('none', lambda *_: {})}, "'none' gives no figure"),
        ({'metric': sensitivity.Mean('short', lambda *given: mean(*given)[:1])}, r'gives \(\d,\) for 4 images'),
        ({'data': batches((True,) * 3)}, r"\['inputs'\] of a batch of 3 images has the shape \(4, 6\)"),
        ({'data': [sensitivity.Batch(X, [1, 2, 3, 4], np.ones(4, bool))]}, r"\['labels'\]\[0\] of a batch of 4 images"),
        ({'data': batches((False,) * 4)}, 'no image of the batches is valid'),
        (
            {
                'data': [sensitivity.Batch(X, None, np.ones(4, bool))],
                'metric': sensitivity.Mean('top1', sensitivity.top1),
            },
            'the accuracy needs labels',
        ),
        ({'metric': sensitivity.Mean('parameters', mean)}, "a figure named 'parameters'"),
        ({'metric': sensitivity.Mean('mean', lambda *given: mean(*given).sum())}, r"'mean' gives \(\)"),
        ({'metric': sensitivity.Mean('two', lambda *given: {'all': mean(*given).sum()})}, r"'all' gives \(\)"),
        ({'rates': 0.5}, 'give several numbers'),
        ({'rates': ['half']}, 'give several numbers'),
        ({'rates': []}, 'no group or no rate is left'),
        ({'intervals': sensitivity.Intervals(keep=('nope',))}, "no figure 'nope'"),
        ({'memory': 0}, 'a limit of 0 GB of memory: give a number above 0'),
        ({'memory': -5}, 'give a number above 0'),
        ({'memory': float('inf')}, 'a limit of inf GB'),
        ({'memory': 2.5e6}, r'a limit of 0\.00 GB of memory is too low'),
    ],
)
def test_requests_that_cannot_be_met(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        scan(tmp_path, dead_code, DEAD, **options)


def test_rates_may_come_one_by_one(tmp_path):
    _, rows = scan(tmp_path, dead_code, DEAD, rates=(np.float32(rate) for rate in (0.25, 0.5, 0.5)))
    assert {row['rate'] for row in rows} == {0, 0.25, 0.5}


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: sensitivity.Intervals(resamples=0), '0 resamples'),
        (lambda: sensitivity.Intervals(confidence=2), 'confidence 2'),
        (lambda: sensitivity.Racing(choose=list, purpose={'set': {1}}), 'not a mapping that JSON can hold'),
        (lambda: sensitivity.Racing(choose=list, purpose={}, resamples=-1), '-1 resamples'),
        (lambda: sensitivity.Racing(choose=list, purpose={}, seed=-1), 'seed -1: give 0 or more'),
    ],
)
def test_settings_that_are_none(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_choice_that_is_none(tmp_path):
    racing = sensitivity.Racing(choose=lambda rows: None, purpose={})
    data = [sensitivity.Batch(X, np.zeros(4, np.int32), np.ones(4, bool))] * 8
    with pytest.raises(UserError, match='choose returned None'):
        scan(tmp_path, dead_code, DEAD, data=data, racing=racing)
