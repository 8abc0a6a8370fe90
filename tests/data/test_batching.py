import json
import math
import pathlib

import cv2
import numpy as np
import pytest

from jaxprune.data import DetectionDataset, EvalBatches, batching, label_boxes, load_dataset
from jaxprune.errors import UserError

SMALL = pathlib.Path(__file__).parent.parent / 'golden' / 'trained'


def dataset_of(sizes, images=None, labels=None):
    count = len(sizes)
    return DetectionDataset(
        file=pathlib.Path('set.yaml'),
        split='val',
        images=tuple(images or (pathlib.Path(f'{i}.png') for i in range(count))),
        sizes=np.array(sizes, np.int64),
        labels=tuple(labels or [np.zeros((0, 5), np.float32)] * count),
        names=('thing',),
        annotations=None,
        image_ids=tuple(range(count)),
        category_ids=(0,),
    )


@pytest.fixture
def mixed(tmp_path):
    """Seven pictures of several shapes, one flat colour each."""
    sizes = [(60, 80), (80, 60), (64, 64), (60, 80), (30, 120), (120, 31), (61, 80)]
    images = []
    for index, size in enumerate(sizes):
        images.append(tmp_path / f'{index}.png')
        cv2.imwrite(str(images[-1]), np.full((*size, 3), (10 * index, 100, 200 - 10 * index), np.uint8))
    labels = [np.full((index, 5), 0.25, np.float32) for index in range(len(sizes))]
    return dataset_of(sizes, images, labels)


def test_rectangular_batch_of_the_original(data, golden):
    dataset = load_dataset(data / 'bccd' / 'bccd.yaml')
    batch = next(iter(EvalBatches(dataset, 256, batch=32)))
    assert batch.images.shape == (32, 224, 288, 3)
    assert batch.images.dtype == np.uint8
    copy = cv2.imread(str(SMALL / 'rectangular.png'))[..., ::-1]
    np.testing.assert_array_equal(batch.images[0], copy)
    whole = golden / 'trained' / 'nms.npz'
    if whole.is_file():
        with np.load(whole) as arrays:
            if 'image' in arrays:
                scaled = batch.images[:3].astype(np.float32) / np.float32(255)
                np.testing.assert_array_equal(scaled.transpose(0, 3, 1, 2), arrays['image'])


def naive_shape(sizes, size, stride, pad):
    """Of the images of one group: the published rule, for one group at a time."""
    ratios = [height / width for height, width in sizes]
    relative = (1, 1)
    if max(ratios) < 1:
        relative = (max(ratios), 1)
    elif min(ratios) > 1:
        relative = (1, 1 / min(ratios))
    return tuple(math.ceil(side * size / stride + pad) * stride for side in relative)


@pytest.mark.parametrize('stride', [32, 64])
@pytest.mark.parametrize('pad', [0.0, 0.5])
@pytest.mark.parametrize('batch', [1, 3, 4, 16])
def test_shapes_follow_the_groups_whatever_the_batch(stride, pad, batch):
    rng = np.random.default_rng(3)
    sizes = rng.integers(100, 900, (41, 2)).tolist()
    batches = EvalBatches(dataset_of(sizes), 256, batch=batch, group=8, stride=stride, pad=pad)
    order = sorted(range(len(sizes)), key=lambda i: sizes[i][0] / sizes[i][1])
    assert batches.order.tolist() == order
    groups = [order[start : start + 8] for start in range(0, len(order), 8)]
    shape_of = {i: naive_shape([sizes[j] for j in group], 256, stride, pad) for group in groups for i in group}
    seen = [(i, part.shape) for part in batches._parts for i in part.indices.tolist()]
    assert seen == [(i, shape_of[i]) for i in order]
    assert all(len(part.indices) <= batch for part in batches._parts)
    assert len(batches.shapes) == len(set(shape_of.values()))


def test_equal_shapes_need_only_one_filled_batch():
    batches = EvalBatches(dataset_of([(480, 640)] * 87), 256, batch=16)
    assert [len(part.indices) for part in batches._parts] == [16, 16, 16, 16, 16, 7]
    assert batches.order.tolist() == list(range(87))  # equal ratios keep their order


@pytest.mark.parametrize('rect', [True, False])
@pytest.mark.parametrize('batch', [1, 2, 5])
def test_every_image_once_and_the_rest_filled(mixed, rect, batch):
    seen = []
    for part in EvalBatches(mixed, 64, batch=batch, group=3, rect=rect):
        assert len(part.images) == len(part.valid) == len(part.labels) == batch
        assert not part.images[~part.valid].any()
        assert (part.indices[~part.valid] == -1).all()
        seen += part.indices[part.valid].tolist()
        for row in np.flatnonzero(part.valid):
            index = part.indices[row]
            height, width = part.images.shape[1:3]
            np.testing.assert_array_equal(
                part.images[row, height // 2, width // 2], [200 - 10 * index, 100, 10 * index]
            )
            np.testing.assert_array_equal(part.sizes[row], mixed.sizes[index])
            assert len(part.labels[row]) == index
            inside = (part.images[row] != 114).any(axis=-1)
            rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            assert [columns[0], rows[0]] == pytest.approx(part.pads[row], abs=0.6)
            assert len(rows) == pytest.approx(part.gains[row] * part.sizes[row, 0], abs=1e-3)
    assert sorted(seen) == list(range(7))
    assert rect or seen == list(range(7))


def test_square_batches(mixed):
    assert EvalBatches(mixed, 64, batch=2, rect=False).shapes == ((2, 64, 64, 3),)


@pytest.mark.parametrize(('keep', 'passes'), [(1 << 30, 1), (0, 2)])
def test_images_are_decoded_once_if_they_may_be_kept(mixed, monkeypatch, keep, passes):
    read = []
    load = batching.load_image
    monkeypatch.setattr(batching, 'load_image', lambda path, *rest: read.append(path) or load(path, *rest))
    batches = EvalBatches(mixed, 64, batch=2, keep_bytes=keep)
    first, second = list(batches), list(batches)
    assert len(read) == 7 * passes
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left.images, right.images)


def test_an_unfinished_pass_is_not_kept(mixed):
    batches = EvalBatches(mixed, 64, batch=2)
    next(iter(batches))
    assert len(list(batches)) == len(batches)


def test_decoding_errors_arrive(mixed):
    mixed.images[3].write_bytes(b'junk')
    with pytest.raises(UserError, match=r'3\.png'):
        list(EvalBatches(mixed, 64, batch=2))


@pytest.mark.parametrize('size', [0, 16, 100, 260])
def test_sizes_that_the_stride_does_not_divide(size):
    with pytest.raises(UserError, match=f'image size {size}: the stride 32'):
        EvalBatches(dataset_of([(10, 10)]), size)


def test_batch_below_1():
    with pytest.raises(UserError, match='batch size 0'):
        EvalBatches(dataset_of([(10, 10)]), 64, batch=0)


def test_label_boxes_are_those_of_the_annotations(data):
    """640 x 480 shrinks to 256 x 192 without a remainder, so the boxes are the annotated ones."""
    dataset = load_dataset(data / 'bccd' / 'bccd.yaml')
    images, classes, boxes = label_boxes(dataset, 256)
    rows = json.loads((data / 'bccd' / 'annotations' / 'instances_val.json').read_text())['annotations']
    assert images.tolist() == [row['image_id'] for row in rows]
    assert classes.tolist() == [row['category_id'] for row in rows]
    expected = np.array([[x, y, x + w, y + h] for x, y, w, h in (row['bbox'] for row in rows)])
    np.testing.assert_allclose(boxes, expected, atol=1e-3)


def test_label_boxes_follow_the_rounded_sides_and_the_edges():
    labels = [np.array([[0, 0.5, 0.5, 1, 1]], np.float32), np.zeros((0, 5), np.float32)]
    owner, classes, boxes = label_boxes(dataset_of([(333, 500), (10, 10)], labels=labels), 64)
    assert (owner.tolist(), classes.tolist()) == ([0], [0])
    # resized to 42 x 64; the height's factor 42/333 takes 64 pixels back to more than 500, cut there
    np.testing.assert_allclose(boxes, [[0, 0, 500, 333]], atol=1e-3)
    owner, classes, boxes = label_boxes(dataset_of([(10, 10)]), 64)
    assert (len(owner), len(classes), boxes.shape) == (0, 0, (0, 4))
