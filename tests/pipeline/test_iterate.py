"""The iterated run: what it writes, and that being killed changes nothing."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

import jaxprune
from jaxprune import pipeline, resources, trees
from jaxprune.data.shapes import write_shapes
from jaxprune.errors import UserError

OPTIONS = ['--iterations', '2', '--img', '128', '--epochs', '2', '--batch', '4', '--rates', '0.5']
OPTIONS += ['--params-layers', '3', '--flops-layers', '2', '--map-power', '2', '--seed', '3', '--recipe', 'shapes']


@pytest.fixture(scope='module')
def start(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """The trained detector of the package, and a few images."""
    root = tmp_path_factory.mktemp('start')
    return resources.path('demo'), write_shapes(root / 'shapes', train=8, val=4)


def _command(start, output) -> list[str]:
    model, dataset = map(str, start)
    layers = [str(index) for index in range(55) if index not in (1, 7, 20, 30, 51, 54)]
    arguments = ['iterate', model, '--data', dataset, '-o', str(output), *OPTIONS, '--exclude', *layers, '--json']
    return [sys.executable, '-c', 'from jaxprune.cli import main; main()', *arguments]


def _results(run: pathlib.Path) -> dict:
    found = {}
    for iteration in ('1', '2'):
        found[iteration, 'plan'] = json.loads((run / iteration / 'rates.json').read_text())
        for name in ('pruned.json', 'metrics.json'):
            metrics = json.loads((run / iteration / name).read_text())
            metrics.pop('seconds')
            found[iteration, name] = metrics
        found[iteration, 'model'] = trees.flatten(jaxprune.load(run / iteration / 'model')[1])
    return found


def _same(first: dict, second: dict) -> None:
    for key, value in first.items():
        if key[1] == 'model':
            for path, leaf in value.items():
                np.testing.assert_array_equal(leaf, second[key][path])
        else:
            assert value == second[key], key


def _steps(run: pathlib.Path) -> int:
    """How far a run is: 2 results of the start, and for each iteration a scan, rates, 2 models and their metrics."""
    return sum(file.name != 'tuning' for file in run.glob('[0-9]/[a-z]*'))


def _kept_programs(folder: pathlib.Path) -> dict[str, str]:
    """Processes in this environment take the compiled programs that those before them left."""
    least = {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2', 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}
    return {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(folder), **least}


def _kill(command: list[str], moment: Callable[[], bool], delay: float, **options) -> None:
    """Runs a command until `moment`, and `delay` seconds more."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    while process.poll() is None and not moment():
        time.sleep(0.02)
    time.sleep(delay)
    assert process.poll() is None, 'it ended before it was killed'
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been_killed(start, tmp_path):
    """Law 7, with SIGKILL at random moments; the process that ends the run compiles for itself."""
    quick = {'env': _kept_programs(tmp_path / 'programs')}
    whole = subprocess.run(_command(start, tmp_path / 'whole'), capture_output=True, text=True, check=False, **quick)
    assert whole.returncode == 0, whole.stderr
    rows = json.loads(whole.stdout)['iterations']
    assert [row['iteration'] for row in rows] == [0, 1, 2]
    assert rows[2]['parameters'] < rows[1]['parameters'] < rows[0]['parameters']
    report = (tmp_path / 'whole' / 'report.html').read_text()
    assert '</html>' in report and f'{rows[2]["parameters"]:,}' in report

    assert _steps(tmp_path / 'whole') == 14
    command, draw = _command(start, tmp_path / 'killed'), random.Random(0)
    for step in sorted(draw.sample(range(1, 13), 5)):
        _kill(command, lambda step=step: _steps(tmp_path / 'killed') >= step, delay=draw.uniform(0, 2), **quick)
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    _same(_results(tmp_path / 'whole'), _results(tmp_path / 'killed'))


def test_a_run_directory_belongs_to_one_run(start, tmp_path):
    model, dataset = start
    (tmp_path / 'notes.txt').write_text('mine')
    settings = pipeline.IterateSettings(iterations=1, image_size=64)
    with pytest.raises(UserError, match='not a run'):
        pipeline.iterate(model, dataset, tmp_path, settings)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'settings.json').write_text(json.dumps({'epochs': 3}))
    with pytest.raises(UserError, match=r'other .*epochs'):
        pipeline.iterate(model, dataset, tmp_path / 'run', settings)


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        ({}, 'either'),
        ({'iterations': 1, 'keep_params': 0.5}, 'either'),
        ({'iterations': 0}, '0 iterations'),
        ({'keep_params': 1.5}, '1.5'),
        ({'iterations': 1, 'epochs': -1}, '-1 epochs'),
        ({'iterations': 1, 'seed': -1}, 'seed -1'),
        ({'iterations': 1, 'racing': 2}, 'confidence 2'),
        ({'iterations': 1, 'flops_layers': -1}, 'flops_layers is -1'),
        ({'iterations': 1, 'map_power': -1}, 'map_power is -1'),
    ],
)
def test_impossible_settings(options, word):
    with pytest.raises(UserError, match=word):
        pipeline.IterateSettings(**options)
