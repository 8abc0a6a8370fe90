import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxprune.data import EvalBatches, label_boxes, load_dataset
from jaxprune.evaluation import (
    Predictions,
    Targets,
    coco_metrics,
    coco_results,
    collect,
    concatenate,
    detection_metrics,
    evaluate_results,
)


@dataclasses.dataclass(frozen=True)
class Truth:
    """A data set of two images and two categories."""

    annotations: list
    image_ids: tuple = (4, 9)
    category_ids: tuple = (1, 5)

    def coco_ground_truth(self):
        return {
            'images': [{'id': index, 'height': 100, 'width': 100} for index in self.image_ids],
            'categories': [{'id': index, 'name': str(index)} for index in self.category_ids],
            'annotations': [{'id': n, **row} for n, row in enumerate(self.annotations, 1)],
        }


def row(image, category, box, crowd=0):
    return {'image_id': image, 'category_id': category, 'bbox': box, 'area': box[2] * box[3], 'iscrowd': crowd}


def found(*rows):
    images, classes, scores, boxes = zip(*rows, strict=True)
    return Predictions(
        np.array(images), np.array(classes), np.array(scores, np.float32), np.array(boxes, np.float32).reshape(-1, 4)
    )


def test_perfect_detections():
    truth = Truth([row(4, 1, [10, 10, 50, 50]), row(9, 5, [0, 0, 20, 20])])
    metrics = coco_metrics(truth, found((0, 0, 0.9, (10, 10, 60, 60)), (1, 1, 0.8, (0, 0, 20, 20))))
    figures = [metrics.map50_95, metrics.recall_100, metrics.map_small, metrics.map_medium]
    assert figures == pytest.approx([1, 1, 1, 1])
    assert metrics.map_large == -1


def test_crowds_are_no_false_positives():
    box = (10, 10, 60, 60)
    crowd = Truth([row(4, 1, [0, 0, 20, 20]), row(4, 1, [10, 10, 50, 50], crowd=1)])
    nothing = Truth([row(4, 1, [0, 0, 20, 20])])
    detections = found((0, 0, 0.9, box), (0, 0, 0.8, (0, 0, 20, 20)))
    assert coco_metrics(crowd, detections).map50_95 == pytest.approx(1)
    assert coco_metrics(nothing, detections).map50_95 == pytest.approx(0.5)


def test_no_detections(capfd):
    metrics = coco_metrics(Truth([row(4, 1, [10, 10, 50, 50])]), concatenate([]))
    assert (metrics.map50_95, metrics.recall_100, metrics.map_large) == (0, 0, -1)
    assert capfd.readouterr().out == ''


def test_results_have_ids_and_rounded_numbers():
    results = coco_results(Truth([]), found((1, 1, 0.1234567, (1.23456, 2, 11.5, 22.25))))
    expected = {'image_id': 9, 'category_id': 5, 'bbox': [1.235, 2.0, 10.265, 20.25], 'score': 0.12346}
    assert results == [expected]
    json.dumps(results)


def test_annotation_ids_from_0_match_too(data, tmp_path):
    """Pycocotools takes id 0 for no match: on the file as it is, one perfect detection would be lost."""
    source = json.loads((data / 'bccd' / 'annotations' / 'instances_val.json').read_text())
    first = source['images'][0]['id']
    source['images'] = source['images'][:1]
    source['annotations'] = [a for a in source['annotations'] if a['image_id'] == first]
    for index, annotation in enumerate(source['annotations']):
        annotation['id'] = index
    (tmp_path / 'val.json').write_text(json.dumps(source))
    folder = (data / 'bccd' / 'images' / 'val').resolve()
    (tmp_path / 'set.yaml').write_text(
        f'path: {folder.parent}\nval: {folder}\nannotations: {{val: {tmp_path}/val.json}}\n'
    )
    dataset = load_dataset(tmp_path / 'set.yaml')
    images, classes, boxes = label_boxes(dataset, 640)
    perfect = Predictions(images, classes, np.linspace(0.9, 0.5, len(images)).astype(np.float32), boxes)
    assert coco_metrics(dataset, perfect).map50_95 == pytest.approx(1)


def test_detections_go_back_to_the_original_pixels(data):
    """The labels, put into network pixels by the batch's own numbers, come back as perfect detections."""
    dataset = load_dataset(data / 'bccd' / 'bccd.yaml')
    parts = []
    for batch in EvalBatches(dataset, 128, batch=8):
        most = max(len(rows) for rows in batch.labels)
        padded = np.stack([np.pad(rows, ((0, most - len(rows)), (0, 0)), constant_values=-1) for rows in batch.labels])
        scale = np.tile(batch.sizes[:, ::-1] * batch.gains[:, None], 2)[:, None]
        cx, cy, w, h = np.moveaxis(padded[..., 1:] * scale, -1, 0)
        corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1) + np.tile(batch.pads, 2)[:, None]
        detections = dataclasses.make_dataclass('Found', ['boxes_xyxy', 'scores', 'classes', 'valid'])(
            corners, np.full(padded.shape[:2], 0.9), padded[..., 0], padded[..., 0] >= 0
        )
        parts.append(collect(detections, batch))
    predictions, targets = concatenate(parts), Targets(*label_boxes(dataset, 128))
    assert len(predictions) == len(targets)
    result = detection_metrics(predictions, targets, dataset.classes)
    assert result.map50_95 == pytest.approx(1, abs=1e-6)
    assert coco_metrics(dataset, predictions).map50_95 == pytest.approx(1, abs=1e-6)


def test_filling_rows_and_invalid_detections_are_left_out():
    frames = dataclasses.make_dataclass('Frames', ['valid', 'indices', 'sizes', 'gains', 'pads'])(
        np.array([True, False]),
        np.array([3, -1]),
        np.array([[50, 100], [1, 1]]),
        np.array([0.5, 1], np.float32),
        np.array([[0, 8], [0, 0]], np.float32),
    )
    boxes = np.array([[[10, 18, 60, 28], [0, 0, 1, 1]], [[0, 0, 1, 1]] * 2], np.float32)
    detections = dataclasses.make_dataclass('Found', ['boxes_xyxy', 'scores', 'classes', 'valid'])(
        boxes, np.full((2, 2), 0.5), np.array([[2, 0], [0, 0]], np.int32), np.array([[True, False], [True, True]])
    )
    result = collect(detections, frames)
    assert (result.images.tolist(), result.classes.tolist()) == ([3], [2])
    np.testing.assert_allclose(result.boxes_xyxy, [[20, 20, 100, 40]])  # 120 is cut at the right edge


@pytest.mark.parametrize('layout', ['yolo', 'coco'])
def test_figures_of_the_original_with_the_whole_set(golden, data, tmp_path, layout):
    """The published detections as they are; pycocotools' figures must be the same to the last digit."""
    file = golden / 'trained' / 'detections.json'
    if not file.is_file():
        pytest.skip('the full list of detections is not beside this checkout; the small copy is tested elsewhere')
    described = data / 'bccd' / 'bccd.yaml'
    if layout == 'coco':
        described = tmp_path / 'set.yaml'
        described.write_text(f'path: {(data / "bccd").resolve()}\nval: annotations/instances_val.json\n')
    dataset = load_dataset(described)
    rows = json.loads(file.read_text())
    box = np.array([row['bbox'] for row in rows])
    predictions = Predictions(
        np.array([row['image_id'] for row in rows]),
        np.array([row['category_id'] for row in rows]),
        np.array([row['score'] for row in rows], np.float32),
        np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1).astype(np.float32),
    )
    figures = json.loads((golden / 'trained' / 'metrics.json').read_text())
    coco = list(vars(coco_metrics(dataset, predictions)).values())
    np.testing.assert_allclose(coco, figures['pycocotools']['all'], rtol=0, atol=1e-6)
    own = detection_metrics(predictions, Targets(*label_boxes(dataset, 256)), dataset.classes)
    for name in ('precision', 'recall', 'map50', 'map50_95'):
        assert getattr(own, name) == pytest.approx(figures['own_metric'][name], abs=5e-4), name


def by_pycocotools(truth, results):
    common = {'images': truth['images'], 'categories': truth['categories']}
    rows = [
        {**row, 'id': index, 'iscrowd': 0, 'area': row['bbox'][2] * row['bbox'][3]}
        for index, row in enumerate(results, 1)
    ]
    both = [COCO(), COCO()]
    with contextlib.redirect_stdout(io.StringIO()):
        for coco, content in zip(both, (truth, {**common, 'annotations': rows}), strict=True):
            coco.dataset = content
            coco.createIndex()
        evaluation = COCOeval(*both, 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def any_side(rng):
    return np.exp(rng.uniform(1, 5.7, 2))


SIDES = {
    'of all sizes': any_side,
    'between the ranges of area': lambda rng: np.full(2, rng.choice([31.9, 32, 32.1, 95.9, 96, 96.1])),
    'large only': lambda rng: rng.uniform(97, 300, 2),
    'without area': lambda rng: rng.choice([0.0, 5.0, 40.0], 2),
}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """How sets are drawn; labels and detections are the most per image, decimals those of the scores."""

    sides: str = 'of all sizes'
    classes: int = 3
    labels: int = 12
    detections: int = 40
    crowds: float = 0.05
    decimals: int = 5

    def make(self, rng):
        images = rng.choice(10_000, rng.integers(1, 9), replace=False).tolist()
        classes = (1 + rng.choice(200, self.classes, replace=False)).tolist()
        truth = [label for image in images for label in self._labels(rng, image, classes)]
        results = [found for image in images for found in self._found(rng, image, classes, truth)]
        rng.shuffle(results)
        content = {
            'images': [{'id': image, 'height': 600, 'width': 600} for image in images],
            'categories': [{'id': kind, 'name': str(kind)} for kind in classes],
            'annotations': [{'id': index, **label} for index, label in enumerate(truth, 1)],
        }
        return content, results

    def _label(self, rng, image, classes):
        sides = SIDES[self.sides](rng).round(1)
        return {
            'image_id': image,
            'category_id': int(rng.choice(classes)),
            'bbox': [*rng.uniform(0, 300, 2).round(1).tolist(), *sides.tolist()],
            'area': float(sides.prod() * rng.choice([1, rng.uniform(0.3, 1)])),  # an outline's may be smaller
            'iscrowd': int(rng.random() < self.crowds),
        }

    def _labels(self, rng, image, classes):
        count = rng.integers(self.labels + 1) * (rng.random() > 0.2)
        return [self._label(rng, image, classes) for _ in range(count)]

    def _found(self, rng, image, classes, truth):
        here = [label for label in truth if label['image_id'] == image]
        for _ in range(rng.integers(self.detections + 1) * (rng.random() > 0.15)):
            label = self._label(rng, image, classes)
            if here and rng.random() < 0.7:
                label = here[rng.integers(len(here))]
            box = np.array(label['bbox'])
            box += rng.normal(size=4) * rng.choice([0, 0.02, 0.1, 0.3]) * np.tile(box[2:], 2)
            box[2:] = np.maximum(box[2:], 0)
            score = round(float(rng.random()), self.decimals)
            yield {
                'image_id': image,
                'category_id': label['category_id'],
                'bbox': box.round(3).tolist(),
                'score': score,
            }


@pytest.mark.parametrize(
    ('drawn', 'sets'),
    [
        (Drawn(), 20),
        (Drawn(sides='between the ranges of area'), 20),
        (Drawn(sides='large only'), 10),
        (Drawn(sides='without area'), 10),
        (Drawn(crowds=0.3), 20),
        (Drawn(decimals=1), 20),  # many equal scores
        (Drawn(classes=40), 10),
        (Drawn(classes=1, labels=60, detections=400, decimals=2), 5),  # more than the 100 that count
        (Drawn(labels=0), 3),
        (Drawn(detections=0), 3),
    ],
    ids=str,
)
def test_figures_are_those_of_pycocotools(drawn, sets):
    rng = np.random.default_rng(7)
    for _ in range(sets):
        truth, results = drawn.make(rng)
        figures = list(vars(evaluate_results(truth, results)).values())
        np.testing.assert_allclose(figures, by_pycocotools(truth, results), rtol=0, atol=1e-12)


def test_drawn_sets_have_what_they_are_for():
    """Else the comparison would show nothing."""
    rng = np.random.default_rng(7)
    truth, results = Drawn(sides='large only').make(rng)
    metrics = evaluate_results(truth, results)
    assert (metrics.map_small, metrics.recall_small) == (-1, -1)
    assert 0.1 < metrics.map50_95 < metrics.map50 < 1
    truth, results = Drawn(classes=1, labels=60, detections=400, decimals=2).make(rng)
    assert max(np.unique([row['image_id'] for row in results], return_counts=True)[1]) > 100
    assert len({row['score'] for row in results}) < len(results)
    truth, _ = Drawn(crowds=0.3).make(rng)
    assert {label['iscrowd'] for label in truth['annotations']} == {0, 1}
