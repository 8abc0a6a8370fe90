"""Detection in any images: what is written where, and that no source is ever overwritten."""

import json
import pathlib

import cv2
import numpy as np
import pytest

import jaxprune
from jaxprune import pipeline
from jaxprune.errors import UserError


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp('models') / 'tiny'
    jaxprune.save(*jaxprune.create('yolov7-tiny', classes=2, width_multiple=0.125), path)
    return path


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    """`x.png` in two folders, `x.bmp` beside one of them: three sources of one stem."""
    rng = np.random.default_rng(0)
    for name in ('a/x.png', 'b/x.png', 'b/x.bmp'):
        file = tmp_path / 'in' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), rng.integers(0, 255, (40, 56, 3), dtype=np.uint8))
    (tmp_path / 'in' / 'b' / 'notes.txt').write_text('no picture')
    return tmp_path / 'in'


def test_pictures_of_one_name_stay_apart(model, pictures, tmp_path):
    bare = tmp_path / 'bare'
    bare.write_bytes((pictures / 'a' / 'x.png').read_bytes())
    sources = [pictures / 'a', pictures / 'b', bare]
    result = pipeline.detect(model, sources, tmp_path / 'out', image_size=64, conf=1e-6)
    assert result['images'] == 4
    rows = json.loads((tmp_path / 'out' / 'detections.json').read_text())
    assert sorted(row['picture'] for row in rows) == ['bare.png', 'x-2.bmp', 'x-3.png', 'x.png']
    assert {row['image'] for row in rows} == {str(bare), *(str(file) for file in pictures.rglob('x.*'))}
    for row in rows:
        assert cv2.imread(str(tmp_path / 'out' / row['picture'])).shape == (40, 56, 3)
        labels = (tmp_path / 'out' / 'labels' / row['picture']).with_suffix('.txt').read_text().splitlines()
        assert len(labels) == len(row['detections']) > 0


@pytest.mark.parametrize('output', ['a', 'b/../b'])
def test_sources_are_never_overwritten(model, pictures, output):
    before = {file: file.read_bytes() for file in pictures.rglob('*.*')}
    with pytest.raises(UserError, match='would be overwritten'):
        pipeline.detect(model, [pictures / 'a', pictures / 'b'], pictures / output, image_size=64)
    assert {file: file.read_bytes() for file in pictures.rglob('*.*')} == before


@pytest.mark.parametrize(
    ('options', 'word'),
    [({'batch': 0}, 'batch size 0'), ({'classes': [2]}, 'class 2'), ({'conf': 1.5}, '1.5'), ({'image_size': 50}, '50')],
)
def test_impossible_options_write_nothing(model, pictures, tmp_path, options, word):
    with pytest.raises(UserError, match=word):
        pipeline.detect(model, pictures / 'a', tmp_path / 'out', **{'image_size': 64, **options})
    assert not (tmp_path / 'out').exists()
