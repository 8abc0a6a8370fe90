"""The loss against what the PyTorch YOLOv7 computed, and what its padding and its matching must keep to."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.detection import LossConfig, _assign, anchor_loss

ANCHORS = (((10.0, 13.0), (16.0, 30.0)), ((30.0, 61.0), (62.0, 45.0)))
STRIDES = (8, 16)

match = jax.jit(_assign.match, static_argnums=(3, 4))
winners = jax.jit(_assign.winners, static_argnums=1)


def pad(rows, images, length):
    """Rows (image, class, box) to padded targets; the padding is NaN, which must never matter."""
    targets = np.full((images, length, 5), np.nan, np.float32)
    valid = np.zeros((images, length), bool)
    for image in range(images):
        own = rows[rows[:, 0] == image, 1:]
        targets[image, : len(own)] = own
        valid[image, : len(own)] = True
    return jnp.asarray(targets), jnp.asarray(valid)


def ours(array):
    """PyTorch's `[b, a, h, w, p]` as `[b, h, w, a, p]`."""
    return jnp.asarray(np.moveaxis(array, 1, 3))


@pytest.fixture(params=['anchor', 'anchor-smooth-focal'])
def case(request, golden):
    arrays = dict(np.load(golden / 'loss' / f'{request.param}.npz'))
    hyper = json.loads((golden / 'loss' / f'{request.param}.json').read_text())['hyp']
    hyper.pop('iou_t')
    return arrays, LossConfig(**hyper)


@pytest.mark.optimized
def test_loss_and_gradients_are_the_originals(case):
    arrays, config = case
    heads = [ours(arrays[f'pred{i}']) for i in range(3)]
    targets, valid = pad(arrays['targets'], 3, 9)
    anchors = (arrays['anchors_grid_units'] * arrays['stride'][:, None, None]).tolist()

    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(heads):
        return anchor_loss(heads, targets, valid, anchors=anchors, strides=arrays['stride'].tolist(), config=config)

    (total, parts), gradients = jax.jit(run)(heads)
    np.testing.assert_allclose(total, arrays['total'][0], rtol=1e-6)
    np.testing.assert_allclose(jnp.stack(parts), arrays['box_obj_cls_total'][:3], rtol=1e-6)
    for level, gradient in enumerate(gradients):
        wanted = ours(arrays[f'grad{level}'])
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-6 * float(jnp.abs(wanted).max()))


def random_heads(seed, classes=2, images=2):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(images, n, n, 2, 5 + classes)), jnp.float32) for n in (8, 4)]


@jax.jit
def loss_and_gradients(heads, targets, valid):
    """Compiled whole: operation by operation it is compiled in hundreds of programs."""

    def loss(heads):
        return anchor_loss(heads, targets, valid, anchors=ANCHORS, strides=STRIDES, config=LossConfig())

    return jax.value_and_grad(loss, has_aux=True)(heads)


def test_batch_without_targets_learns_only_that_nothing_is_there():
    heads = random_heads(0)
    targets, valid = pad(np.zeros((0, 6), np.float32), 2, 4)
    (total, parts), gradients = loss_and_gradients(heads, targets, valid)
    assert float(parts.box) == float(parts.cls) == 0
    expected = sum(w * np.log1p(np.exp(np.float64(h[..., 4]))).mean() for w, h in zip((4, 1), heads, strict=True))
    np.testing.assert_allclose(total, 2 * expected, rtol=1e-6)
    assert all(not np.asarray(g).take([0, 1, 2, 3, 5, 6], axis=-1).any() for g in gradients)


def test_one_class_is_not_learnt():
    targets, valid = pad(np.array([[0, 0, 0.5, 0.5, 0.3, 0.3]], np.float32), 2, 1)
    assert float(loss_and_gradients(random_heads(1, classes=1), targets, valid)[0][1].cls) == 0


def test_degenerate_box_gives_finite_gradients():
    rows = np.array([[0, 0, 0.5, 0.5, 0, 0.2], [1, 1, 1, 1, 0.2, 0.2], [1, 0, 0, 0, 0.2, 0.3]], np.float32)
    targets, valid = pad(rows, 2, 4)
    (total, _), gradients = loss_and_gradients(random_heads(2), targets, valid)
    assert np.isfinite(total)
    assert all(np.isfinite(g).all() for g in gradients)


def cells(centre, size, *, rows=4, columns=6, threshold=4.0):
    """Cells (row, column, anchor) of one target among anchors 1x1 and 3x3, in a level of 4 rows and 6 columns."""
    box = jnp.array([[[*centre, *size]]], jnp.float32) / jnp.array([[[columns, rows, columns, rows]]], jnp.float32)
    found = match(box, jnp.array([[True]]), jnp.array([[1.0, 1.0], [3.0, 3.0]]), (rows, columns), threshold)
    taken = np.asarray(found.cell)[np.asarray(found.valid)]
    return {tuple(int(v) for v in np.unravel_index(cell, (rows, columns, 2))) for cell in taken}


@pytest.mark.parametrize(
    ('centre', 'size', 'expected'),
    [
        ((2.25, 1.75), (1, 1), {(1, 2, 0), (1, 1, 0), (2, 2, 0), (1, 2, 1), (1, 1, 1), (2, 2, 1)}),  # left, below
        ((2.75, 1.25), (0.5, 0.5), {(1, 2, 0), (1, 3, 0), (0, 2, 0)}),  # right, above; too small for the second anchor
        ((0.25, 0.25), (0.5, 0.5), {(0, 0, 0)}),  # no neighbour outside the level
        ((5.75, 3.75), (0.5, 0.5), {(3, 5, 0)}),
        ((2.5, 1.5), (0.5, 0.5), {(1, 2, 0)}),  # exactly in the middle: nearer to none
        ((2.25, 1.25), (4, 1), {(1, 2, 1), (1, 1, 1), (0, 2, 1)}),  # the ratio 4 is excluded
        ((2.25, 1.25), (13, 1), set()),
    ],
)
def test_cells_of_a_target(centre, size, expected):
    assert cells(centre, size) == expected


def test_later_target_takes_the_cell():
    box = jnp.array([[[0.3, 0.3, 0.25, 0.25], [0.31, 0.31, 0.2, 0.2], [0.9, 0.9, 0.2, 0.2]]])
    found = match(box, jnp.array([[True, True, False]]), jnp.array([[1.0, 1.0]]), (4, 4), 4.0)
    winner = np.asarray(winners(found, 16))[0]
    assert int(found.target[winner[1 * 4 + 1]]) == 1
    assert (winner[15] == -1) and set(np.asarray(found.target)[winner[winner >= 0]]) == {1}


def test_scaled_weights_follow_levels_classes_and_size():
    scaled = LossConfig(box=0.05, cls=0.5, obj=1.0).scaled(levels=4, classes=20, image_size=320)
    np.testing.assert_allclose([scaled.box, scaled.cls, scaled.obj], [0.0375, 0.09375, 0.1875])
