"""Box arithmetic against PyTorch's autograd (arrays made once) and pycocotools."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask

from jaxprune.detection import ciou, iou_matrix, xywh_to_xyxy, xyxy_to_xywh

# Origin: the formula of the paper with PyTorch 2.13's autograd in float64; `gradient_a` is that of the sum.
CIOU = pathlib.Path(__file__).parent.parent / 'golden' / 'detection' / 'ciou.npz'


def random_boxes(seed, count):
    low, size = np.split(np.random.default_rng(seed).uniform(0, 30, (count, 4)).astype(np.float32), 2, axis=1)
    return np.concatenate([low, low + size], axis=1)


def test_formats_by_hand():
    np.testing.assert_array_equal(xywh_to_xyxy(jnp.array([[10.0, 20.0, 4.0, 6.0]])), [[8, 17, 12, 23]])


def test_formats_round_trip():
    boxes = random_boxes(0, 50).reshape(5, 10, 4)
    np.testing.assert_allclose(xywh_to_xyxy(xyxy_to_xywh(jnp.asarray(boxes))), boxes, atol=1e-5)


def test_iou_matrix_is_that_of_pycocotools():
    a, b = random_boxes(1, 40), random_boxes(2, 30)
    as_coco = [
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64) for boxes in (a, b)
    ]
    expected = mask.iou(*as_coco, np.zeros(len(b), np.uint8))
    assert (expected > 0).mean() > 0.1
    np.testing.assert_allclose(iou_matrix(jnp.asarray(a), jnp.asarray(b)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ('a', 'b', 'expected'),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1),  # the same
        ([0, 0, 2, 2], [2, 0, 4, 2], 0),  # touching
        ([1, 1, 1, 1], [1, 1, 1, 1], 0),  # no area, no union
        ([0, 0, 4, 4], [1, 1, 3, 3], 0.25),  # inside
    ],
)
def test_iou_by_hand(a, b, expected):
    boxes = [jnp.array([box], jnp.float32) for box in (a, b)]
    assert float(iou_matrix(*boxes)[0, 0]) == expected


def test_ciou_and_its_gradient_are_those_of_pytorch():
    known = np.load(CIOU)
    a, b = jnp.asarray(known['a_xywh']), jnp.asarray(known['b_xywh'])
    np.testing.assert_allclose(ciou(a, b), known['ciou'], atol=2e-6)
    np.testing.assert_allclose(jax.grad(lambda a: ciou(a, b).sum())(a), known['gradient_a'], atol=2e-5)


def test_ciou_of_boxes_without_area_is_finite():
    a, b = jnp.zeros((1, 4)), jnp.array([[3.0, 4.0, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda a: ciou(a, b).sum())(a)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
