"""`jaxprune convert`: to PyTorch files and back, to other forms and activations, and released checkpoints by name."""

import http.server
import json
import pathlib
import threading

import numpy as np
import pytest

import jaxprune
from jaxprune import downloads, trees
from jaxprune.cli import main

SMALL = pathlib.Path(__file__).parents[1] / 'golden' / 'convert'


def run(capsys, *arguments) -> dict:
    main(['convert', *map(str, arguments), '--json'])
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main(['convert', *map(str, arguments)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def assert_same(path, other):
    (first, left), (second, right) = jaxprune.load(path), jaxprune.load(other)
    assert first.spec.nodes == second.spec.nodes
    assert trees.diff(left, right) == []
    for place, leaf in trees.flatten(left).items():
        np.testing.assert_array_equal(leaf, trees.get(right, place))


def test_there_and_back(capsys, tmp_path):
    run(capsys, SMALL / 'zip.pt', '-o', tmp_path / 'model')
    whole = run(capsys, tmp_path / 'model', '--like', SMALL / 'zip.pt', '-o', tmp_path / 'whole.pt')
    assert set(whole) >= {'path', 'name', 'form', 'classes', 'parameters', 'configured'}
    run(capsys, tmp_path / 'whole.pt', '-o', tmp_path / 'again')
    assert_same(tmp_path / 'model', tmp_path / 'again')


@pytest.mark.parametrize('name', ['yolov7-tiny', 'yolov7-w6'])
def test_state_dict_there_and_back(capsys, tmp_path, name):
    main(['new', name, '--width', '0.125', '--classes', 'cat', '--activation', 'relu', '-o', str(tmp_path / 'model')])
    capsys.readouterr()
    run(capsys, tmp_path / 'model', '-o', tmp_path / 'dict.pt')
    back = run(capsys, tmp_path / 'dict.pt', '--name', name, '--activation', 'relu', '-o', tmp_path / 'again')
    assert (back['name'], back['form'], back['classes']) == (name, 'training', ['0'])
    assert len(back['tensors']) > 300
    assert_same(tmp_path / 'model', tmp_path / 'again')


def test_forms_and_activations(capsys, tmp_path):
    run(capsys, SMALL / 'zip.pt', '--form', 'fused', '--activation', 'relu6', '-o', tmp_path / 'model')
    model, _ = jaxprune.load(tmp_path / 'model')
    assert model.spec.form == 'fused'
    assert {getattr(node, 'activation', 'identity') for node in model.spec.nodes} == {'relu6', 'identity'}


def test_the_report_is_a_table(capsys, tmp_path):
    main(['convert', str(SMALL / 'zip.pt'), '--report', '-o', str(tmp_path / 'model')])
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if 'model.0.conv.weight' in line)
    assert [cell.strip() for cell in row.strip('│').split('│')][1:] == [
        '8 x 3 x 3 x 3',
        'float32',
        'params/model_0/conv/kernel',
    ]


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['nothing-here', '-o', 'out'], ['nothing-here', 'released checkpoint', 'yolov7-tiny']),
        ([SMALL / 'zip.pt', '--half', '-o', 'out'], ['--half', '.pt']),
        ([SMALL / 'zip.pt', '-o', 'out.onnx'], ['out.onnx', 'jaxprune export']),
        ([SMALL / 'zip.pt', '--like', SMALL / 'zip.pt', '-o', 'out'], ['--like', '.pt']),
        ([SMALL / 'zip.pt', '--like', 'gone.pt', '-o', 'out.pt'], ['gone.pt', 'no such file']),
        ([SMALL / 'zip.pt', '--form', 'fused', '--like', SMALL / 'zip.pt', '-o', 'out.pt'], ['form', 'zip.pt']),
        ([SMALL / 'zip.pt', '--activation', 'tanh', '-o', 'out'], ['tanh', 'leaky_relu']),
        ([SMALL / 'zip.pt', '--activation', 'leaky_relu:x', '-o', 'out'], ['leaky_relu:x']),
        ([SMALL / 'zip.pt', '--activation', 'leaky_relu:inf', '-o', 'out'], ['leaky_relu:inf']),
        ([SMALL / 'fused.pt', '--form', 'deploy', '-o', 'out'], ['fused.pt', 'cannot be turned back']),
    ],
)
def test_mistakes_get_one_line_and_write_nothing(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    line = fails(capsys, *arguments)
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []


def test_an_original_is_not_replaced(capsys, tmp_path):
    original = tmp_path / 'original.pt'
    original.write_bytes((SMALL / 'zip.pt').read_bytes())
    run(capsys, original, '-o', tmp_path / 'model')
    for source in (original, tmp_path / 'model'):
        assert 'would replace the original' in fails(capsys, source, '--like', original, '-o', original)
    (tmp_path / 'folder.pt').mkdir()
    assert 'is a directory' in fails(capsys, original, '-o', tmp_path / 'folder.pt')
    assert original.read_bytes() == (SMALL / 'zip.pt').read_bytes()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_released_checkpoint_by_name(capsys, tmp_path, monkeypatch):
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), lambda *a: _Quiet(*a, directory=SMALL)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/zip.pt'
        monkeypatch.setattr(downloads._releases, 'releases', lambda: {'mixed': url})
        monkeypatch.setattr(downloads, 'releases', lambda: {'mixed': url})
        monkeypatch.setenv('JAXPRUNE_CACHE', str(tmp_path / 'cache'))
        run(capsys, 'mixed', '-o', tmp_path / 'model')
        server.shutdown()
    run(capsys, 'mixed', '-o', tmp_path / 'again')  # from the cache: nobody answers any more
    assert run(capsys, tmp_path / 'model', '--like', 'mixed', '-o', tmp_path / 'back.pt')['configured'] is False
    assert_same(tmp_path / 'model', tmp_path / 'again')
