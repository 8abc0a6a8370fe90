"""Model directories: law 4 (what was saved is loaded, bit for bit), and what happens to damaged ones."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import jaxprune
from jaxprune import checkpoint, models, trees
from jaxprune.errors import UserError

FRESH = """
import sys, numpy, jaxprune
images = numpy.load(sys.argv[1] + '/images.npy')
for name in sys.argv[2:]:
    path = sys.argv[1] + '/' + name
    numpy.save(path + '.npy', jaxprune.predict(*jaxprune.load(path), images))
"""


@pytest.fixture(scope='module')
def saved(tmp_path_factory, random_model) -> pathlib.Path:
    path = tmp_path_factory.mktemp('saved') / 'model'
    spec, variables = random_model('yolov7-tiny')
    checkpoint.save(models.Detector(spec), variables, path, metadata={'plans': []})
    return path


@pytest.mark.parametrize('form', models.FORMS)
@pytest.mark.parametrize('name', models.architectures())
def test_variables_and_spec_survive(tmp_path, random_model, name, form):
    spec, variables = random_model(name, form)
    model, variables = jaxprune.prune(models.Detector(spec), variables, {8: 0.5, spec.layers[24].pytorch_name: 0.25})
    checkpoint.save(model, variables, tmp_path / 'a b' / 'é')
    again, loaded = checkpoint.load(tmp_path / 'a b' / 'é')
    assert again.spec == model.spec
    assert trees.diff(variables, loaded) == []
    for path, leaf in trees.flatten(loaded).items():
        np.testing.assert_array_equal(leaf, trees.get(variables, path))


@pytest.mark.slow
@pytest.mark.parametrize(
    'names',
    [models.architectures(), pytest.param(('yolov7-tiny',), marks=pytest.mark.optimized)],
    ids=['all', 'optimized'],
)
def test_a_fresh_process_computes_the_same_bits(tmp_path, random_model, names):
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(2, 64, 64, 3)).astype(np.float32)
    np.save(tmp_path / 'images.npy', images)
    here = {}
    for name in names:
        spec, variables = random_model(name)
        model, variables = jaxprune.prune(models.Detector(spec), variables, {8: 0.5, 18: 0.5})
        jaxprune.save(model, variables, tmp_path / name)
        here[name] = jaxprune.predict(model, variables, images)
    subprocess.run([sys.executable, '-c', FRESH, str(tmp_path), *here], check=True, capture_output=True)
    for name, decoded in here.items():
        assert np.ptp(decoded[..., 4]) > 0
        np.testing.assert_array_equal(np.load(tmp_path / f'{name}.npy'), decoded)


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'missing'])
def test_damaged_variables_are_refused(tmp_path, saved, damage):
    broken = tmp_path / 'broken'
    shutil.copytree(saved, broken)
    largest = max(
        (file for file in (broken / 'variables').rglob('*') if file.is_file()), key=lambda f: f.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case 'cut':
            largest.write_bytes(content[: len(content) // 2])
        case 'flipped':
            largest.write_bytes(content)
        case 'missing':
            largest.unlink()
    with pytest.raises(UserError, match='cut off or changed'):
        checkpoint.load(broken)


def test_a_directory_without_a_digest_loads(tmp_path, saved):
    shutil.copytree(saved, tmp_path / 'old')
    plain = json.loads((tmp_path / 'old' / 'spec.json').read_text())
    del plain['digest']
    (tmp_path / 'old' / 'spec.json').write_text(json.dumps(plain))
    assert checkpoint.load(tmp_path / 'old')[0].spec == checkpoint.load(saved)[0].spec


@pytest.mark.parametrize(
    'change',
    [
        {'nodes': ['conv']},  # no mapping
        {'outputs': ['nothing']},
        {'anchors': []},
        {'classes': 5},
        {'version': 99},  # from the future
    ],
)
def test_senseless_specs_are_refused(tmp_path, saved, change):
    shutil.copytree(saved, tmp_path / 'odd')
    plain = json.loads((tmp_path / 'odd' / 'spec.json').read_text())
    plain['spec'].update(change)
    (tmp_path / 'odd' / 'spec.json').write_text(json.dumps(plain))
    with pytest.raises(UserError, match=r'spec\.json'):
        checkpoint.load(tmp_path / 'odd')


def test_a_full_disk_changes_nothing(tmp_path, saved, monkeypatch):
    before = sorted(tmp_path.rglob('*'))
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match='left on the disk'):
        checkpoint.save(*checkpoint.load(saved), tmp_path / 'out')
    assert sorted(tmp_path.rglob('*')) == before


def test_outputs_that_cannot_be(tmp_path, saved):
    (tmp_path / 'file').write_text('notes')
    for output in (tmp_path / 'file', tmp_path / 'file' / 'model', tmp_path):
        with pytest.raises(UserError, match='choose another output'):
            checkpoint.check_output(output)
    checkpoint.check_output(saved)
    checkpoint.check_output(tmp_path / 'new' / 'model')
