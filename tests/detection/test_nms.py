"""Non-maximum suppression against the PyTorch YOLOv7 and against a plain greedy loop."""

import importlib.util
import pathlib

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.detection import _nms, nms
from jaxprune.detection._suppression import Limits
from jaxprune.errors import UserError

_spec = importlib.util.spec_from_file_location('_greedy', pathlib.Path(__file__).parent / '_greedy.py')
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
greedy_nms = _module.greedy_nms

SETTINGS = {
    'conf.001_iou.65_multi': {'conf': 0.001, 'iou': 0.65, 'multi_label': True},
    'conf.25_iou.45': {'conf': 0.25, 'iou': 0.45, 'multi_label': False},
    'conf.1_iou.5_agnostic': {'conf': 0.1, 'iou': 0.5, 'multi_label': False, 'agnostic': True},
    'conf.1_iou.5_classes02': {'conf': 0.1, 'iou': 0.5, 'multi_label': False, 'classes': (0, 2)},
}


def rows(detections, image):
    """Detections of one image as [n, 6]; checks that the places behind them are empty."""
    boxes, scores, classes, valid = (
        np.asarray(array[image])
        for array in (detections.boxes_xyxy, detections.scores, detections.classes, detections.valid)
    )
    count = valid.sum()
    assert valid[:count].all()
    assert (classes[count:] == -1).all()
    assert not boxes[count:].any()
    assert not scores[count:].any()
    return np.concatenate([boxes, scores[:, None], classes[:, None].astype(np.float32)], axis=1)[:count]


def predictions(seed, count, classes, *, spread=100.0, power=1):
    draw = np.random.default_rng(seed).uniform
    parts = [draw(0, spread, (count, 2)), draw(5, 40, (count, 2)), draw(0, 1, (count, 1 + classes)) ** power]
    return np.concatenate(parts, axis=1).astype(np.float32)


@pytest.mark.optimized
@pytest.mark.parametrize('setting', SETTINGS)
def test_detections_are_those_of_the_original(golden, setting):
    known = np.load(golden / 'trained' / 'nms.npz')
    detections = nms(jnp.asarray(known['input']), **SETTINGS[setting])
    for image in range(len(known['input'])):
        expected = known[f'out{image}_{setting}']
        found = rows(detections, image)
        np.testing.assert_array_equal(found[:, 5], expected[:, 5])
        np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=1e-3)
        np.testing.assert_allclose(found[:, 4], expected[:, 4], atol=1e-6)


# Small chunks and blocks, so that few boxes go through every loop; the last case takes everything at once.
LIMITS = [
    Limits(True, False, None, 30000, 300, chunk=8, block=4),
    Limits(True, True, None, 30, 5, chunk=8, block=8),
    Limits(False, False, (0, 2), 30000, 300, chunk=8, block=4),
    Limits(False, True, None, 7, 4, chunk=4, block=2),
    Limits(True, False, (1,), 30000, 300),
]
# Whole pixels and few levels of confidence: many ties, boxes without area, boxes on top of each other.
BOXES = arrays.arrays(np.int8, (20, 2), elements=st.integers(0, 12))
SIZES = arrays.arrays(np.int8, (20, 2), elements=st.integers(0, 8))
CONFIDENCES = arrays.arrays(np.int8, (20, 4), elements=st.integers(0, 8))


@pytest.mark.parametrize('limits', LIMITS)
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(BOXES, SIZES, CONFIDENCES, st.sampled_from([0.0, 0.25, 0.6]), st.sampled_from([0.0, 0.3, 0.5, 0.99]))
def test_detections_are_those_of_a_plain_loop(limits, boxes, sizes, confidences, conf, iou):
    image = np.concatenate([boxes, sizes * 2, confidences / 8], axis=1).astype(np.float32)
    detections = _nms._batched(jnp.asarray(image[None]), jnp.float32(conf), _nms._round_down(iou), limits=limits)
    names = ('multi_label', 'agnostic', 'classes', 'candidates', 'detections')
    expected = greedy_nms(image, conf=conf, iou=iou, **dict(zip(names, limits, strict=False)))
    np.testing.assert_array_equal(rows(detections, 0), expected)


@pytest.mark.parametrize('classes', [1, 2, 7])
@pytest.mark.parametrize('multi_label', [True, False])
def test_many_boxes(classes, multi_label):
    images = np.stack([predictions(seed, 3000, classes, spread=400, power=3) for seed in range(2)])
    detections = nms(jnp.asarray(images), conf=0.01, iou=0.45, multi_label=multi_label)
    for index, image in enumerate(images):
        expected = greedy_nms(image, conf=0.01, iou=0.45, multi_label=multi_label and classes > 1)
        np.testing.assert_allclose(rows(detections, index), expected, atol=1e-5)


def test_more_candidates_than_the_limit():
    # One heap of 31,500 candidates; those of lowest confidence stand apart and would be kept if they were looked at.
    image = predictions(3, 10500, 3, spread=2)
    image[:, 4:] = 0.5 + image[:, 4:] / 2
    image[::10, :2] += np.arange(1050)[:, None] * 50
    image[::10, 4] = np.linspace(0.3, 0.2, 1050)
    settings = {'conf': 0.01, 'iou': 0.1, 'multi_label': True}
    expected = greedy_nms(image, **settings, detections=2000)
    assert len(expected) < len(greedy_nms(image, **settings, candidates=40000, detections=4000))
    detections = nms(jnp.asarray(image[None]), **settings, max_detections=2000)
    np.testing.assert_allclose(rows(detections, 0), expected, atol=1e-3)


def test_a_suppressed_box_suppresses_nothing():
    # A row of boxes, each overlapping the next too much but not the one after it: every other one stays.
    image = np.tile(np.float32([0, 50, 10, 10, 0, 1, 0]), (300, 1))
    image[:, 0], image[:, 4] = np.arange(300) * 3, np.linspace(1, 0.5, 300)
    found = rows(nms(jnp.asarray(image[None]), conf=0.1, iou=0.5, multi_label=False), 0)
    np.testing.assert_array_equal(found[:, 0], np.arange(0, 300, 2) * 3 - 5)


def test_nothing_to_detect():
    detections = nms(jnp.zeros((2, 10, 8)), conf=0.1, iou=0.5, multi_label=True)
    assert detections.boxes_xyxy.shape == (2, 300, 4)
    assert not detections.valid.any()


def test_images_of_a_batch_do_not_wait_for_each_other():
    full, empty = predictions(4, 50, 3), np.zeros((50, 8), np.float32)
    batched = nms(jnp.asarray(np.stack([empty, full, empty])), conf=0.01, iou=0.5, multi_label=True)
    alone = nms(jnp.asarray(full[None]), conf=0.01, iou=0.5, multi_label=True)
    np.testing.assert_array_equal(rows(batched, 1), rows(alone, 0))
    assert not batched.valid[jnp.array([0, 2])].any()


def test_equal_confidences_keep_their_order():
    image = predictions(5, 40, 3, spread=2000)
    image[:, 4:] = 0.5
    found = rows(nms(jnp.asarray(image[None]), conf=0.1, iou=0.9, multi_label=True), 0)
    np.testing.assert_allclose(found[:, 0], np.repeat(image[:, 0] - image[:, 2] / 2, 3), atol=1e-3)
    np.testing.assert_array_equal(found[:, 5], np.tile(np.arange(3), 40))


def test_classes_do_not_meet_in_very_large_images():
    # 4096 pixels apart and one class apart: on top of each other if classes were only told apart by an offset.
    image = np.array([[5000, 50, 60, 60, 0.9, 0.9, 0], [904, 50 - 4096, 60, 60, 0.8, 0, 0.9]], np.float32)
    assert len(rows(nms(jnp.asarray(image[None]), conf=0.1, iou=0.5, multi_label=True), 0)) == 2


def test_confidence_of_one_class_is_objectness():
    image = np.array([[50, 50, 60, 60, 0.75, 0.5]], np.float32)
    found = rows(nms(jnp.asarray(image[None]), conf=0.7, iou=0.5, multi_label=True), 0)
    np.testing.assert_array_equal(found, [[20, 20, 80, 80, 0.75, 0]])


def test_vmap_over_candidates():
    stack = jnp.asarray(np.stack([[predictions(seed + 10 * rate, 60, 3) for seed in range(2)] for rate in range(3)]))
    settings = {'conf': 0.05, 'iou': 0.5, 'multi_label': True}
    mapped = jax.jit(jax.vmap(lambda decoded: nms(decoded, **settings)))(stack)
    for rate in range(3):
        alone = nms(stack[rate], **settings)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda leaf, rate=rate: leaf[rate], mapped), alone)


def test_compiled_once_per_shape():
    decoded = jnp.asarray(predictions(6, 33, 3)[None])
    nms(decoded, conf=0.1, iou=0.5, multi_label=True)
    compiled = _nms._batched._cache_size()
    for conf, iou in [(0.2, 0.5), (0.001, 0.65), (0.3, 0.1)]:
        nms(decoded + 1, conf=conf, iou=iou, multi_label=True)
    assert _nms._batched._cache_size() == compiled
    nms(decoded[:, :-1], conf=0.1, iou=0.5, multi_label=True)
    assert _nms._batched._cache_size() == compiled + 1


def test_unknown_class():
    with pytest.raises(UserError, match='class 3 does not exist: the model has the classes 0 to 2'):
        nms(jnp.zeros((1, 4, 8)), conf=0.1, iou=0.5, multi_label=True, classes=(0, 3))


@pytest.mark.parametrize('threshold', [0.1, 0.45, 0.5, 0.65, 0.7, 1.0])
def test_thresholds_round_down(threshold):
    rounded = np.asarray(_nms._round_down(threshold))
    assert float(rounded) <= threshold < float(np.nextafter(rounded, np.float32(2)))
