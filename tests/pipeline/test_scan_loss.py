"""A detector's loss as what a scan measures: against PyTorch's, against one image at a time, and its derivatives."""

import dataclasses
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxprune
from jaxprune import checkpoint, data, detection, models, pipeline, pruning
from jaxprune.detection import _assign
from jaxprune.errors import UserError
from jaxprune.pipeline import _scan, _scan_detection, _scan_preview
from jaxprune.pipeline._scan_loss import ImageLoss, most_boxes, padded_targets
from jaxprune.sensitivity._preview import preview

SIZE = 64
LAYERS = ('18',)
SHAPES = ((48, 64), (64, 48), (90, 90), (30, 120))
FIGURES = ('loss', 'loss_box', 'loss_obj', 'loss_cls')


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> data.DetectionDataset:
    """Pictures of several shapes; each object is a magenta rectangle, the last picture has none."""
    root = tmp_path_factory.mktemp('loss')
    for folder in ('images', 'labels'):
        (root / folder).mkdir()
    for number, (height, width) in enumerate(SHAPES):
        image = np.zeros((height, width, 3), np.uint8)
        image[..., 1] = np.random.default_rng(number).integers(20, 60, (height, width))
        lines = []
        for place in range(3 - number):
            left, top = width * (1 + 3 * place) // 10, height * (1 + 3 * place) // 10
            right, bottom = left + width // 4, top + height // 5
            image[top:bottom, left:right] = (255, 0, 255)
            box = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width)
            lines.append(f'{place % 2} {box[0]} {box[1]} {box[2]} {(bottom - top) / height}\n')
        cv2.imwrite(str(root / 'images' / f'{number}.png'), image)
        (root / 'labels' / f'{number}.txt').write_text(''.join(lines))
    (root / 'data.yaml').write_text('path: .\ntrain: images\nval: images\nnc: 2\nnames: [a, b]\n')
    return data.load_dataset(root / 'data.yaml', 'val')


@pytest.fixture(scope='module')
def task(dataset, random_model) -> _scan_detection.DetectionScan:
    spec, variables = random_model('yolov7-tiny')
    return _scan_detection.DetectionScan(models.Detector(spec), variables, dataset, SIZE, len(SHAPES), measured='loss')


@pytest.mark.optimized
@pytest.mark.parametrize('name', ['anchor', 'anchor-smooth-focal'])
def test_it_is_the_originals_loss(golden, name):
    """The original averages over the boxes of a level, so images count by theirs; objectness is a mean over images."""
    arrays = dict(np.load(golden / 'loss' / f'{name}.npz'))
    hyper = json.loads((golden / 'loss' / f'{name}.json').read_text())['hyp']
    hyper.pop('iou_t')
    heads = tuple(jnp.asarray(np.moveaxis(arrays[f'pred{level}'], 1, 3)) for level in range(3))
    pixels = (arrays['anchors_grid_units'] * arrays['stride'][:, None, None]).tolist()
    anchors = tuple(tuple(map(tuple, level)) for level in pixels)
    strides = tuple(int(stride) for stride in arrays['stride'])
    rows = arrays['targets'].astype(np.float32)
    length = 9
    targets, boxes = np.zeros((3, length, 5), np.float32), np.zeros((3, length), bool)
    for image in range(3):
        own = rows[rows[:, 0] == image, 1:]
        targets[image, : len(own)], boxes[image, : len(own)] = own, True
    labels, config = {'targets': targets, 'boxes': boxes}, detection.LossConfig(**hyper)
    whole = jax.jit(ImageLoss(anchors, strides, config))(heads, labels)
    expected = dict(zip(FIGURES[1:], arrays['box_obj_cls_total'], strict=False))
    np.testing.assert_allclose(np.mean(whole['loss_obj']), expected['loss_obj'], rtol=1e-6)
    np.testing.assert_allclose(whole['loss'], sum(whole[figure] for figure in FIGURES[1:]), rtol=1e-6)
    found = {'loss_box': 0.0, 'loss_cls': 0.0}
    summed = {'loss_box': 0.0, 'loss_cls': 0.0}
    differ = []
    for level in range(3):
        alone = ImageLoss(anchors[level : level + 1], strides[level : level + 1], config)
        measured = jax.jit(alone)(heads[level : level + 1], labels)
        side = np.array(anchors[level], np.float32) / strides[level]
        matches = _assign.match(targets[..., 1:], boxes, jnp.asarray(side), heads[level].shape[1:3], config.anchor_t)
        counts = np.asarray(matches.valid).sum(axis=1)
        differ.append(np.ptp(counts) > 0)
        for figure in found:
            found[figure] += float(np.average(measured[figure], weights=counts))
            summed[figure] = summed[figure] + np.asarray(measured[figure])
    assert any(differ), 'images that count the same tell nothing'
    for figure, value in found.items():
        np.testing.assert_allclose(value, expected[figure], rtol=1e-6)
        np.testing.assert_allclose(summed[figure], whole[figure], rtol=1e-6)


def test_targets_lie_where_the_objects_are(dataset):
    for batch in data.EvalBatches(dataset, SIZE, batch=3, group=2):
        found = padded_targets(batch, most_boxes(dataset))
        assert found['targets'].shape == (3, 3, 5) and found['targets'].dtype == np.float32
        height, width = batch.images.shape[1:3]
        for row in np.flatnonzero(batch.valid):
            own = found['targets'][row][found['boxes'][row]]
            assert len(own) == max(0, 3 - batch.indices[row])
            np.testing.assert_array_equal(own[:, 0], np.arange(len(own)) % 2)
            for _, x, y, w, h in own:
                edges = np.array([x - w / 2, x + w / 2, y - h / 2, y + h / 2]) * [width, width, height, height]
                left, right, top, bottom = np.round(edges).astype(int)
                magenta = (batch.images[row, :, :, 0] > 127) & (batch.images[row, :, :, 1] < 60)
                assert magenta[top + 1 : bottom - 1, left + 1 : right - 1].all()
                around = magenta[top - 2 : bottom + 2, left - 2 : right + 2].copy()
                around[1:-1, 1:-1] = False
                assert not around.any()
        assert not found['boxes'][~batch.valid].any() and not found['targets'][~found['boxes']].any()


plain_loss = jax.jit(detection.anchor_loss, static_argnames=('anchors', 'strides', 'config'))


def image_by_image(model, variables, dataset, group):
    """Loss and components of every image of a data set, each a batch of its own, nothing padded."""
    spec = model.spec
    weights = detection.LossConfig(box=0.05, cls=0.5 * 2 / 80, obj=(SIZE / 640) ** 2)
    found = {}
    for batch in data.EvalBatches(dataset, SIZE, batch=1, group=group):
        heads = models.heads(model, variables, batch.images.astype(np.float32) / 255)
        height, width = batch.images.shape[1:3]
        (original,), (pad_x, pad_y) = batch.sizes, batch.pads[0]
        scaled = np.array([width - 2 * pad_x, height - 2 * pad_y])
        assert np.abs(scaled - original[::-1] * batch.gains[0]).max() < 1
        targets = batch.labels[0].copy()
        targets[:, 1:3] = (targets[:, 1:3] * scaled + batch.pads) / [width, height]
        targets[:, 3:] = targets[:, 3:] * scaled / [width, height]
        valid = np.ones((1, max(1, len(targets))), bool)
        if not len(targets):  # an array without rows cannot be gathered from
            targets, valid = np.zeros((1, 5), np.float32), ~valid
        loss, parts = plain_loss(
            heads, targets[None], valid, anchors=spec.anchors, strides=spec.strides, config=weights
        )
        found[int(batch.indices[0])] = np.array([loss, *parts])
    return np.array([found[index] for index in sorted(found)])


def test_a_cell_is_the_mean_loss_of_the_sliced_model(task, tmp_path):
    plans = _scan.plan_cells(task.model, task.variables, [0.5], layers=LAYERS)
    rows = _scan.scan_model(task, tmp_path / 'scan.jsonl', plans, ranking=('l2', 0))
    assert len(rows) == 2
    for row, plan in zip(rows, plans.values(), strict=True):
        small = models.Detector(task.model.spec.resize(pruning.widths(plan)))
        expected = image_by_image(small, jaxprune.slice(task.variables, plan), task.dataset, group=len(SHAPES))
        np.testing.assert_allclose([row[name] for name in FIGURES], expected.mean(axis=0), rtol=1e-4)
        assert {'parameters_published', 'gflops'} <= row.keys() and 'map50_95' not in row
    assert len({row['loss'] for row in rows}) == len(rows)


def test_a_table_goes_on_only_with_what_it_was_measured_by(task):
    assert len({dataclasses.replace(task, measured=name).digest() for name in ('map', 'loss', 'distance')}) == 3
    assert dataclasses.replace(task, settings=_scan_detection.NmsSettings(conf=0.1)).digest() == task.digest()


def test_a_table_goes_on_only_with_the_same_pictures(task):
    image, before = task.dataset.images[0], task.digest()
    content = image.read_bytes()
    cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    other = task.digest()
    image.write_bytes(content)
    assert other != before == task.digest()


def test_figures_are_weighted_means(task):
    statistics = {'loss': np.array([1, 2, 4], np.float32)}
    found = task.metric.figures(statistics, np.array([[1, 1, 1], [0, 3, 1]], np.float64))
    np.testing.assert_allclose(found['loss'], [7 / 3, 2.5])


def test_distance_is_that_of_the_raw_heads(task, tmp_path):
    chosen = dataclasses.replace(task, measured='distance')
    plans = _scan.plan_cells(task.model, task.variables, [0.5], layers=LAYERS)
    rows = _scan.scan_model(chosen, tmp_path / 'scan.jsonl', plans, ranking=('l2', 0))
    assert rows[0]['distance'] == 0
    masked, values = jaxprune.mask(task.variables, plans[18, 0.5]), []
    for batch in data.EvalBatches(task.dataset, SIZE, batch=1, group=len(SHAPES)):
        images = batch.images.astype(np.float32) / 255
        before, after = (
            np.concatenate([np.ravel(head) for head in models.heads(task.model, tree, images)])
            for tree in (task.variables, masked)
        )
        values.append(np.linalg.norm(after - before) / np.linalg.norm(before))
    assert rows[1]['distance'] == pytest.approx(np.mean(values), rel=1e-4)


def test_what_cannot_be_measured(task):
    with pytest.raises(UserError, match="'accuracy' cannot be measured: give one of map, loss, distance"):
        dataclasses.replace(task, measured='accuracy')
    with pytest.raises(UserError, match='0 images'):
        _scan_preview.gates(task, 0)
    for seed in (-1, 0.5):
        with pytest.raises(UserError, match=f'seed {seed}: give'):
            _scan_detection.drawn(task.dataset, 1, seed)
    for layers in ('18', 18):
        with pytest.raises(UserError, match=f'layers is {layers!r}: give a list'):
            _scan.plan_cells(task.model, task.variables, [0.5], layers=layers)


def test_gates_are_derivatives_of_the_loss(task):
    """Along the line from the weights to the masked ones, which nothing but `mask` defines."""
    evidence = _scan_preview.gates(task, 9)
    plans = _scan.plan_cells(task.model, task.variables, [0.5], layers=LAYERS)
    candidates = task.candidates(plans)
    rows = {(row['layer'], row['rate']): row for row in preview(candidates, evidence)}
    losses = ImageLoss.of(task.model.spec, SIZE)
    length = most_boxes(task.dataset)
    (spread,) = {len(gates) for gates in evidence.gates.values()}
    assert spread == len(SHAPES)

    @jax.jit
    def derivative(masked, images, labels):
        def along(t):
            mixed = jax.tree.map(lambda old, new: old + t * (new - old), task.variables, masked)
            heads = models.forward(task.model, mixed, images.astype(jnp.float32) / 255)
            return losses(heads, labels)['loss'][0]

        return jax.grad(along)(jnp.float32(0))

    for key, plan in plans.items():
        masked, values = jaxprune.mask(task.variables, plan), []
        for batch in data.EvalBatches(task.dataset, SIZE, batch=1, group=len(SHAPES)):
            values.append(float(derivative(masked, batch.images, padded_targets(batch, length))))
        assert rows[key]['taylor'] == pytest.approx(np.abs(values).mean(), rel=1e-3, abs=1e-9)
    assert rows[None, 0]['taylor'] == 0 < rows[18, 0.5]['taylor']


@pytest.fixture
def shared_data(request):
    """The fixture `data`, whose name is that of a module here."""
    return request.getfixturevalue('data')


@pytest.mark.slow
@pytest.mark.optimized
def test_it_ranks_a_trained_detectors_cells_as_the_full_table_does(find, shared_data, tmp_path):
    """The table is the original method's own: mAP50-95 of 165 cells on 87 images; the preview looks at 16."""
    table = json.loads(find('trained/sensitivity.json').read_text())['cells']
    pipeline.convert(find('trained/yolov7-tiny-bccd.pt'), tmp_path / 'model')
    model, variables = checkpoint.load(tmp_path / 'model')
    images = data.load_dataset(shared_data / 'bccd' / 'bccd.yaml', 'val')
    task = _scan_detection.DetectionScan(model, variables, images, 256, 32)
    candidates = task.candidates(_scan.plan_cells(model, variables, (0.25, 0.5, 0.75)))
    rows = {(row['layer'], row['rate']): row for row in preview(candidates, _scan_preview.gates(task, 16))}
    lost = [-cell['map50_95'] for cell in table]
    for column, least in (('taylor', 0.65), ('fisher', 0.8)):
        estimated = [rows[cell['layer'], cell['rate']][column] for cell in table]
        assert scipy.stats.spearmanr(estimated, lost).statistic > least, column
