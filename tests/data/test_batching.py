import collections
import concurrent.futures
import dataclasses
import errno
import json
import math
import os
import pathlib
import tempfile
import weakref

import cv2
import numpy as np
import pytest

from jaxprune.data import DetectionDataset, EvalBatches, _store, batching, label_boxes, load_dataset
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


@pytest.fixture
def read(monkeypatch):
    """Paths of the images that are decoded."""
    paths = []
    load = batching.load_image
    monkeypatch.setattr(batching, 'load_image', lambda path, *rest: paths.append(path) or load(path, *rest))
    return paths


def assert_equal(batches, expected):
    for left, right in zip(batches, expected, strict=True):
        for field in dataclasses.fields(right):
            mine, other = getattr(left, field.name), getattr(right, field.name)
            for one, two in zip(mine, other, strict=True):
                np.testing.assert_array_equal(one, two)
            assert field.name == 'labels' or (mine.dtype, mine.shape) == (other.dtype, other.shape)


@pytest.mark.parametrize(('keep', 'passes'), [(1 << 30, 1), (0, 1), (None, 2)])
@pytest.mark.parametrize('batch', [2, 7])
def test_images_are_decoded_once_if_they_are_kept(mixed, read, keep, passes, batch):
    batches = EvalBatches(mixed, 64, batch=batch, keep_bytes=keep)
    first = list(batches)
    assert_equal(batches, first)
    assert len(read) == 7 * passes


def test_pixels_are_kept_in_memory_or_in_the_file_but_not_in_both(mixed):
    kept, written = EvalBatches(mixed, 64, batch=2), EvalBatches(mixed, 64, batch=2, keep_bytes=0)
    alive = [[weakref.ref(batch.images) for batch in batches] for batches in (kept, written)]
    assert all(image() is not None for image in alive[0])
    assert not any(image() is not None for image in alive[1])


def test_keep_bytes_is_the_size_of_all_batches(mixed, monkeypatch):
    batches = EvalBatches(mixed, 64, batch=2)
    size = sum(batch.images.nbytes for batch in batches)
    monkeypatch.setattr(tempfile, 'TemporaryFile', None)  # may not be used
    list(EvalBatches(mixed, 64, batch=2, keep_bytes=size))
    with pytest.raises(TypeError):
        list(EvalBatches(mixed, 64, batch=2, keep_bytes=size - 1))


@pytest.mark.parametrize('keep', [0, 1 << 30])
@pytest.mark.parametrize('seen', [1, 2, 3])
def test_an_unfinished_pass_leaves_nothing_wrong(mixed, read, keep, seen):
    expected = list(EvalBatches(mixed, 64, batch=2))
    batches = EvalBatches(mixed, 64, batch=2, keep_bytes=keep)
    unfinished = iter(batches)
    for _ in range(seen):
        next(unfinished)
    unfinished.close()
    assert_equal(batches, expected)
    read.clear()
    assert_equal(batches, expected)
    assert not read


@pytest.mark.parametrize('keep', [0, 1 << 30])
def test_several_passes_at_once(mixed, keep):
    expected = list(EvalBatches(mixed, 64, batch=1))
    batches = EvalBatches(mixed, 64, batch=1, keep_bytes=keep)
    both = list(zip(batches, batches, strict=True))  # the first passes, in turns
    assert_equal([left for left, _ in both], expected)
    assert_equal([right for _, right in both], expected)
    batches = EvalBatches(mixed, 64, batch=1, keep_bytes=keep)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for passed in pool.map(lambda _: list(batches), range(12)):
            assert_equal(passed, expected)


def test_short_reads_and_writes_go_on(mixed, monkeypatch):
    """The system may take or give fewer bytes than asked for."""
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(_store.os, 'pwrite', lambda file, content, start: write(file, content[:5000], start))
    monkeypatch.setattr(_store.os, 'preadv', lambda file, rest, start: read(file, [rest[0][:3001]], start))
    batches = EvalBatches(mixed, 64, batch=2, keep_bytes=0)
    assert_equal(list(batches), list(batches))
    assert_equal(batches, list(EvalBatches(mixed, 64, batch=2)))


def test_the_file_has_no_name_and_goes_with_its_object(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    before, opened = set(tmp_path.iterdir()), set(os.listdir('/proc/self/fd'))
    batches = EvalBatches(mixed, 64, batch=2, keep_bytes=0)
    assert set(os.listdir('/proc/self/fd')) == opened  # nothing is made before the first pass
    list(batches)
    assert set(tmp_path.iterdir()) == before
    assert len(os.listdir('/proc/self/fd')) == len(opened) + 1
    del batches
    assert len(os.listdir('/proc/self/fd')) == len(opened)


def onto_a_full_disk(*_):
    with pathlib.Path('/dev/full').open('wb', buffering=0) as file:
        return file.write(b'x')


def no_room_at_all(monkeypatch):
    monkeypatch.setattr(_store.os, 'pwrite', onto_a_full_disk)


def no_room_after_two_batches(monkeypatch):
    write, count = os.pwrite, collections.Counter()

    def until_full(*args):
        count['calls'] += 1
        return write(*args) if count['calls'] <= 2 else onto_a_full_disk()

    monkeypatch.setattr(_store.os, 'pwrite', until_full)


def too_little_room(monkeypatch):
    """The file is not even begun, so that the disk does not become full for others."""
    size = 3 * sum(EvalBatches(dataset_of([(60, 80)] * 7), 64, batch=2, rect=False).pixels)
    usage = collections.namedtuple('Usage', 'free')
    monkeypatch.setattr(_store.shutil, 'disk_usage', lambda _: usage(size - 1))
    monkeypatch.setattr(tempfile, 'TemporaryFile', None)


@pytest.mark.parametrize('full', [no_room_at_all, no_room_after_two_batches, too_little_room])
def test_a_full_disk_loses_no_run(mixed, read, tmp_path, monkeypatch, caplog, full):
    expected = list(EvalBatches(mixed, 64, batch=2, rect=False))
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    full(monkeypatch)
    opened = len(os.listdir('/proc/self/fd'))
    batches = EvalBatches(mixed, 64, batch=2, rect=False, keep_bytes=0)
    read.clear()
    for _ in range(3):
        assert_equal(batches, expected)
    assert len(read) == 3 * 7
    assert len(os.listdir('/proc/self/fd')) == opened  # the room is free again
    [warning] = caplog.messages
    for part in (str(tmp_path), 'No space left', 'TMPDIR', f'{8 * 64 * 64 * 3:,} bytes'):
        assert part in warning


def test_a_pass_that_reads_goes_on_when_another_finds_the_disk_full(mixed, monkeypatch, caplog):
    expected = list(EvalBatches(mixed, 64, batch=1))
    batches = EvalBatches(mixed, 64, batch=1, keep_bytes=0)
    first = iter(batches)
    passed = [next(first) for _ in range(4)]
    second = iter(batches)
    again = [next(second)]  # reads the next two already
    monkeypatch.setattr(_store.os, 'pwrite', onto_a_full_disk)
    assert_equal(passed + list(first), expected)
    assert_equal(again + list(second), expected)
    assert len(caplog.messages) == 1


def test_no_temporary_folder(mixed, monkeypatch, caplog):
    def missing():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, 'gettempdir', missing)
    assert len(list(EvalBatches(mixed, 64, batch=2, keep_bytes=0))) == len(EvalBatches(mixed, 64, batch=2))
    assert "['/tmp']" in caplog.text


def of_many_shapes(rng):
    """150 images: wide, square and tall ones."""
    return dataset_of(np.concatenate([rng.integers(300, 500, (100, 2)), rng.integers(100, 900, (50, 2))]).tolist())


@pytest.mark.parametrize('rect', [True, False])
def test_shuffled_images_keep_their_shapes(rect):
    dataset = of_many_shapes(np.random.default_rng(5))
    options = {'batch': 4, 'group': 8, 'rect': rect}
    plain, mixed = EvalBatches(dataset, 256, **options), EvalBatches(dataset, 256, **options, shuffle=3)
    shape_of = {i: part.shape for part in plain._parts for i in part.indices.tolist()}
    assert {i: part.shape for part in mixed._parts for i in part.indices.tolist()} == shape_of
    assert sorted(mixed.order.tolist()) == list(range(150))
    assert sorted(mixed.pixels) == sorted(plain.pixels)
    assert sorted(mixed.shapes) == sorted(plain.shapes)
    assert mixed.order.tolist() != plain.order.tolist()
    assert EvalBatches(dataset, 256, **options, shuffle=3).order.tolist() == mixed.order.tolist()
    assert EvalBatches(dataset, 256, **options, shuffle=4).order.tolist() != mixed.order.tolist()
    together = {frozenset(part.indices.tolist()) for part in plain._parts if len(part.indices) > 1}
    assert not together & {frozenset(part.indices.tolist()) for part in mixed._parts}


def test_the_first_shuffled_batches_are_a_random_part():
    """Every image is as likely as any other to be among them, whatever its shape."""
    dataset = of_many_shapes(np.random.default_rng(6))
    counts, share = np.zeros(150), 0.0
    for seed in range(400):
        batches = EvalBatches(dataset, 256, batch=4, group=8, shuffle=seed)
        first = len(batches) // 3
        share += first / len(batches) / 400
        for part in batches._parts[:first]:
            counts[part.indices] += 1
    sigma = math.sqrt(share * (1 - share) / 400)
    assert np.abs(counts / 400 - share).max() < 4.5 * sigma  # 150 images; chance of more: 0.001


@pytest.mark.parametrize('keep', [0, 1 << 30, None])
def test_shuffled_batches_are_in_the_stated_order_and_have_the_same_pixels(mixed, keep):
    plain = {i: (b, row) for b in EvalBatches(mixed, 64, batch=3, group=3) for row, i in enumerate(b.indices) if i >= 0}
    batches = EvalBatches(mixed, 64, batch=3, group=3, shuffle=1, keep_bytes=keep)
    for _ in range(2):
        passed = list(batches)
        indices = np.concatenate([batch.indices[batch.valid] for batch in passed])
        np.testing.assert_array_equal(indices, batches.order)
        assert tuple(batch.images[..., 0].size for batch in passed) == batches.pixels
        for batch in passed:
            for row in np.flatnonzero(batch.valid):
                other, place = plain[int(batch.indices[row])]
                for name in ('images', 'sizes', 'gains', 'pads', 'labels'):
                    np.testing.assert_array_equal(getattr(batch, name)[row], getattr(other, name)[place])


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


@pytest.mark.parametrize('shuffle', [-1, 0.5, '3'])
def test_a_shuffle_that_is_no_seed(shuffle):
    with pytest.raises(UserError, match=f'shuffle {shuffle!r}'):
        EvalBatches(dataset_of([(10, 10)]), 64, shuffle=shuffle)


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
