"""Training pictures and batches: labels must lie where the pixels say, and everything must follow from the seed."""

import builtins
import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.data import load_dataset
from jaxprune.data.augment import AugmentConfig, _recolour, augment
from jaxprune.data.loader import TrainBatches
from jaxprune.errors import UserError

SIZE = 64
STILL = {'hsv_h': 0.0, 'hsv_s': 0.0, 'hsv_v': 0.0}
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)  # BGR, one per class


def scene(index):
    """A black picture of 48 x 64 or 64 x 48 pixels with one rectangle; its colour is its class."""
    rng = np.random.default_rng(index)
    height, width = ((48, 64), (64, 48))[index % 2]
    picture = np.zeros((height, width, 3), np.uint8)
    w, h = rng.integers(12, 24, 2)
    x, y = rng.integers(0, width - w), rng.integers(0, height - h)
    picture[y : y + h, x : x + w] = COLOURS[index % 4]
    box = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    return picture, np.array([[index % 4, *box]], np.float32)


def sample(seed, **options):
    config = AugmentConfig(**{**STILL, **options})
    return augment(seed % 4, scene, 4, SIZE, config=config, rng=np.random.default_rng(seed))


def covered(picture, klass, labels):
    """Pixels of a class that lie inside one of its labelled boxes, grown by 1.5 pixels, and all of them."""
    ys, xs = np.nonzero((np.abs(picture.astype(int) - COLOURS[klass][::-1]) < 64).all(axis=-1))
    inside = np.zeros(len(xs), bool)
    for _, cx, cy, w, h in labels[labels[:, 0] == klass]:
        inside |= (abs((xs + 0.5) / SIZE - cx) < w / 2 + 1.5 / SIZE) & (
            abs((ys + 0.5) / SIZE - cy) < h / 2 + 1.5 / SIZE
        )
    return int(inside.sum()), len(xs)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), mosaic=st.sampled_from([0.0, 1.0]), flip=st.sampled_from([0.0, 1.0]))
def test_labels_surround_what_they_name(seed, mosaic, flip):
    picture, labels = sample(seed, mosaic=mosaic, fliplr=flip, flipud=flip)
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8 and labels.dtype == np.float32
    for _, cx, cy, w, h in labels:
        assert min(cx - w / 2, cy - h / 2) > -1e-6 and max(cx + w / 2, cy + h / 2) < 1 + 1e-6
    for klass in set(labels[:, 0].astype(int)):
        inside, total = covered(picture, klass, labels)
        area = sum(w * h for c, _, _, w, h in labels if c == klass) * SIZE**2
        assert inside > 0.6 * area - 40  # boxes of one class may overlap in no way but at a mosaic's seams
        assert total - inside < 0.11 * 24 * 24 * 1.6**2 * 4  # what was cut away is below a tenth of an object


def test_nothing_changes_without_augmentation():
    off = AugmentConfig(mosaic=0, scale=0, translate=0, fliplr=0, **STILL)

    class Middle(np.random.Generator):
        def uniform(self, low=0.0, high=1.0, size=None):
            return 1.0 if (low, high) == (1, 1.1) else super().uniform(low, high, size)

    picture, labels = augment(0, scene, 4, SIZE, config=off, rng=Middle(np.random.PCG64(0)))
    original, truth = scene(0)
    np.testing.assert_array_equal(picture[8:56], original[..., ::-1])
    np.testing.assert_array_equal(picture[:8], 114)
    np.testing.assert_allclose(labels[0, [0, 1, 3]], truth[0, [0, 1, 3]], atol=1e-6)
    np.testing.assert_allclose(labels[0, [2, 4]] * 64, truth[0, [2, 4]] * 48 + [8, 0], atol=1e-5)


def test_flip_mirrors_pixels_and_boxes():
    (plain, labels), (flipped, mirrored) = sample(3, fliplr=0.0), sample(3, fliplr=1.0)
    np.testing.assert_array_equal(plain[:, ::-1], flipped)
    np.testing.assert_allclose(mirrored[:, 1], 1 - labels[:, 1], atol=1e-6)
    np.testing.assert_array_equal(mirrored[:, [0, 2]], labels[:, [0, 2]])


def test_mosaic_shows_four_pictures():
    seen = [len(set(sample(seed, scale=0.0, translate=0.0)[1][:, 0])) for seed in range(30)]
    assert max(seen) >= 3


def test_picture_without_labels_is_fine():
    picture, labels = augment(
        0,
        lambda i: (scene(i)[0], np.zeros((0, 5), np.float32)),
        4,
        SIZE,
        config=AugmentConfig(),
        rng=np.random.default_rng(0),
    )
    assert picture.shape == (SIZE, SIZE, 3) and labels.shape == (0, 5)


def test_value_alone_is_scaled():
    picture = np.full((1, 1, 3), (40, 80, 120), np.uint8)
    bright = _recolour(picture, AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0.5), np.random.default_rng(1))[0, 0] / 255
    before, after = colorsys.rgb_to_hsv(120 / 255, 80 / 255, 40 / 255), colorsys.rgb_to_hsv(*bright)
    np.testing.assert_allclose(after[:2], before[:2], atol=0.02)
    factor = np.random.default_rng(1).uniform(-1, 1, 3)[2] * 0.5 + 1
    np.testing.assert_allclose(after[2], before[2] * factor, atol=0.005)
    assert abs(factor - 1) > 0.1


@pytest.fixture
def dataset(tmp_path):
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    for index in range(5):
        picture, labels = scene(index)
        cv2.imwrite(str(tmp_path / 'images' / f'{index}.png'), picture)
        (tmp_path / 'labels' / f'{index}.txt').write_text(' '.join(str(v) for v in [int(labels[0, 0]), *labels[0, 1:]]))
    (tmp_path / 'data.yaml').write_text('path: .\ntrain: images\nval: images\nnames: [a, b, c, d]\n')
    return load_dataset(tmp_path / 'data.yaml', 'train')


def batches(dataset, **options):
    return TrainBatches(dataset, SIZE, **{'batch': 2, 'config': AugmentConfig(), **options})


def same(first, second):
    return all((a == b).all() for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


def test_batches_follow_from_seed_and_epoch_alone(dataset):
    epoch = list(batches(dataset, threads=1)(3))
    assert same(epoch, batches(dataset, threads=4)(3))
    assert same(epoch, batches(dataset, keep_bytes=0)(3))
    assert not same(epoch, batches(dataset)(4))
    assert not same(epoch, batches(dataset, seed=1)(3))


def test_batches_have_one_shape_and_padded_labels(dataset):
    loader = batches(dataset)
    assert len(loader) == 3
    for images, targets, valid in loader(0):
        assert images.shape == (2, SIZE, SIZE, 3) and images.dtype == np.uint8
        assert targets.shape == (2, 4, 5) and valid.shape == (2, 4)
        assert not targets[~valid].any() and (targets[valid][:, 3:] > 0).all()


def test_every_picture_is_seen_once_before_any_is_repeated(dataset):
    still = AugmentConfig(mosaic=0, scale=0, translate=0, fliplr=0, **STILL)
    for epoch in range(2):
        first = [int(row[0, 0]) for batch in batches(dataset, config=still)(epoch) for row in batch.targets]
        assert sorted(first[:5]) == [0, 0, 1, 2, 3]


@pytest.mark.parametrize('batch', [0, -1])
def test_batch_size_must_be_positive(dataset, batch):
    with pytest.raises(UserError, match='batches of'):
        batches(dataset, batch=batch)


def test_missing_grain_is_a_clear_error(dataset, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == 'grain':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(UserError, match='pip install grain'):
        batches(dataset)(0)
