"""The scan as a command: law 5 (a cell is what the sliced model measures), going on, and what may go on."""

import json
import pathlib

import cv2
import numpy as np
import pytest

import jaxprune
from jaxprune import checkpoint, data, models, pipeline, trees
from jaxprune.errors import UserError
from jaxprune.pipeline import _evaluate, _scan

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


def test_it_goes_on_and_compiles_once(start, tmp_path):
    output = tmp_path / 'scan.jsonl'
    _scan._find_masked.clear_cache()
    rows = scan(start, output, ['8', '18', '40'], [0.5])
    assert _scan._find_masked._cache_size() == 1  # every cell and the unpruned model in one program
    text = output.read_text()
    output.write_text(text[: text.index('\n') + 40])
    assert scan(start, output, ['8', '18', '40'], [0.5]) == rows
    assert _scan._find_masked._cache_size() == 1
    assert output.read_text() == text
    plain = json.loads(text.splitlines()[0])
    assert (plain['layer'], plain['rate']) == (None, 0)
    with pytest.raises(UserError, match='another model, data set or options'):
        scan(start, output, ['8'], [0.5], criterion='l1')
    with pytest.raises(UserError, match='another model, data set or options'):
        scan(start, output, ['8'], [0.5], conf=0.1)
    assert output.read_text() == text
    assert len(scan(start, output, ['8'], [0.5], seed=7)) == 2  # the seed means nothing to the criterion l2
