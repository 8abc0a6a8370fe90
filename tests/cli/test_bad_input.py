"""A user's mistakes: one clear line, exit code 2, nothing written."""

import pathlib
import shutil

import cv2
import numpy as np
import pytest

import jaxprune
from jaxprune import pipeline
from jaxprune.cli import main
from jaxprune.errors import UserError


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp('models') / 'tiny'
    jaxprune.save(*jaxprune.create('yolov7-tiny', classes=2, width_multiple=0.125), path)
    return path


@pytest.fixture
def dataset(tmp_path) -> pathlib.Path:
    root = tmp_path / 'data'
    for split in ('train', 'val'):
        (root / 'images' / split).mkdir(parents=True)
        (root / 'labels' / split).mkdir(parents=True)
        cv2.imwrite(str(root / 'images' / split / 'a.png'), np.full((64, 64, 3), 90, np.uint8))
        (root / 'labels' / split / 'a.txt').write_text('1 0.5 0.5 0.25 0.25\n')
    file = root / 'data.yaml'
    file.write_text('path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [a, b]\n')
    return file


def fails(capsys, arguments, *words) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    lines = [line for line in error.splitlines() if 'error:' in line]
    assert len(lines) == 1, error
    for word in words:
        assert word in lines[0]
    assert 'Traceback' not in error


def test_checkpoints(capsys, tmp_path, golden):
    out = tmp_path / 'out'
    whole = next(iter(sorted(golden.glob('family/*yolov7-tiny.pt')) or sorted(golden.glob('convert/*.pt'))))
    cut = tmp_path / 'cut.pt'
    cut.write_bytes(whole.read_bytes()[:20_000])
    text = tmp_path / 'text.pt'
    text.write_text('these are no weights\n')
    for file in (tmp_path / 'missing.pt', cut, text):
        fails(capsys, ['convert', file, '-o', out], str(file))
        assert not out.exists()


@pytest.mark.parametrize(
    ('layers', 'words'),
    [
        ('99:0.5', ['99']),
        ('8:1.5', ['1.5']),
        ('8:-0.1', ['-0.1']),
        ('8:nan', ['nan']),
        ('8:0.99', ['0.99', 'no filter']),
        ('55:0.5', ['55', 'output']),
        ('model.77.m.0:0.5', ['output']),
        ('8', ['LAYER:RATE']),
        ('8:0.5,8:0.25', ['two rates']),
        ('', ['names no layer']),
    ],
)
def test_pruning(capsys, tmp_path, model, layers, words):
    fails(capsys, ['prune', model, '--layers', layers, '-o', tmp_path / 'out'], *words)
    assert not list(tmp_path.iterdir())


def test_pruning_rates_and_criteria(capsys, tmp_path, model):
    out = tmp_path / 'out'
    fails(capsys, ['prune', model, '--rate', '1', '-o', out], '1')
    fails(capsys, ['prune', model, '--rate', '0.5', '--criterion', 'taste', '-o', out], 'taste')
    fused = tmp_path / 'fused'
    with pytest.raises(SystemExit) as stop:
        main(['convert', str(model), '--form', 'fused', '-o', str(fused)])
        raise SystemExit(0)
    assert stop.value.code == 0
    capsys.readouterr()
    fails(capsys, ['prune', fused, '--rate', '0.5', '--criterion', 'bn', '-o', out], 'batch norm')
    assert not out.exists()


@pytest.mark.parametrize('command', ['val', 'scan', 'train', 'iterate'])
def test_data_sets(capsys, tmp_path, dataset, model, command):
    root = dataset.parent
    out = tmp_path / 'out'
    options = {
        'val': [],
        'scan': ['-o', out],
        'train': ['--epochs', '1', '-o', out],
        'iterate': ['--iterations', '1', '-o', out],
    }[command]
    run = [command, model, '--data', dataset, '--img', '64', *options]
    label = root / 'labels' / 'val' / 'a.txt'

    fails(capsys, [*run[:4], '--img', '100', *options], '100', 'stride')
    label.write_text('2 0.5 0.5 0.25 0.25\n')
    fails(capsys, run, str(label), '2')
    label.write_text('1 0.5 0.5 0.25\n')
    fails(capsys, run, str(label))
    label.write_text('1 0.5 0.5 0.25 0.25\n')
    (root / 'val.txt').write_text('./images/val/a.png\n./images/val/b.png\n')
    dataset.write_text(dataset.read_text().replace('val: images/val', 'val: val.txt'))
    fails(capsys, run, 'b.png')
    dataset.write_text(dataset.read_text().replace('val: val.txt', 'val: images/val'))
    shutil.rmtree(root / 'images' / 'val')
    (root / 'images' / 'val').mkdir()
    fails(capsys, run, 'image')
    dataset.write_text('path: .\ntrain: images/train\nval: images/train\nnc: 1\nnames: [a]\n')
    (root / 'labels' / 'train' / 'a.txt').write_text('0 0.5 0.5 0.25 0.25\n')
    fails(capsys, run, '1 classes')
    fails(capsys, [command, model, '--data', tmp_path / 'no.yaml', '--img', '64', *options], 'no.yaml')
    assert not out.exists()


def test_models_and_outputs(capsys, tmp_path, model):
    fails(capsys, ['info', tmp_path], str(tmp_path), 'spec.json')
    fails(capsys, ['info', model, '--img', '100'], '100', 'stride 32')
    fails(capsys, ['export', model, '--img', '64', '48', '-o', tmp_path / 'a.onnx'], '48')
    fails(capsys, ['new', 'yolov9', '-o', tmp_path / 'new'], 'yolov9')
    fails(capsys, ['new', 'yolov7-tiny', '--width', '0', '-o', tmp_path / 'new'], '0')
    fails(capsys, ['detect', model, '--source', tmp_path / 'none', '-o', tmp_path / 'found'], 'none')
    fails(capsys, ['select', tmp_path / 'scan.jsonl'], 'scan.jsonl')
    fails(capsys, ['val', model, '--data', 'x', '--device', 'abacus'], 'abacus')
    assert not list(tmp_path.iterdir())
    (tmp_path / 'busy').mkdir()
    (tmp_path / 'busy' / 'thesis.txt').write_text('do not overwrite')
    fails(capsys, ['prune', model, '--rate', '0.25', '-o', tmp_path / 'busy'], 'busy')
    assert [file.name for file in (tmp_path / 'busy').iterdir()] == ['thesis.txt']


def test_demo_in_the_way_of_a_file(capsys, tmp_path):
    (tmp_path / 'file').write_text('mine')
    fails(capsys, ['demo', '-o', tmp_path / 'file' / 'run'], 'file')
    assert [file.name for file in tmp_path.iterdir()] == ['file']


def test_truncated_model_directory(capsys, tmp_path, model):
    broken = tmp_path / 'broken'
    shutil.copytree(model, broken)
    (broken / 'spec.json').write_text((broken / 'spec.json').read_text()[:100])
    fails(capsys, ['info', broken], 'spec.json')
    shutil.copy(model / 'spec.json', broken / 'spec.json')
    shutil.rmtree(broken / 'variables')
    fails(capsys, ['info', broken], 'variables')


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        (['--seed', '-1'], '--seed: -1: give a whole number, 0 or more'),
        (['--batch', '0'], 'batch 0'),
        (['--lr', 'nan'], 'nan'),
        (['--lr', '-1'], '-1'),
        (['--recipe', 'soup'], 'soup'),
    ],
)
@pytest.mark.parametrize('command', ['train', 'iterate'])
def test_training_options(capsys, tmp_path, dataset, model, command, options, word):
    goal = ['--epochs', '1'] if command == 'train' else ['--iterations', '1']
    run = [command, model, '--data', dataset, '--img', '64', *goal]
    fails(capsys, [*run, *options, '-o', tmp_path / 'out'], word)
    assert [path.name for path in tmp_path.iterdir()] == ['data']


@pytest.mark.parametrize('command', ['train', 'iterate'])
def test_outputs_of_training(capsys, tmp_path, dataset, model, command):
    goal = ['--epochs', '1'] if command == 'train' else ['--iterations', '1']
    (tmp_path / 'file').write_text('notes')
    (tmp_path / 'busy').mkdir()
    (tmp_path / 'busy' / 'thesis.txt').write_text('do not overwrite')
    for output in ('file', 'file/out', 'busy'):
        fails(capsys, [command, model, '--data', dataset, '--img', '64', *goal, '-o', tmp_path / output], output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['busy', 'data', 'file']
    assert [file.name for file in (tmp_path / 'busy').iterdir()] == ['thesis.txt']


def test_selection_options_of_iterate(capsys, tmp_path, dataset, model):
    run = ['iterate', model, '--data', dataset, '--img', '64', '--iterations', '1', '-o', tmp_path / 'out']
    for options, word in (
        (['--map-power', '-1'], 'map_power'),
        (['--params-layers', '-1'], 'params_layers'),
        (['--racing', '2'], '--racing: 2: give a number from 0.5'),
    ):
        fails(capsys, [*run, *options], word)
    assert not (tmp_path / 'out').exists()


def test_a_training_seed_below_0_in_python(tmp_path, dataset, model):
    with pytest.raises(UserError, match='seed -1'):
        pipeline.train(model, dataset, tmp_path / 'out', epochs=1, image_size=64, seed=-1)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--seed', '-1', '--images', '1'], ['--seed: -1', '0 or more']),
        (['--seed', 'x'], ['--seed: x', 'whole number']),
        (['--racing', '5'], ['--racing: 5', 'below 1']),
        (['--racing', 'nan'], ['--racing: nan', 'below 1']),
        (['--memory', '-5'], ['--memory: -5', 'above 0']),
        (['--memory', 'inf'], ['--memory: inf', 'above 0']),
        (['--share', '5/2'], ['--share: 5/2', 'from 0 to 1']),
        (['--share', '0/0'], ['--share: 0/0', 'give I/N']),
        (['--share', '²/3'], ['--share: ²/3', 'give I/N']),
        (['--share', '1'], ['--share: 1', 'give I/N']),
        (['--params-layers', '-1'], ['params_layers is -1']),
    ],
)
@pytest.mark.parametrize('what', [['--estimate'], ['--preview'], ['-o', 'scan.jsonl']])
def test_scan_options(capsys, tmp_path, monkeypatch, options, words, what):
    monkeypatch.chdir(tmp_path)
    fails(capsys, ['scan', 'model', '--data', 'data.yaml', *options, *what], *words)
    assert not list(tmp_path.iterdir())


def test_layers_that_only_look_like_numbers(capsys, tmp_path, dataset, model):
    run = ['scan', model, '--data', dataset, '--img', '64', '-o', tmp_path / 'out']
    fails(capsys, [*run, '--layers', '²'], "layer '²' does not exist")
    for layer in ('²', '--5'):
        fails(capsys, ['prune', model, f'--layers={layer}:0.5', '-o', tmp_path / 'out'], f"layer '{layer}'")
    for numbers in (['²', '0'], ['0', '0']):
        fails(capsys, [*run, '--distributed', 'host:1', *numbers], '--distributed', 'give HOST:PORT')
    assert not (tmp_path / 'out').exists()
