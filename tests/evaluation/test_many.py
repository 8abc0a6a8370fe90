import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.errors import UserError
from jaxprune.evaluation import (
    Predictions,
    Targets,
    concatenate,
    detection_metrics,
    match,
    metrics,
    metrics_of_many,
    resampled_metrics,
)
from tests.evaluation._naive import naive_metric, scene

FIGURES = ('precision', 'recall', 'map50', 'map50_95')


def assert_same(found, expected, atol=1e-12):
    """All figures of two metrics, nan where the other is nan."""
    for name, value in vars(expected).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=0, atol=atol, err_msg=name)


def part(predictions, chosen):
    return Predictions(*(column[chosen] for column in vars(predictions).values()))


def written_out(predictions, targets, weights):
    """The resample as a data set of its own, in which every copy is an image: row by row, in plain Python."""
    numbers = iter(range(int(sum(weights))))
    copies = {image: [next(numbers) for _ in range(weight)] for image, weight in enumerate(weights)}

    def rows_of(table):
        rows = [(new, row) for row, image in enumerate(table.images.tolist()) for new in copies[image]]
        images, rows = (np.array([pair[axis] for pair in rows], np.int64) for axis in (0, 1))
        return images, *(column[rows] for name, column in vars(table).items() if name != 'images')

    return Predictions(*rows_of(predictions)), Targets(*rows_of(targets))


def resamples(seed, images, rows):
    """Weights from 0 to 3; the first row is the plain data set."""
    weights = np.random.default_rng(seed).integers(0, 4, (rows, images))
    weights[0] = 1
    return weights


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 4), st.integers(1, 25), st.booleans())
def test_a_resample_is_the_data_set_written_out(seed, images, classes, boxes, tied):
    predictions, targets = scene(seed, images=images, classes=classes, boxes=boxes, tied=tied)
    weights = resamples(seed, images, 4)
    stacked = resampled_metrics(predictions, targets, classes, weights)
    assert len(stacked) == 4
    for found, row in zip(stacked, weights.tolist(), strict=True):
        repeated = written_out(predictions, targets, row)
        assert_same(found, detection_metrics(*repeated, classes))
        assert found.targets.tolist() == np.bincount(repeated[1].classes, minlength=classes).tolist()


@pytest.mark.parametrize('seed', range(8))
def test_a_resample_by_the_naive_metric(seed):
    predictions, targets = scene(seed, images=4, classes=2, boxes=15, tied=seed % 2 == 1)
    weights = resamples(seed, 4, 3)
    for found, row in zip(resampled_metrics(predictions, targets, 2, weights), weights.tolist(), strict=True):
        curves, averages = naive_metric(*written_out(predictions, targets, row), 2, [found.confidence])
        expected = [*curves[:, 0].mean(axis=0), averages[:, 0].mean(), averages.mean()] if len(averages) else [0] * 4
        np.testing.assert_allclose([getattr(found, name) for name in FIGURES], expected, rtol=0, atol=1e-12)


def test_weights_of_one_are_the_plain_metric(original):
    predictions, targets, _ = original
    for weights in (np.ones((3, 87)), np.ones((1, 90), np.int64)):  # a number of images more has nothing in it
        for found in resampled_metrics(predictions, targets, 3, weights):
            assert_same(found, detection_metrics(predictions, targets, 3), atol=0)


def test_every_image_twice_is_nearly_once(original):
    """Average precision stays; precision and recall read between two detections see one more point there."""
    predictions, targets, _ = original
    once, twice = resampled_metrics(predictions, targets, 3, np.array([[1], [2]]).repeat(87, axis=1))
    np.testing.assert_allclose(twice.per_class_map50_95, once.per_class_map50_95, rtol=0, atol=1e-12)
    np.testing.assert_allclose([twice.precision, twice.recall], [once.precision, once.recall], rtol=0, atol=0.005)
    assert twice.targets.tolist() == (2 * once.targets).tolist()


def test_resamples_of_the_trained_model(original):
    predictions, targets, _ = original
    weights = np.random.default_rng(0).multinomial(87, np.full(87, 1 / 87), 300)
    stacked = resampled_metrics(predictions, targets, 3, weights)
    for index in (0, 299):  # the first and the last block
        repeated = written_out(predictions, targets, weights[index].tolist())
        assert_same(stacked[index], detection_metrics(*repeated, 3))
    plain = detection_metrics(predictions, targets, 3)
    low, high = np.quantile(stacked.map50_95, [0.025, 0.975])
    assert low < plain.map50_95 < high
    assert 0.03 < high - low < 0.12


def test_class_without_labels_in_a_resample_is_left_out_of_its_means():
    box = np.array([[0, 0, 10, 10]], np.float32)
    both = np.array([0, 1])
    targets = Targets(both, both, box.repeat(2, axis=0))
    predictions = Predictions(both[:1], both[:1], np.array([0.9], np.float32), box)
    plain, first, second, none = resampled_metrics(predictions, targets, 2, np.array([[1, 1], [1, 0], [0, 2], [0, 0]]))
    assert (plain.recall, first.recall, second.recall, none.recall) == (0.5, 1, 0, 0)
    assert first.per_class_recall.tolist()[0] == 1
    assert np.isnan(first.per_class_recall[1])
    assert np.isnan(none.per_class_map50_95).all()
    assert [first.targets.tolist(), second.targets.tolist(), none.targets.tolist()] == [[1, 0], [0, 2], [0, 0]]


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        (np.ones((2, 2)), r'their shape is \(2, 2\); give at least one row of 3'),
        (np.ones(3), 'their shape'),
        (np.ones((0, 3)), 'their shape'),
        (np.array([[1, 0.5, 1]]), r'0\.5 is not a number of copies'),
        (np.array([[1, -1, 1]]), '-1 is not a number of copies'),
        (np.array([[1, np.inf, 1]]), 'inf is not a number of copies'),
    ],
)
def test_weights_that_cannot_be_used(weights, message):
    with pytest.raises(UserError, match=message):
        resampled_metrics(*scene(0, images=3), 3, weights)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4), st.integers(1, 25), st.booleans())
def test_many_candidates_are_each_as_alone(seed, count, classes, boxes, tied):
    predictions, targets = scene(seed, classes=classes, boxes=boxes, tied=tied)
    candidates = np.random.default_rng(seed).integers(0, count, len(predictions))  # mixed, some without detections
    stacked = metrics_of_many(predictions, targets, classes, candidates, count=count + 1)
    correct = match(predictions, targets, candidates=candidates)
    assert len(stacked) == count + 1
    for index, found in enumerate(stacked):
        mine = part(predictions, candidates == index)
        assert_same(found, detection_metrics(mine, targets, classes))
        np.testing.assert_array_equal(correct[candidates == index], match(mine, targets))


@pytest.mark.parametrize('cells', [1, 20_000, 1 << 30])
def test_blocks_of_any_size_give_the_same(monkeypatch, cells):
    predictions, targets = scene(3, images=4, boxes=30)
    candidates, weights = np.arange(len(predictions)) % 7, resamples(0, 4, 9)
    expected = metrics_of_many(predictions, targets, 3, candidates, count=7)
    resampled = resampled_metrics(predictions, targets, 3, weights)
    monkeypatch.setattr(metrics, 'MAX_CELLS', cells)
    assert_same(metrics_of_many(predictions, targets, 3, candidates, count=7), expected, atol=0)
    assert_same(resampled_metrics(predictions, targets, 3, weights), resampled, atol=0)


def test_candidates_without_any_detections():
    targets = scene(0)[1]
    stacked = metrics_of_many(concatenate([]), targets, 3, np.zeros(0, np.int64), count=2)
    assert [(found.map50_95, found.precision) for found in stacked] == [(0, 0), (0, 0)]


@pytest.mark.parametrize('number', [-1, 2])
def test_numbers_of_candidates_that_do_not_exist(number):
    predictions, targets = scene(0)
    with pytest.raises(UserError, match='for 2 candidates'):
        metrics_of_many(predictions, targets, 3, np.full(len(predictions), number), count=2)


def test_memory_does_not_grow_with_the_resamples(original):
    predictions, targets, _ = original

    def peak(rows):
        tracemalloc.start()
        resampled_metrics(predictions, targets, 3, np.ones((rows, 87), np.int64))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(100) < 1.1 * peak(25)
