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
    return leaf.reshape(len(X), -1).mean(axis=1)


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
