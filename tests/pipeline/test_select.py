"""Selection from tables: of races, and with what resamples say; the rule itself is tested with `pruning`."""

import json

import numpy as np
import pytest

from jaxprune import cli, pipeline
from jaxprune.errors import UserError
from jaxprune.pipeline import SelectSettings

FIGURES = {'precision': 0.5, 'recall': 0.5, 'map50': 0.5}
LAYERS = 8
DRAWS = 40


def rows(**columns):
    """A table of layers that all remove as much, layer 0 at the best mAP."""
    cost = {'parameters_published': 1000, 'gflops': 1.0}
    yield {'layer': None, 'rate': 0, **FIGURES, 'map50_95': 0.6, **cost}
    for layer in range(LAYERS):
        for rate in (0.25, 0.5):
            left = {'parameters_published': 1000 - 100 * rate, 'gflops': 1 - 0.1 * rate}
            yield {'layer': layer, 'rate': rate, **FIGURES, 'map50_95': 0.6 - 0.01 * layer * rate, **left, **columns}


def write(path, table):
    path.write_text(''.join(json.dumps({**row, 'settings': 'x'}) + '\n' for row in table))
    return path


def test_stopped_cells_are_not_chosen(tmp_path):
    settings = {'params_layers': 2, 'flops_layers': 0, 'map_power': 1}
    chosen = pipeline.select(write(tmp_path / 'all', rows()), **settings)
    assert [row['layer'] for row in chosen] == [0, 1]
    stopped = {'stopped': {'params_layers': 2, 'flops_layers': 0, 'map_power': 1, 'images': 16}}
    raced = write(tmp_path / 'race', [{**row, **(stopped if row['layer'] == 0 else {})} for row in rows()])
    assert [row['layer'] for row in pipeline.select(raced, **settings)] == [1, 2]
    for more in ({'params_layers': 3}, {'flops_layers': 1}, {'map_power': 2}):
        with pytest.raises(
            UserError, match=r'a race for 2 layers for parameters, 0 for FLOPs and the map power 1: ask'
        ):
            pipeline.select(raced, **{**settings, **more})
    assert [row['layer'] for row in pipeline.select(raced, **{**settings, 'params_layers': 1})] == [1]


def test_stability_is_the_share_of_resamples_that_choose_the_layer(tmp_path, capsys):
    """With noise as large as the differences, against a loop over the resamples."""
    rng = np.random.default_rng(0)
    table = []
    for row in rows():
        drawn = np.round(row['map50_95'] + rng.normal(size=DRAWS) * 0.01, 5)
        bounds = np.quantile(drawn, [0.025, 0.975]).tolist()
        table.append({**row, 'map50_95_interval': bounds, 'map50_95_resamples': drawn.tolist()})
    settings = {'params_layers': 2, 'flops_layers': 0, 'map_power': 10}
    file = write(tmp_path / 'scan', table)
    chosen = pipeline.select(file, tmp_path / 'plan.json', **settings)
    times = dict.fromkeys(range(LAYERS), 0)
    for draw in range(DRAWS):
        scores = {}
        for row in table[1:]:
            score = (1000 - row['parameters_published']) * row['map50_95_resamples'][draw] ** 10
            scores[row['layer']] = max(scores.get(row['layer'], 0), score)
        for layer in sorted(scores, key=scores.get)[-2:]:
            times[layer] += 1
    assert len(chosen) == 2
    assert [row['stability'] for row in chosen] == [times[row['layer']] / DRAWS for row in chosen]
    assert 0.1 < min(row['stability'] for row in chosen) < 1
    cells = {(row['layer'], row['rate']): row for row in table}
    for row in chosen:
        assert row['map50_95_interval'] == cells[row['layer'], row['rate']]['map50_95_interval']
    assert set(json.loads((tmp_path / 'plan.json').read_text())['layers'][0]) == {'layer', 'rate', 'chosen_for'}
    cli.main(['select', str(file), '--params-layers', '2', '--flops-layers', '0'])
    assert 'stability' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        ({'params_layers': -1}, 'params_layers is -1'),
        ({'flops_layers': 1.5}, 'flops_layers is 1.5'),
        ({'map_power': '20'}, 'map_power is 20'),
        ({'rule': 'best'}, "'best'"),
    ],
)
def test_impossible_settings_are_refused_when_they_are_made(options, word):
    with pytest.raises(UserError, match=word):
        SelectSettings(**options)


def test_a_table_without_a_map_is_named_with_the_way_out(tmp_path):
    table = [{name: value for name, value in row.items() if name != 'map50_95'} for row in rows(loss=0.1)]
    with pytest.raises(UserError, match=r"/scan: .* a row has no 'map50_95': .*jaxprune scan --metric map"):
        pipeline.select(write(tmp_path / 'scan', table))


def test_a_race_keeps_the_best_rates_of_the_best_layers():
    settings = SelectSettings(params_layers=2, flops_layers=1, map_power=1)
    table = list(rows())
    racing = settings.racing(table[0], confidence=0.9, seed=3)
    assert sorted(set(racing.choose(table[1:]))) == [(0, 0.5), (1, 0.5)]
    assert racing.purpose == {'params_layers': 2, 'flops_layers': 1, 'map_power': 1}
    assert (racing.confidence, racing.seed) == (0.9, 3)
