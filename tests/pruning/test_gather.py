"""Gates against finite differences, statistics of activations against NumPy."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import sensitivity, trees
from jaxprune.errors import UserError
from jaxprune.graph import Slot, trace
from jaxprune.pruning import score
from jaxprune.pruning._gather import gather_activations, gather_gates

READ = {  # where each group of the net in conftest is read: path, axis 0, first place on it
    'a': [('b/kernel', 0), ('c/dense/kernel', 0), ('c/pointwise/kernel', 0)],
    'b': [('d/kernel', 0)],
    'c': [('d/kernel', 8)],
    'd': [('e/kernel', 0), ('head/kernel', 0)],
}

CRITERIA = {
    'taylor': lambda gates: sum(abs(gate) for gate in gates) / len(gates),
    'fisher': lambda gates: sum(gate**2 for gate in gates) / (2 * len(gates)),
}


def _double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def _differences(net, variables, images, name, channels, step=1e-5):
    """Central differences of each example's loss by a factor of what reads a channel; all in NumPy."""

    def loss(image, channel, factor):
        leaves = {}
        for text, start in READ[name]:
            path = ('params', *text.split('/'))
            leaves[path] = trees.get(variables, path).copy()
            leaves[path][start + channel] *= factor
        return np.sum(np.square(net.forward(trees.replace(variables, leaves), image[None])))

    values = [
        [(loss(image, channel, 1 + step) - loss(image, channel, 1 - step)) / (2 * step) for channel in range(channels)]
        for image in images
    ]
    return np.array(values)


def _loss(net, variables, batch):
    return jnp.sum(jnp.square(net.forward(variables, batch, jnp)))


def test_gates_are_derivatives(graph, net):
    variables = _double(net.make_variables())
    images = np.random.default_rng(0).normal(size=(4, 3))
    with jax.enable_x64(True):
        evidence = gather_gates(graph, lambda v, x: _squares(net.forward(v, x, jnp)), variables, [images])
    assert set(evidence.gates) == set(READ)  # the head is protected
    for name, gates in evidence.gates.items():
        group = graph.group_of(name)
        expected = _differences(net, variables, images, name, group.channels)
        np.testing.assert_allclose(gates, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
        for criterion, formula in CRITERIA.items():
            found = score(criterion, graph, group, variables, evidence=evidence)
            np.testing.assert_allclose(found, formula(expected), rtol=1e-5)


def _squares(outputs):
    return jnp.sum(jnp.square(outputs))


def _apply(variables, x):
    return jax.nn.relu(x @ variables['one']['kernel']) @ variables['two']['kernel']


def _loss(variables, batch):
    return _squares(_apply(variables, batch))


@pytest.fixture(scope='module')
def small():
    """Graph, variables, examples and gates by hand of two layers with a ReLU in between."""
    rng = np.random.default_rng(0)
    kernels = {name: {'kernel': rng.normal(size=size).astype(np.float32)} for name, size in SIZES.items()}
    graph = trace(_apply, kernels, np.ones((1, 3), np.float32))
    images = rng.normal(size=(5, 3)).astype(np.float32)
    hidden = np.maximum(images @ kernels['one']['kernel'], 0)
    second = kernels['two']['kernel']
    gates = hidden * (2 * hidden @ second @ second.T)
    return graph, kernels, images, gates


SIZES = {'one': (3, 4), 'two': (4, 2)}


def test_batches_are_joined(small):
    graph, variables, images, gates = small
    batches = iter([images[:4], images[4:]])
    found = gather_gates(graph, _loss, variables, batches, at_once=3).gates['one']
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, gates, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('at_once', [1, 3])
def test_rows_that_only_fill_a_batch_have_no_gates(small, at_once):
    """As in the batches of a scan."""
    graph, variables, images, gates = small
    filled = np.concatenate([images[:2], np.full((3, 3), 7, np.float32), images[2:]])
    batches = [
        sensitivity.Batch(filled, None, np.array([1, 1, 0, 0, 0, 1, 1, 1], bool)),
        sensitivity.Batch(filled[:4], None, np.zeros(4, bool)),
    ]
    found = gather_gates(graph, lambda v, batch: _loss(v, batch.inputs), variables, batches, at_once=at_once)
    np.testing.assert_allclose(found.gates['one'], gates, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match='there are no batches with examples'):
        gather_gates(graph, lambda v, batch: _loss(v, batch.inputs), variables, batches[1:])


def test_taylor_predicts_the_change_of_the_loss(small):
    """Of small weights where the channels are read, the loss without a channel is known to first order."""
    graph, variables, images, _ = small
    weights = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)

    def loss(kernel):
        hidden = np.maximum(images[:1] @ weights['one']['kernel'], 0)
        return np.sum(np.square(hidden @ kernel + 1))

    def traced(variables, batch):
        return _squares(_apply(variables, batch) + 1)

    second = variables['two']['kernel'] * np.float32(1e-3)
    variables = {**variables, 'two': {'kernel': second}}
    evidence = gather_gates(graph, traced, variables, [images[:1]])
    without = [loss(second * (np.arange(4) != channel)[:, None]) for channel in range(4)]
    found = score('taylor', graph, graph.group_of('one'), variables, evidence=evidence)
    assert found.max() > 0
    np.testing.assert_allclose(found, np.abs(np.array(without) - loss(second)), rtol=2e-2)


def test_one_program_for_equal_shapes(small):
    graph, variables, images, _ = small
    calls = []

    def loss(variables, batch):
        calls.append(batch.shape)
        return _loss(variables, batch)

    gather_gates(graph, loss, variables, [images])
    once = len(calls)
    gather_gates(graph, loss, variables, [images] * 6)
    assert len(calls) == 2 * once and set(calls) == {(1, 3)}


def test_half_precision(small):
    graph, variables, images, gates = small
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), variables)

    def loss(variables, batch):
        return _loss(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables), batch)

    found = gather_gates(graph, loss, half, [images]).gates['one']
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, gates, atol=2e-2 * np.abs(gates).max())


def _slot(path, axis, indices, role, layer, *, masked=True):
    return Slot((*path.split('/'),), axis, np.array(indices), role, layer, masked)


def _one_group(layers, *slots):
    channels = len(slots[0].indices)
    group = types.SimpleNamespace(
        index=0, name=layers[0], layers=layers, channels=channels, slots=slots, protected=None
    )
    return types.SimpleNamespace(layers=(), groups=(group,))


def test_a_reader_without_parameters():
    """Queries times keys: the gate acts on the queries, not on both."""
    rng = np.random.default_rng(0)
    variables = {name: {'kernel': rng.normal(size=(3, 4)), 'bias': rng.normal(size=4)} for name in 'qk'}
    axes = [('kernel', 1, 'produce'), ('bias', 0, 'along')]
    slots = [
        _slot(f'{layer}/{leaf}', axis, np.arange(4)[:, None], role, layer)
        for layer in 'qk'
        for leaf, axis, role in axes
    ]
    x = rng.normal(size=(6, 3))

    def loss(variables, batch):
        q, k = (batch @ variables[name]['kernel'] + variables[name]['bias'][None] for name in 'qk')
        return jnp.sum(q * k)

    with jax.enable_x64(True):
        found = gather_gates(_one_group(('q', 'k'), *slots), loss, variables, [x]).gates['q']
    q, k = (x @ variables[name]['kernel'] + variables[name]['bias'] for name in 'qk')
    np.testing.assert_allclose(found, q * k, rtol=1e-12)


def test_a_leaf_read_twice_and_several_places_per_channel():
    """Both channels stand twice on an axis of five; the kernel is used twice, and its other axis is read too."""
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(5, 2)), rng.normal(size=(3, 5))
    places = np.array([[0, 3], [4, 1]])
    slots = (
        _slot('kernel', 0, places, 'read', 'a'),
        _slot('kernel', 1, [[0], [1]], 'read', 'a'),
        _slot('kernel', 1, [[1], [0]], 'produce', 'a', masked=False),
    )

    def loss(variables, batch):
        return jnp.sum(batch @ variables['kernel']) + jnp.sum(jnp.square(variables['kernel']))

    with jax.enable_x64(True):
        found = gather_gates(_one_group(('a',), *slots), loss, {'kernel': kernel}, [x]).gates['a']
    for example, gates in zip(x, found, strict=True):
        gradient = kernel * (example[:, None] + 2 * kernel)
        expected = [gradient[places[channel]].sum() + gradient[:, channel].sum() for channel in range(2)]
        np.testing.assert_allclose(gates, expected, rtol=1e-12)


def test_protected_groups_have_no_gates():
    graph = _one_group(('a',), _slot('kernel', 0, [[0], [1]], 'read', 'a'))
    graph.groups[0].protected = 'its channels are the output of the model'
    found = gather_gates(graph, lambda variables, batch: jnp.sum(batch), {'kernel': np.ones(2)}, [np.ones((1, 2))])
    assert found.gates == {}


def test_modules_with_leaves_that_are_no_arrays():
    eqx = pytest.importorskip('equinox')
    keys = jax.random.split(jax.random.key(0))
    module = eqx.nn.Sequential(
        [eqx.nn.Linear(3, 4, key=keys[0]), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(4, 1, key=keys[1])]
    )
    assert not all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(module))
    reads = _slot('layers/2/weight', 1, np.arange(4)[:, None], 'read', 'last')
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    graph = _one_group(('first',), reads)
    found = gather_gates(graph, lambda module, batch: jnp.sum(jax.vmap(module)(batch)), module, [x]).gates['first']
    hidden = np.maximum(x @ np.asarray(module.layers[0].weight).T + np.asarray(module.layers[0].bias), 0)
    np.testing.assert_allclose(found, hidden * np.asarray(module.layers[2].weight), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('batches', 'options', 'message'),
    [
        ([], {}, 'there are no batches'),
        ([{'x': np.ones((2, 3)), 'y': np.ones(3)}], {}, r'arrays of shapes .*one entry per example'),
        ([np.ones((2, 3), np.float32)], {'at_once': 0}, 'at_once is 0'),
    ],
)
def test_refusals(small, batches, options, message):
    graph, variables, _, _ = small
    with pytest.raises(UserError, match=message):
        gather_gates(graph, _loss, variables, batches, **options)


def test_a_loss_that_is_no_scalar(small):
    graph, variables, images, _ = small
    with pytest.raises(UserError, match=r'the loss has shape \(1, 2\): give a function that returns a scalar'):
        gather_gates(graph, _apply, variables, [images])


# Activations.


def _maps(rng, sizes, channels=4):
    """Values behind a ReLU `[b, 5, 6, channels]`; the map of channel c has rank at most c."""
    for size in sizes:
        left = (
            rng.normal(size=(size, channels, 5, channels))
            * (np.arange(channels) < np.arange(channels)[:, None])[:, None]
        )
        values = left @ rng.normal(size=(size, channels, channels, 6))
        yield np.moveaxis(values, 1, -1).astype(np.float32)


def _stub(apply, variables, *inputs, graph):
    """Stands for the tracer's collector: a model whose first group has maps and whose second has features."""
    first = apply(variables, *inputs)
    return {'first': first, 'second': jnp.maximum(first[:, 0, 0], 0)}


def test_statistics_over_batches():
    batches = list(_maps(np.random.default_rng(0), [3, 2]))
    values = np.concatenate(batches).astype(np.float64)
    found = gather_activations(
        None,
        lambda variables, x: x * variables['one'],
        {'one': np.ones((1, 1, 1, 1), np.float32)},
        iter(batches),
        ranks=True,
        collect=_stub,
    ).activations
    np.testing.assert_allclose(found['first'].mean, np.abs(values).mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found['first'].zeros, (values == 0).mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(found['first'].rank, [0, 1, 2, 3])
    assert (found['first'].count, found['second'].count) == (5 * 5 * 6, 5)
    features = np.maximum(values[:, 0, 0], 0)
    np.testing.assert_allclose(found['second'].mean, features.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found['second'].zeros, (features == 0).mean(axis=0), rtol=1e-6)
    assert 0 < found['second'].zeros[1:].max() < 1 and found['second'].rank is None


def test_scores_of_activations():
    group = types.SimpleNamespace(index=0, name='first', layers=('first',), channels=4, slots=())
    graph = types.SimpleNamespace(layers=(), groups=(group,))
    batches = list(_maps(np.random.default_rng(0), [3, 2]))
    gather = functools.partial(gather_activations, graph, lambda variables, x: jax.nn.relu(x), {}, collect=_stub)
    evidence = gather(batches, ranks=True)
    values = np.maximum(np.concatenate(batches), 0)
    found = {name: score(name, graph, group, {}, evidence=evidence) for name in ('activation-mean', 'apoz', 'hrank')}
    np.testing.assert_allclose(found['activation-mean'], values.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found['apoz'], (values > 0).mean(axis=(0, 1, 2)), rtol=1e-6)
    ranks = [[np.linalg.matrix_rank(values[b, :, :, c]) for c in range(4)] for b in range(5)]
    np.testing.assert_allclose(found['hrank'], np.mean(ranks, axis=0), rtol=1e-6)
    with pytest.raises(UserError, match='has no ranks'):
        score('hrank', graph, group, {}, evidence=gather(batches))
    with pytest.raises(UserError, match='there are no batches'):
        gather([])


def test_several_inputs_are_a_tuple():
    found = gather_activations(
        None, lambda variables, x, y: x + y, {}, [(np.ones((1, 2, 2, 3)), np.ones((1, 2, 2, 3)))], collect=_stub
    )
    assert found.activations['first'].mean.tolist() == [2, 2, 2]


def test_evidence_of_both_kinds(small):
    graph, variables, images, _ = small
    gates = gather_gates(graph, _loss, variables, [images])
    values = gather_activations(graph, _apply, variables, [images], collect=_hidden)
    both = dataclasses.replace(gates, activations=values.activations)
    for name in ('taylor', 'activation-mean'):
        assert score(name, graph, graph.group_of('one'), variables, evidence=both).shape == (4,)


def _hidden(apply, variables, *inputs, graph):
    return {'one': jax.nn.relu(inputs[0] @ variables['one']['kernel'])}
