"""The scan as a command: law 5 (a cell is what the sliced model measures), going on, and what may go on."""

import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import cv2
import jax
import numpy as np
import pytest

import jaxprune
from jaxprune import checkpoint, cli, data, models, pipeline, sensitivity, trees
from jaxprune.cli import _print
from jaxprune.errors import UserError
from jaxprune.pipeline import SelectSettings, _evaluate
from jaxprune.sensitivity import _estimate
from jaxprune.sensitivity._rows import Sample

SIZE = 64
CELLS = {8: 0.5, 18: 0.25}


def detector() -> tuple[models.Detector, models.Variables]:
    """A narrow model whose scores vary from box to box."""
    spec = models.build_spec('yolov7-tiny', classes=2, form='training', width_multiple=0.125)
    rng = np.random.default_rng(3)

    def draw(path, shape):
        if path[-1] == 'kernel':
            gain = 0.1 if path[1].startswith('model_77_m') else 1.4  # heads that do not saturate
            return rng.normal(size=shape) * gain / np.sqrt(np.prod(shape[:-1]))
        if path[-1] in ('scale', 'var', 'implicit_multiply'):
            return rng.uniform(0.5, 1.5, size=shape)
        return rng.normal(size=shape) * 0.3

    shapes = trees.flatten(models.shapes(spec))
    values = {path: draw(path, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    return models.Detector(spec), trees.unflatten(values)


@pytest.fixture(scope='module')
def start(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """A model, and images whose objects are what it is surest of: it need not be trained to have a mAP."""
    root = tmp_path_factory.mktemp('scan')
    for folder in ('images', 'labels'):
        (root / 'data' / folder).mkdir(parents=True)
    model, variables = detector()
    checkpoint.save(model, variables, root / 'model')
    rng = np.random.default_rng(4)
    for number in range(3):
        file = root / 'data' / 'images' / f'{number}.png'
        coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(file), cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))
        (root / 'data' / 'labels' / f'{number}.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    file = root / 'data' / 'data.yaml'
    file.write_text('path: .\ntrain: images\nval: images\nnc: 2\nnames: [a, b c]\n')
    batches = _evaluate.open_batches(data.load_dataset(file, 'val'), model.spec, SIZE, 32)
    found = _evaluate.predictions(model, variables, batches, _evaluate.NmsSettings(iou=0.3), show=False)
    for number in range(3):
        mine = np.flatnonzero(found.images == number)[:8]
        boxes = np.clip(found.boxes_xyxy[mine], 0, SIZE) / SIZE
        rows = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        lines = (f'{kind} ' + ' '.join(map(str, row)) for kind, row in zip(found.classes[mine], rows, strict=True))
        (root / 'data' / 'labels' / f'{number}.txt').write_text('\n'.join(lines))
    return root / 'model', file


def scan(start, output, layers, rates, **options):
    model, dataset = start
    return pipeline.scan(model, dataset, output, rates=rates, layers=layers, image_size=SIZE, **options)


def test_a_cell_is_what_the_sliced_model_measures(start, tmp_path):
    rows = scan(start, tmp_path / 'scan.jsonl', ['8', 'model.24'], [0.25, 0.5])
    cells = {(row['layer'], row['rate']): row for row in rows}
    assert list(cells) == [(None, 0), (8, 0.25), (8, 0.5), (18, 0.25), (18, 0.5)]
    model, variables = jaxprune.load(start[0])
    dataset = data.load_dataset(start[1], 'val')
    start_map = cells[None, 0]['map50_95']
    assert start_map > 0.2
    for layer, rate in CELLS.items():
        small, sliced = jaxprune.prune(model, variables, {layer: rate})
        measured = _evaluate.evaluate(small, sliced, dataset, image_size=SIZE)
        cost = jaxprune.count(small, sliced, SIZE)
        cell = cells[layer, rate]
        for name in ('precision', 'recall', 'map50', 'map50_95'):
            assert cell[name] == pytest.approx(measured[name], abs=1e-3), (layer, name)
        assert abs(cell['map50_95'] - start_map) > 0.01, 'this cell could not tell a mask from none'
        assert cell['parameters_published'] == cost.parameters_published
        assert cell['gflops'] == cost.gflops


def test_more_cells_compile_nothing_more(start, tmp_path):
    compiled = []

    def count(event, duration, **_):
        if event == '/jax/core/compile/backend_compile_duration':
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(count)
    scan(start, tmp_path / 'one.jsonl', ['8'], [0.5])
    one, compiled[:] = len(compiled), []
    scan(start, tmp_path / 'many.jsonl', ['0', '8', '18', '40'], [0.25, 0.5])
    assert 20 < len(compiled) <= one
    compiled[:] = []
    scan(start, tmp_path / 'many.jsonl', ['0', '8', '18', '40'], [0.25, 0.5])
    assert not compiled, 'nothing was missing'


def command(start, output, *more, devices=1, **variables):
    model, dataset = start
    options = ['--layers', '8', '18', '40', '--rates', '0.5', '--img', SIZE, '-o', output, *more]
    line = [sys.executable, '-c', 'from jaxprune.cli import main; main()', 'scan', model, '--data', dataset, *options]
    flags = f'--xla_force_host_platform_device_count={devices}'
    return subprocess.Popen(
        list(map(str, line)), env={**os.environ, 'XLA_FLAGS': flags, **variables}, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def free_port():
    with socket.socket() as opened:
        opened.bind(('localhost', 0))
        return opened.getsockname()[1]


@pytest.mark.slow
def test_devices_and_processes_give_the_same_table(start, tmp_path):
    rows = scan(start, tmp_path / 'scan.jsonl', ['8', '18', '40'], [0.5])
    text = (tmp_path / 'scan.jsonl').read_text()
    finish(command(start, tmp_path / 'eight.jsonl', devices=8))
    for ours, theirs in zip(rows, sensitivity.read_rows(tmp_path / 'eight.jsonl'), strict=True):
        del ours['per_class_map50_95'], theirs['per_class_map50_95']
        assert theirs == pytest.approx(ours, abs=1e-6)
    place = f'localhost:{free_port()}'
    two = [command(start, tmp_path / 'two.jsonl', '--distributed', place, 2, number) for number in (0, 1)]
    for process in two:
        finish(process)
    assert (tmp_path / 'two.jsonl').read_text() == text


@pytest.mark.slow
def test_a_second_process_compiles_nothing(start, tmp_path):
    variables = {'JAX_ENABLE_COMPILATION_CACHE': '1', 'JAXPRUNE_CACHE': str(tmp_path / 'cache')}
    variables['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    finish(command(start, tmp_path / 'one.jsonl', **variables))
    compiled = sorted((tmp_path / 'cache' / 'compiled').glob('*-cache'))
    assert len(compiled) > 20
    finish(command(start, tmp_path / 'two.jsonl', **variables))
    assert sorted((tmp_path / 'cache' / 'compiled').glob('*-cache')) == compiled
    assert (tmp_path / 'two.jsonl').read_text() == (tmp_path / 'one.jsonl').read_text()


@pytest.mark.slow
def test_a_killed_share_comes_back(start, tmp_path):
    rows = scan(start, tmp_path / 'scan.jsonl', ['8', '18', '40'], [0.5])
    shared = tmp_path / 'shared.jsonl'
    two = [command(start, shared, '--share', f'{number}/2') for number in (0, 1)]
    shard = tmp_path / 'shared.jsonl.shard-1'
    while two[1].poll() is None and not shard.exists():
        time.sleep(0.01)
    two[1].kill()
    two[1].communicate()
    two[1] = command(start, shared, '--share', '1/2')  # the other one waits for it
    for process in two:
        finish(process)
    assert sensitivity.read_rows(shared) == rows
    assert shared.read_text() == (tmp_path / 'scan.jsonl').read_text()
    assert sorted(tmp_path.glob('shared*')) == [shared]


def test_estimate(start, capsys):
    model, dataset = start
    cli.main(
        [
            'scan',
            str(model),
            '--data',
            str(dataset),
            '--rates',
            '0.5',
            '--img',
            str(SIZE),
            '--estimate',
            '--json',
            '--batch',
            '1',
        ]
    )
    found = json.loads(capsys.readouterr().out)
    assert found['cells'] > 50
    assert 0 < found['compile_seconds'] < found['seconds']
    assert 0.1 < found['computed'] < 0.8
    assert found['host_bytes'] > 1e8
    _print.estimate(sensitivity.Estimate(**{**found, 'seconds': 9000.0, 'device_bytes': 5e9}), as_json=False)
    assert '2 h 30 min' in (text := capsys.readouterr().out) and '5.0 GB on each device' in text


def test_an_estimate_counts_the_time_that_reading_takes(start, monkeypatch):
    def slow(*given):
        time.sleep(0.2)
        return load(*given)

    load = checkpoint.load
    rest = sensitivity.Estimate(seconds=1, compile_seconds=0, cells=1, computed=1, host_bytes=0, device_bytes=None)
    monkeypatch.setattr(checkpoint, 'load', slow)
    monkeypatch.setattr(sensitivity, 'estimate', lambda *_, **__: rest)
    assert pipeline.estimate(*start, image_size=SIZE).seconds > 1.2


def test_an_estimate_counts_what_intervals_take(start, monkeypatch):
    """Each image of each resample takes a tenth of a millisecond: 200 resamples of 6 images, and the plain row."""

    class Slow(sensitivity.Mean):
        def figures(self, kept, weights):
            time.sleep(weights.size / 10_000)
            return super().figures(kept, weights)

    kept = Sample(3, {'mean': np.zeros(3)})
    assert _estimate._row_seconds(Slow('mean', None), kept, 6, sensitivity.Intervals()) > 201 * 6 / 10_000
    asked = []
    rest = sensitivity.Estimate(seconds=1, compile_seconds=0, cells=1, computed=1, host_bytes=0, device_bytes=None)
    monkeypatch.setattr(sensitivity, 'estimate', lambda *_, intervals, **__: asked.append(intervals) or rest)
    for given in ({}, {'images': 2}, {'intervals': True}, {'images': 2, 'intervals': False}):
        pipeline.estimate(*start, image_size=SIZE, **given)
    assert [each is not None for each in asked] == [False, True, True, False]


@pytest.mark.parametrize(
    ('cells', 'together', 'hidden'),
    [
        (1, 1, 0),  # nothing comes after it
        (2, 2, 1),  # the first one goes alone
        (56, 48, 49),  # 1, 48, 7
        (49, 48, 1),  # 1, 48
        (60, 10, 51),  # 1, 5 x 10, 9; more than the devices take
    ],
)
def test_devices_hide_the_figures_of_all_groups_but_the_last(cells, together, hidden):
    assert _estimate._hidden(2.0, cells, together, 100.0) == min(100, 2 * hidden)


def test_an_estimate_of_a_share(start):
    options = {'rates': [0.5], 'layers': ['8', '18'], 'image_size': SIZE}
    shares = [pipeline.estimate(*start, share=sensitivity.Share(index, 2), **options).cells for index in (0, 1)]
    assert shares == [2, 1]
    with pytest.raises(UserError, match='there are no candidates to measure'):
        pipeline.estimate(*start, share=sensitivity.Share(3, 4), **options)


def test_an_estimate_of_nothing():
    model = sensitivity.Model(lambda variables, x: x, {})
    metric = sensitivity.Mean('distance', sensitivity.distance)
    with pytest.raises(UserError, match='there are no batches to scan on'):
        sensitivity.estimate(model, [], batches=[], metric=metric)


def test_an_estimate_of_a_race_is_a_bound(capsys):
    found = sensitivity.Estimate(30.0, 5.0, 9, 0.5, 10**9, None)
    _print.estimate(found, as_json=False, raced=True)
    assert capsys.readouterr().out.startswith('9 cells: at most 30 s (the race stops cells early), of it 5 s to')


@pytest.mark.parametrize('command', [pipeline.estimate, pipeline.preview])
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'memory': -5}, 'a limit of -5 GB of memory'),
        ({'racing': 5}, 'confidence 5'),
        ({'racing': 0.95, 'measured': 'loss'}, 'a race cannot measure the loss'),
    ],
)
def test_what_no_scan_would_take(start, command, options, message):
    with pytest.raises(UserError, match=message):
        command(*start, image_size=SIZE, **options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--share', '2/2'], 'shares are counted from 0 to 1'),
        (['--share', 'half'], 'give I/N'),
        (['--distributed', 'localhost:1'], 'HOST:PORT'),
        (['--distributed', 'localhost:1', '2', '2'], 'counted from 0 to 1'),
    ],
)
def test_shares_that_are_none(start, tmp_path, capsys, options, message):
    model, dataset = start
    with pytest.raises(SystemExit, match='2'):
        cli.main(['scan', str(model), '--data', str(dataset), '-o', str(tmp_path / 'scan.jsonl'), *options])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_some_images(start, tmp_path):
    model, dataset = start
    options = {'rates': [0.5], 'layers': ['8'], 'image_size': SIZE}
    rows = pipeline.scan(model, dataset, tmp_path / 'scan.jsonl', images=2, **options)
    for row in rows:
        low, high = row['map50_95_interval']
        assert low <= row['map50_95'] <= high and low < high
    assert rows != pipeline.scan(model, dataset, tmp_path / 'all.jsonl', **options)
    with pytest.raises(UserError, match='another model, data set or options'):
        pipeline.scan(model, dataset, tmp_path / 'scan.jsonl', **options)
    with pytest.raises(UserError, match=r'4 images: .* has 3 in val'):
        pipeline.scan(model, dataset, tmp_path / 'new.jsonl', images=4, **options)


@pytest.fixture(scope='module')
def many(start, tmp_path_factory):
    """The same three images twelve times each."""
    root = tmp_path_factory.mktemp('many')
    shutil.copytree(start[1].parent, root, dirs_exist_ok=True)
    for number in range(3, 36):
        for name in (f'images/{number}.png', f'labels/{number}.txt'):
            shutil.copy(root / name.replace(str(number), str(number % 3)), root / name)
    return start[0], root / 'data.yaml'


def test_a_race(many, tmp_path):
    layers = ['0', '2', '8', '18', '24', '40']
    whole = {(row['layer'], row['rate']): row for row in scan(many, tmp_path / 'whole', layers, [0.25, 0.5])}
    chosen = SelectSettings(params_layers=1, flops_layers=2)
    race = tmp_path / 'race'
    rows = scan(many, race, layers, [0.25, 0.5], racing=0.95, select=chosen)
    stopped = [row for row in rows if row.get('stopped')]
    assert 1 < len(stopped) < len(rows) - 2
    assert {row['stopped']['images'] for row in stopped} <= {16, 20}
    for row in rows:
        whole[row['layer'], row['rate']].pop('per_class_map50_95')
        del row['per_class_map50_95']
        if not row.get('stopped'):
            assert row == pytest.approx(whole[row['layer'], row['rate']], abs=2e-3), 'other batches, same images'
    options = dataclasses.asdict(chosen)
    assert pipeline.select(race, **options) == pipeline.select(tmp_path / 'whole', **options)
    assert pipeline.select(race, **options)
    with pytest.raises(UserError, match='a race for 1 layers'):
        pipeline.select(race)
    lines = race.read_text().splitlines(keepends=True)
    race.write_text(''.join(lines[:4]))
    again = scan(many, race, layers, [0.25, 0.5], racing=0.95, select=chosen)
    assert [{name: row[name] for name in row if name != 'per_class_map50_95'} for row in again] == rows


def test_within_a_memory(start, tmp_path, capsys):
    rows = scan(start, tmp_path / 'free', ['8', '18'], [0.5])
    limited = scan(start, tmp_path / 'limited', ['8', '18'], [0.5], memory=100)
    assert limited == rows
    with pytest.raises(UserError, match=r'a limit of 0\.10 GB of memory is too low: the process holds'):
        scan(start, tmp_path / 'little', ['8', '18'], [0.5], memory=0.1)
    with pytest.raises(UserError, match='confidence 2'):
        scan(start, tmp_path / 'race', ['8', '18'], [0.5], racing=2)


def test_it_goes_on(start, tmp_path):
    output = tmp_path / 'scan.jsonl'
    rows = scan(start, output, ['8', '18', '40'], [0.5])
    text = output.read_text()
    output.write_text(text[: text.index('\n') + 40])
    assert scan(start, output, ['8', '18', '40'], [0.5]) == rows
    assert output.read_text() == text
    plain = json.loads(text.splitlines()[0])
    assert (plain['layer'], plain['rate']) == (None, 0)
    with pytest.raises(UserError, match='another model, data set or options'):
        scan(start, output, ['8'], [0.5], criterion='l1')
    with pytest.raises(UserError, match='another model, data set or options'):
        scan(start, output, ['8'], [0.5], conf=0.1)
    assert output.read_text() == text
    assert len(scan(start, output, ['8'], [0.5], seed=7)) == 2  # the seed means nothing to the criterion l2
