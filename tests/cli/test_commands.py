"""Commands end to end: what they print for programs, and mistakes that only show in combination."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import jaxprune
from jaxprune import pipeline
from jaxprune.cli import main
from jaxprune.errors import UserError


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp('models') / 'a model'
    jaxprune.save(*jaxprune.create('yolov7-tiny', classes=['red cell', 'é'], width_multiple=0.125), path)
    return path


def run(capsys, *arguments) -> str:
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def fails(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_help_imports_nothing_heavy():
    code = (
        'import sys; from jaxprune.cli import main\n'
        'try: main(["--help"])\nexcept SystemExit: pass\n'
        'assert not {"jax", "flax", "numpy", "cv2", "rich"} & set(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)


def test_json_has_the_promised_names(capsys, model):
    info = json.loads(run(capsys, 'info', model, '--img', 64, 96, '--json'))
    assert {'parameters', 'parameters_published', 'gflops', 'layers'} <= set(info)
    graph = json.loads(run(capsys, 'graph', model, '--json'))
    assert {'index', 'name', 'pytorch_name', 'channels', 'prunable'} <= set(graph['layers'][0])
    assert set(graph['edges'][0]) == {'producer', 'consumer', 'offset', 'channels'}


def test_tables_are_not_cut_off_in_files(capsys, model):
    out = run(capsys, 'info', model)
    assert '…' not in out and 'parameters as stored' in out


def test_plans_of_every_kind_are_shown(capsys, tmp_path, model):
    (tmp_path / 'rates.json').write_text('[{"layer": 8, "rate": 0.5}]')
    (tmp_path / 'kept.json').write_text('{"8": [0, 1], "model.24": [3]}')
    for name in ('rates', 'kept'):
        run(capsys, 'prune', model, '--plan', tmp_path / f'{name}.json', '-o', tmp_path / name)
    shown = {
        source: json.loads(run(capsys, 'plan', 'show', tmp_path / source, '--json'))['layers']
        for source in ('rates.json', 'kept.json', 'rates', 'kept')
    }
    assert shown['rates.json'] == [{'layer': 8, 'rate': 0.5}]
    assert [row['kept'] for row in shown['kept.json']] == [row['kept'] for row in shown['kept']] == [2, 1]
    assert shown['rates'][0]['removed'] == 4
    differences = json.loads(run(capsys, 'plan', 'diff', tmp_path / 'rates', tmp_path / 'kept', '--json'))['layers']
    assert [row['index'] for row in differences] == [8, 18]


@pytest.mark.parametrize('content', ['3', 'null', '"text"', '{}', '{"version": 9, "kind": "rates"}', '[{"layer": 8}]'])
def test_files_that_are_no_plans(capsys, tmp_path, content):
    file = tmp_path / 'plan.json'
    file.write_text(content)
    assert str(file) in fails(capsys, 'plan', 'show', file)


@pytest.mark.parametrize(
    ('arguments', 'word'),
    [
        (['info', 'MODEL', '--img', '64', '96', '128'], '128'),
        (['new', 'yolov7-tiny', '--seed', '99999999999', '-o', 'OUT'], '99999999999'),
        (['new', 'yolov7-tiny', '--seed', '-1', '-o', 'OUT'], '-1'),
        (['prune', 'MODEL', '--rate', '0.5', '-o', 'FILE/model'], 'is a file'),
        (['graph', 'MODEL', '-o', 'FILE/graph.svg'], 'cannot be written'),
    ],
)
def test_mistakes(capsys, tmp_path, model, arguments, word):
    (tmp_path / 'file').write_text('notes')
    places = {'MODEL': str(model), 'OUT': str(tmp_path / 'out'), 'FILE': str(tmp_path / 'file')}
    named = [places.get(head, head) + rest for head, _, rest in (_split(argument) for argument in arguments)]
    assert word in fails(capsys, *named)
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def _split(argument: str) -> tuple[str, str, str]:
    head, slash, rest = argument.partition('/')
    return head, slash, slash + rest


def test_selecting_from_tables_that_are_none(capsys, tmp_path):
    row = {'rate': 0, 'map50_95': 'high', 'parameters_published': 1, 'gflops': 1}
    table = tmp_path / 'scan.jsonl'
    table.write_text(''.join(json.dumps({'layer': layer, **row}) + '\n' for layer in (None, 3)))
    assert str(table) in fails(capsys, 'select', table, '-o', tmp_path / 'plan.json')
    assert not (tmp_path / 'plan.json').exists()


@pytest.mark.parametrize(('mistake', 'code'), [(KeyboardInterrupt(), 130), (UserError('no'), 2)])
def test_a_process_that_fails_does_not_wait_for_the_device(capsys, monkeypatch, tmp_path, mistake, code):
    """An interpreter that goes away under a running program of the device crashes, as Ctrl-C in a scan showed."""

    def fail(*_, **__):
        raise mistake

    def leave(code):
        raise RuntimeError(f'left with {code}')

    monkeypatch.setattr(pipeline, 'info', fail)
    monkeypatch.setattr(sys, 'argv', ['jaxprune', 'info', 'model'])
    monkeypatch.setenv('JAXPRUNE_CACHE', str(tmp_path))
    monkeypatch.setattr(os, '_exit', leave)
    with pytest.raises(RuntimeError, match=f'left with {code}'):
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith('jaxprune: error: ')
    with pytest.raises(SystemExit):  # called as a function it only raises
        main(['info', 'model'])
