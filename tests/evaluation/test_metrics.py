import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.evaluation import Predictions, Targets, _matching, concatenate, detection_metrics, evaluate_results, match
from tests.evaluation._naive import naive_match, naive_metric, scene


def check_against_naive(predictions, targets, classes):
    result = detection_metrics(predictions, targets, classes)
    curves, averages = naive_metric(predictions, targets, classes, [result.confidence])
    present = ~np.isnan(result.per_class_map50_95)
    assert present.tolist() == [bool((targets.classes == kind).any()) for kind in range(classes)]
    if not present.any():
        assert (result.precision, result.recall, result.map50, result.map50_95) == (0, 0, 0, 0)
        return
    np.testing.assert_allclose(result.per_class_map50_95[present], averages.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(result.per_class_map50[present], averages[:, 0], atol=1e-12)
    np.testing.assert_allclose([result.map50, result.map50_95], [averages[:, 0].mean(), averages.mean()], atol=1e-12)
    np.testing.assert_allclose([result.precision, result.recall], curves[:, 0].mean(axis=0), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 20), st.booleans())
def test_same_as_the_naive_metric(seed, classes, boxes, tied):
    check_against_naive(*scene(seed, classes=classes, boxes=boxes, tied=tied), classes)


@pytest.mark.parametrize('seed', range(3))
def test_confidence_maximises_the_mean_f1(seed):
    predictions, targets = scene(seed, classes=2, boxes=10)
    levels = np.linspace(0, 1, 1000)
    curves, _ = naive_metric(predictions, targets, 2, levels)
    precision, recall = curves[..., 0], curves[..., 1]
    f1 = (2 * precision * recall / (precision + recall + 1e-16)).mean(axis=0)
    assert f1.max() > 0.1
    assert detection_metrics(predictions, targets, 2).confidence == pytest.approx(levels[np.argmax(f1)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40))
def test_matching_is_the_naive_matching(seed, boxes):
    predictions, targets = scene(seed, boxes=boxes, images=2, classes=2)
    won = naive_match(predictions, targets)
    expected = won[:, None] > np.linspace(0.5, 0.95, 10, dtype=np.float32)
    np.testing.assert_array_equal(match(predictions, targets), expected)


def test_matching_in_parts_is_the_same(monkeypatch):
    predictions, targets = scene(5, boxes=40)
    whole = match(predictions, targets)
    monkeypatch.setattr(_matching, 'MAX_PAIRS', 7)
    assert whole.any()
    np.testing.assert_array_equal(match(predictions, targets), whole)


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ('found', 'labels', 'expected'),
    [
        pytest.param(boxes([0, 0, 10, 10], [0, 0, 10, 10]), boxes([0, 0, 10, 10]), [10, 0], id='second is too late'),
        pytest.param(boxes([0, 0, 10, 5]), boxes([0, 0, 10, 10]), [0], id='exactly 0.5 is not enough'),
        pytest.param(boxes([0, 0, 10, 7.6]), boxes([0, 0, 10, 10]), [6], id='0.76 passes six thresholds'),
        pytest.param(
            boxes([0, 0, 10, 10], [0, 0, 10, 9]),
            boxes([0, 0, 10, 10], [0, 0, 10, 6]),
            [10, 0],
            id='only the best target',
        ),
        pytest.param(boxes([5, 5, 5, 5]), boxes([5, 5, 5, 5]), [0], id='boxes without area'),
    ],
)
def test_one_class_in_one_image(found, labels, expected):
    zeros = np.zeros(9, np.int64)
    scores = np.linspace(0.9, 0.5, len(found)).astype(np.float32)
    correct = match(
        Predictions(zeros[: len(found)], zeros[: len(found)], scores, found),
        Targets(zeros[: len(labels)], zeros[: len(labels)], labels),
    )
    assert correct.sum(axis=1).tolist() == expected


def test_other_classes_and_images_do_not_match():
    box = boxes([0, 0, 10, 10])
    one, zero = np.array([1]), np.array([0])
    score = np.array([0.5], np.float32)
    assert match(Predictions(zero, zero, score, box), Targets(zero, zero, box)).all()
    assert not match(Predictions(one, zero, score, box), Targets(zero, zero, box)).any()
    assert not match(Predictions(zero, one, score, box), Targets(zero, zero, box)).any()
    assert not match(Predictions(zero, np.array([3]), score, box), Targets(one, zero, box)).any()


def test_no_detections():
    result = detection_metrics(concatenate([]), scene(0)[1], 3)
    assert (result.precision, result.recall, result.map50, result.map50_95) == (0, 0, 0, 0)
    assert result.targets.sum() == len(scene(0)[1])


def test_no_targets_at_all():
    nothing = Targets(np.zeros(0, np.int64), np.zeros(0, np.int64), boxes())
    result = detection_metrics(scene(0)[0], nothing, 3)
    assert (result.precision, result.recall, result.map50, result.map50_95) == (0, 0, 0, 0)
    assert np.isnan(result.per_class_map50_95).all()


def test_class_without_targets_is_left_out_of_the_means():
    predictions, targets = scene(1, classes=2, boxes=20)
    narrow, wide = (detection_metrics(predictions, targets, classes) for classes in (2, 4))
    assert (narrow.map50_95, narrow.precision) == (wide.map50_95, wide.precision)
    assert wide.to_json()['per_class_map50_95'] == [*narrow.per_class_map50_95.tolist(), None, None]
    assert json.loads(json.dumps(wide.to_json()))['targets'][2:] == [0, 0]


def test_perfect_detections():
    targets = scene(2, boxes=30)[1]
    scores = np.linspace(0.99, 0.5, len(targets)).astype(np.float32)
    perfect = Predictions(targets.images, targets.classes, scores, targets.boxes_xyxy)
    result = detection_metrics(perfect, targets, 3)
    assert (result.precision, result.recall) == (1, 1)
    assert math.isclose(result.map50_95, 1, abs_tol=1e-9)


def test_figures_of_the_original(original):
    predictions, targets, figures = original
    result = detection_metrics(predictions, targets, 3)
    for name in ('precision', 'recall', 'map50', 'map50_95'):
        assert getattr(result, name) == pytest.approx(figures['own_metric'][name], abs=0.002), name
    np.testing.assert_allclose(result.per_class_map50_95, figures['own_metric']['per_class_map50_95'], atol=0.002)


def as_rows(part):
    """COCO annotations, numbered from 1."""
    sides = part.boxes_xyxy[:, 2:] - part.boxes_xyxy[:, :2]
    boxes_ltwh = np.concatenate([part.boxes_xyxy[:, :2], sides], axis=1).tolist()
    columns = zip(part.images.tolist(), part.classes.tolist(), boxes_ltwh, sides.prod(axis=1).tolist(), strict=True)
    return [
        {'id': index, 'image_id': image, 'category_id': kind, 'bbox': box, 'area': area, 'iscrowd': 0}
        for index, (image, kind, box, area) in enumerate(columns, 1)
    ]


def test_figures_of_the_original_by_pycocotools(original):
    predictions, targets, figures = original
    rows = zip(as_rows(predictions), predictions.scores.tolist(), strict=True)
    truth = {
        'images': [{'id': index} for index in range(87)],
        'categories': [{'id': index, 'name': str(index)} for index in range(3)],
        'annotations': as_rows(targets),
    }
    result = evaluate_results(truth, [row | {'score': score} for row, score in rows])
    np.testing.assert_allclose(list(vars(result).values()), figures['pycocotools']['all'], atol=0.002)


def test_fast_enough_to_be_called_for_every_cell_of_a_scan(original):
    predictions, targets, _ = original
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        detection_metrics(predictions, targets, 3)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.15
