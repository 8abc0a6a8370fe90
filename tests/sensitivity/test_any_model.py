"""Scans of networks of the zoo: a cell is what the sliced model gives, and only what changes is computed."""

import json

import jax
import numpy as np
import pytest

import jaxprune
from jaxprune import sensitivity
from jaxprune.errors import UserError
from tests.zoo._entry import draw
from tests.zoo.conftest import load

RATES = (0.5,)


def batches(case, count=2):
    """Batches of the shape of the case's input; the last row of the last one only fills it."""
    for number in range(count):
        (images,) = draw(case.inputs, seed=10 + number)
        valid = np.ones(len(images), bool)
        valid[-1] = number < count - 1
        labels = np.arange(len(images), dtype=np.int32) % 3
        yield sensitivity.Batch(images.astype(np.float32), labels, valid)


def single(tree):
    return jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, tree)


def first_leaf(outputs, labels, unpruned):
    """A figure with nothing to do with distances: the mean of all outputs, weighted by the label."""
    leaf = jax.tree.leaves(outputs)[0]
    return leaf.reshape(len(leaf), -1).mean(axis=1) * (1.0 + labels.astype(np.float32))


@pytest.mark.parametrize('name', ['linen_vgg', 'linen_unet_concat', 'linen_vit'])
def test_a_cell_is_what_the_sliced_model_gives(name, tmp_path):
    case = load()[name].make()
    variables = single(draw(case.shapes))
    data = list(batches(case))
    graph = jaxprune.trace(case.apply, case.shapes, *case.inputs)
    metric = sensitivity.Mean('mean', first_leaf)
    rows = jaxprune.scan(case.apply, variables, data, tmp_path / 'scan.jsonl', graph=graph, metric=metric, rates=RATES)
    cells = sensitivity.candidates(graph, variables, RATES)
    assert len(rows) == len(cells) > 4
    seen = set()
    for row, cell in zip(rows, cells, strict=True):
        small = jaxprune.slice(variables, cell.plan)
        run = jax.jit(case.resize(small), compiler_options={'xla_backend_optimization_level': '0'})
        values = [np.asarray(first_leaf(run(small, each.inputs), each.labels, None))[each.valid] for each in data]
        np.testing.assert_allclose(row['mean'], np.concatenate(values).mean(), rtol=2e-4, err_msg=str(row))
        assert row['parameters'] == sum(leaf.size for leaf in jax.tree.leaves(small.get('params', small)))
        seen.add(round(row['mean'], 6))
    assert len(seen) > len(rows) / 2, 'cells could not be told apart'


def test_distance_and_accuracy(tmp_path):
    case = load()['linen_vgg'].make()
    variables = single(draw(case.shapes))
    graph = jaxprune.trace(case.apply, case.shapes, *case.inputs)
    data = list(batches(case))

    def both(*given):
        return {'distance': sensitivity.distance(*given), 'top1': sensitivity.top1(*given)}

    metric = sensitivity.Mean('both', both)
    rows = jaxprune.scan(case.apply, variables, data, tmp_path / 'table', graph=graph, metric=metric, rates=[0.5])
    assert rows[0]['distance'] == 0 and 'both' not in rows[0]
    for number, cell in enumerate(sensitivity.candidates(graph, variables, [0.5])):
        before, after = (
            np.concatenate([np.asarray(case.apply(tree, each.inputs))[each.valid] for each in data])
            for tree in (variables, jaxprune.mask(variables, cell.plan))
        )
        labels = np.concatenate([each.labels[each.valid] for each in data])
        expected = np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)
        assert rows[number]['distance'] == pytest.approx(expected.mean(), rel=1e-4)
        assert rows[number]['top1'] == pytest.approx((after.argmax(axis=1) == labels).mean())


def test_it_goes_on_and_refuses_what_changed(tmp_path):
    case = load()['linen_vgg'].make()
    variables = single(draw(case.shapes))
    graph = jaxprune.trace(case.apply, case.shapes, *case.inputs)
    data, table = list(batches(case)), tmp_path / 'scan.jsonl'
    options = {'graph': graph, 'metric': sensitivity.Mean('distance', sensitivity.distance), 'rates': [0.5]}
    rows = jaxprune.scan(case.apply, variables, data, table, **options)
    text = table.read_text()
    table.write_text(''.join(text.splitlines(keepends=True)[:2]))
    assert jaxprune.scan(case.apply, variables, data, table, **options) == rows
    assert table.read_text() == text
    assert json.loads(text.splitlines()[0])['layer'] is None
    other = jax.tree.map(lambda leaf: leaf * 2, variables)
    with pytest.raises(UserError, match='another model, data set or options'):
        jaxprune.scan(case.apply, other, data, table, **options)
    with pytest.raises(UserError, match='another model, data set or options'):
        jaxprune.scan(case.apply, variables, data[:1], table, **options)
    with pytest.raises(UserError, match='rate 1 is out of range'):
        jaxprune.scan(case.apply, variables, data, tmp_path / 'new', **{**options, 'rates': [1]})
