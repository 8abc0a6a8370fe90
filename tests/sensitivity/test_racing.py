"""Races: who is stopped, what is left in the table, and that the choice is that of the whole table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune
from jaxprune import sensitivity
from jaxprune.errors import UserError
from jaxprune.sensitivity._racing import LEAST_IMAGES, losers, stretches
from jaxprune.sensitivity._rows import Candidate, Sample

RATES = (0.25, 0.5, 0.75)
BEST = 3


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for number, width in enumerate((12, 16, 24, 16)):
            x = nn.relu(nn.Dense(width, name=f'dense{number}')(x))
        return nn.Dense(5, name='head')(x)


def best(rows, count=BEST):
    """The candidates that change the outputs least for what they remove, which counts more."""
    ranked = sorted(rows, key=lambda row: row['loss'] / row['rate'] ** 3)
    return [(row['layer'], row['rate']) for row in ranked[:count]]


@pytest.fixture(scope='module')
def task():
    """96 images in 24 batches, of very different difficulty."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(96, 8)).astype(np.float32) * rng.lognormal(sigma=2, size=(96, 1)).astype(np.float32)
    batches = [
        sensitivity.Batch(images[start : start + 4], np.zeros(4, np.int32), np.ones(4, bool))
        for start in range(0, 96, 4)
    ]
    net = Net()
    variables = net.init(jax.random.key(1), images[:4])
    graph = jaxprune.trace(net.apply, variables, images[:4])
    metric = sensitivity.Mean('loss', lambda outputs, labels, unpruned: jnp.abs(outputs - unpruned).sum(axis=1))
    return functools.partial(
        jaxprune.scan, net.apply, variables, batches, graph=graph, metric=metric, rates=RATES
    ), batches


def racing(**options):
    return sensitivity.Racing(choose=best, purpose={'best': BEST}, **options)


def test_the_choice_is_that_of_the_whole_table(task, tmp_path):
    scan, _ = task
    whole = {(row['layer'], row['rate']): row for row in scan(tmp_path / 'whole.jsonl')}
    rows = scan(tmp_path / 'race.jsonl', racing=racing())
    assert [(row['layer'], row['rate']) for row in rows] == list(whole)
    ended = [row for row in rows if 'stopped' not in row]
    assert ended[0]['layer'] is None, 'the unpruned model always ends'
    assert 1 + BEST <= len(ended) < len(rows) / 2
    assert ended == [whole[row['layer'], row['rate']] for row in ended]
    assert best(ended[1:]) == best(list(whole.values())[1:])
    seen = {row['stopped']['images'] for row in rows if 'stopped' in row}
    assert seen <= {LEAST_IMAGES, 24, 48} and len(seen) > 1
    assert all(row['stopped']['best'] == BEST for row in rows if 'stopped' in row)


def test_figures_of_stopped_candidates_are_those_of_the_first_images(task, tmp_path):
    scan, batches = task
    rows = scan(tmp_path / 'race.jsonl', racing=racing())
    row = next(row for row in rows if 'stopped' in row)
    count = row['stopped']['images'] // 4
    part = functools.partial(scan.func, *scan.args[:2], batches[:count], **scan.keywords)
    first = {(row['layer'], row['rate']): row for row in part(tmp_path / 'part.jsonl')}
    assert row['loss'] == pytest.approx(first[row['layer'], row['rate']]['loss'], rel=1e-6)


def test_it_goes_on_to_the_same_table(task, tmp_path):
    scan, _ = task
    table = tmp_path / 'race.jsonl'
    rows = scan(table, racing=racing())
    lines = table.read_text().splitlines(keepends=True)
    for keep in (1, len(lines) // 2, len(lines) - 1):
        table.write_text(''.join(lines[:keep]))
        assert scan(table, racing=racing()) == rows
    with pytest.raises(UserError, match='another model, data set or options'):
        scan(table)
    with pytest.raises(UserError, match='another model, data set or options'):
        scan(table, racing=racing(confidence=0.8))


def test_shares_race_on_their_own_and_choose_the_same(task, tmp_path):
    scan, _ = task
    chosen = best(
        [row for row in scan(tmp_path / 'race.jsonl', racing=racing()) if row['layer'] and 'stopped' not in row]
    )
    shares = [sensitivity.Share(number, 2) for number in (0, 1)]
    rows = []
    for number, share in enumerate(shares):
        graph, metric = scan.keywords['graph'], scan.keywords['metric']
        model = sensitivity.Model(scan.args[0], scan.args[1])
        cells = sensitivity.candidates(graph, scan.args[1], RATES)[share.index :: share.count]
        alone = sensitivity.Table(tmp_path / f'{number}.jsonl', 'the same')
        rows += sensitivity.scan(model, cells, batches=scan.args[2], metric=metric, table=alone, racing=racing())
        alone.close()
    assert best([row for row in rows if row['layer'] and 'stopped' not in row]) == chosen


def test_who_loses():
    """Candidates whose means over the images are known: only those within the noise of the best go on."""
    rng = np.random.default_rng(0)
    means = np.array([0.0, 0.05, 3.0, 5.0])
    numbers = means[:, None] + rng.normal(size=(4, 64))
    candidates = [Candidate(layer=layer, rate=0.5, plan=None, cost={}) for layer in range(4)]
    first = sensitivity.Racing(
        choose=lambda rows: [min(((row['layer'], row['rate']) for row in rows), key=lambda key: rows[key[0]]['loss'])],
        purpose={},
    )
    metric = sensitivity.Mean('loss', lambda *_: None)
    lost = losers(first, metric, candidates, [[Sample(64, {'loss': row})] for row in numbers])
    assert lost == {(2, 0.5), (3, 0.5)}
    # Noise that all have in common says nothing against a small difference.
    common = rng.normal(size=64) * 10
    numbers = common + means[:, None] + rng.normal(size=(4, 64)) * 0.01
    lost = losers(
        first, metric, candidates, [[Sample(32, {'loss': half}) for half in np.split(row, 2)] for row in numbers]
    )
    assert lost == {(1, 0.5), (2, 0.5), (3, 0.5)}


def test_stretches():
    batches = [sensitivity.Batch(np.zeros((8, 1)), np.zeros(8), np.ones(8, bool))] * 64
    assert stretches(batches, None) == [(0, 64)]
    assert stretches(batches, racing()) == [(0, 8), (8, 16), (16, 32), (32, 64)]
    assert stretches(batches[:8], racing()) == [(0, 2), (2, 4), (4, 8)]
    assert stretches(batches[:2], racing()) == [(0, 2)]


def test_confidence_that_is_none():
    with pytest.raises(UserError, match=r'confidence 95: give a number from 0\.5 to below 1'):
        racing(confidence=95)
