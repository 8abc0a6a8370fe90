"""Commands on the trained checkpoint and real images, against what the original code computed."""

import json
import pathlib

import numpy as np
import pytest

from jaxprune import pipeline

pytestmark = [pytest.mark.slow, pytest.mark.optimized]


@pytest.fixture(scope='module')
def trained(golden, tmp_path_factory) -> pathlib.Path:
    file = golden / 'trained' / 'yolov7-tiny-bccd.pt'
    if not file.exists():
        pytest.skip('the trained checkpoint (12 MB) is not in the repository')
    path = tmp_path_factory.mktemp('models') / 'bccd'
    pipeline.convert(file, path)
    return path


def test_val(trained, golden, data):
    reference = json.loads((golden / 'trained' / 'metrics.json').read_text())
    found = pipeline.val(trained, data / 'bccd' / 'bccd.yaml', image_size=256)
    own, coco = reference['own_metric'], reference['pycocotools']
    for name in ('precision', 'recall', 'map50', 'map50_95'):
        assert found[name] == pytest.approx(own[name], abs=0.002)
    np.testing.assert_allclose(found['per_class_map50_95'], own['per_class_map50_95'], atol=0.004)
    assert found['coco_map50_95'] == pytest.approx(coco['map50_95'], abs=0.002)
    assert found['coco_map50'] == pytest.approx(coco['map50'], abs=0.002)
    np.testing.assert_allclose(list(found['coco'].values()), coco['all'], atol=0.005)
    assert found['images'] == 87


def test_scan_and_cost(trained, golden, data, tmp_path):
    reference = json.loads((golden / 'trained' / 'sensitivity.json').read_text())
    cells = {(cell['layer'], cell['rate']): cell for cell in reference['cells']}
    cells[None, 0] = reference['baseline']
    options = {'layers': ['0', 'model.28', '54'], 'image_size': 256}
    rows = pipeline.scan(trained, data / 'bccd' / 'bccd.yaml', tmp_path / 'scan.jsonl', **options)
    assert [(row['layer'], row['rate']) for row in rows] == [
        (None, 0),
        *((layer, rate) for layer in (0, 21, 54) for rate in (0.25, 0.5, 0.75)),
    ]
    for row in rows:
        cell = cells[row['layer'], row['rate']]
        for name in ('precision', 'recall', 'map50', 'map50_95'):
            assert row[name] == pytest.approx(cell[name], abs=0.003), (row['layer'], row['rate'], name)
        assert row['parameters_published'] == cell['parameters_published']
        assert round(row['gflops'], 3) == cell['gflops_256']


def test_detect(trained, data, tmp_path):
    """On a picture of another kind and shape: files appear, and boxes lie in the picture."""
    found = pipeline.detect(trained, data / 'images' / 'zidane.jpg', tmp_path / 'found', image_size=256, conf=0.1)
    (record,) = json.loads((tmp_path / 'found' / 'detections.json').read_text())
    boxes = np.array([row['box_xyxy'] for row in record['detections']]).reshape(-1, 4)
    assert found['images'] == 1 and found['detections'] == len(boxes)
    assert (boxes >= 0).all() and (boxes <= [1280, 720, 1280, 720]).all()
    assert (tmp_path / 'found' / 'zidane.jpg').stat().st_size > 10_000
    lines = (tmp_path / 'found' / 'labels' / 'zidane.txt').read_text().splitlines()
    assert len(lines) == len(boxes)
