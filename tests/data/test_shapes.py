"""The drawn data set: the same everywhere, whole or not there at all, and labels that fit the pixels."""

import hashlib
import json
import pathlib

import cv2
import numpy as np
import pycocotools.coco
import pytest

from jaxprune.data import _draw
from jaxprune.data.shapes import CLASSES, write_shapes, yolo_labels
from jaxprune.errors import UserError

SMALL = {'train': 6, 'val': 3, 'size': 64, 'seed': 5}
# Of the first 16 training pictures with the default arguments. Where the drawing is changed on purpose: raise
# `shapes.VERSION`, put in the new values, and train the packaged weights anew.
PIXELS = 'a53c0a4591b668f87ecac3f9432ba06e721d31553d8225b05ac7b2f41f18b7c7'
LABELS = '41c2846c1b33820b247441d066eb9c315f4d528692d195d8dfb31e65d48c72d4'


@pytest.fixture(scope='module')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_shapes(tmp_path_factory.mktemp('drawn') / 'shapes', **SMALL).parent


def _files(root: pathlib.Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob('*')) if file.is_file()}


def test_pictures_are_the_same_on_every_machine():
    pictures = [_draw.draw(128, (0, 0, index)) for index in range(16)]
    pixels = np.stack([picture.image_bgr for picture in pictures])
    assert pixels.shape == (16, 128, 128, 3) and pixels.dtype == np.uint8
    assert hashlib.sha256(''.join(map(yolo_labels, pictures)).encode()).hexdigest() == LABELS
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == PIXELS


def test_drawing_again_gives_the_same_files(drawn, tmp_path):
    assert _files(write_shapes(tmp_path / 'again', **SMALL).parent) == _files(drawn)


def test_another_seed_gives_other_pictures_and_splits_share_none(drawn, tmp_path):
    other = _files(write_shapes(tmp_path / 'other', **{**SMALL, 'seed': 6}).parent)
    images = [content for files in (other, _files(drawn)) for name, content in files.items() if name.endswith('.png')]
    assert len(images) == len(set(images)) == 18


def test_a_set_that_is_there_is_kept(drawn):
    before = {file: file.stat().st_mtime_ns for file in drawn.rglob('*')}
    assert write_shapes(drawn, **SMALL) == drawn / 'shapes.yaml'
    assert {file: file.stat().st_mtime_ns for file in drawn.rglob('*')} == before


@pytest.mark.parametrize('content', ['a file', 'another set', 'other files'])
def test_what_stands_in_the_way_is_not_touched(tmp_path, content):
    target = tmp_path / 'taken'
    if content == 'a file':
        target.write_text('mine')
    else:
        target.mkdir()
        (target / ('drawn.json' if content == 'another set' else 'mine.txt')).write_text('{}')
    before = _files(tmp_path)
    with pytest.raises(UserError, match='taken'):
        write_shapes(target, **SMALL)
    assert _files(tmp_path) == before


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, 'imwrite', lambda *_: False)
    with pytest.raises(UserError, match='png'):
        write_shapes(tmp_path / 'shapes', **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_that_draw_at_once_agree(tmp_path, monkeypatch):
    """The other one is simulated: it finishes just before this one is about to rename its work."""
    target, imwrite = tmp_path / 'shapes', cv2.imwrite

    def interrupted(*args):
        monkeypatch.setattr(cv2, 'imwrite', imwrite)
        write_shapes(target, **SMALL)
        return imwrite(*args)

    monkeypatch.setattr(cv2, 'imwrite', interrupted)
    write_shapes(target, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']
    assert len(_files(target)) == 2 * 9 + 4


def test_coco_and_yolo_annotations_say_the_same(drawn):
    for split in ('train', 'val'):
        coco = pycocotools.coco.COCO(str(drawn / 'annotations' / f'instances_{split}.json'))
        assert len(coco.imgs) == SMALL[split] and 0 not in coco.anns
        assert [coco.cats[index]['name'] for index in sorted(coco.cats)] == list(CLASSES)
        for image in coco.imgs.values():
            name = pathlib.Path(image['file_name']).with_suffix('.txt')
            rows = [line.split() for line in (drawn / 'labels' / split / name).read_text().splitlines()]
            yolo = np.array(rows, float).reshape(-1, 5)
            found = coco.imgToAnns[image['id']]
            boxes = np.array([entry['bbox'] for entry in found]).reshape(-1, 4)
            assert [entry['category_id'] for entry in found] == yolo[:, 0].tolist()
            np.testing.assert_allclose(yolo[:, 1:3] * 64, boxes[:, :2] + boxes[:, 2:] / 2, atol=1e-4)
            np.testing.assert_allclose(yolo[:, 3:] * 64, boxes[:, 2:], atol=1e-4)


def test_yaml_names_folders_that_exist(drawn):
    yaml = pytest.importorskip('yaml').safe_load((drawn / 'shapes.yaml').read_text())
    assert yaml['names'] == list(CLASSES) and yaml['nc'] == len(CLASSES)
    assert len(list((drawn / yaml['path'] / yaml['train']).iterdir())) == 6
    assert len(list((drawn / yaml['path'] / yaml['val']).iterdir())) == 3
    assert json.loads((drawn / 'drawn.json').read_text())['seed'] == 5


@pytest.mark.parametrize('kind', range(len(CLASSES)))
def test_masks_agree_with_opencv(kind):
    """Outlines against OpenCV's own filled shapes: apart from the one-point rim, the same points; boxes likewise."""
    for seed in range(8):
        random = np.random.RandomState([seed, kind])
        mask, area = _draw._shape(random, kind, 128)
        ours = np.zeros((512, 512), np.uint8)
        ours[mask.place(_draw.FINE)] = mask.inside
        theirs = _opencv_mask(np.random.RandomState([seed, kind]), CLASSES[kind])
        rim = cv2.dilate(theirs, np.ones((5, 5), np.uint8)) - cv2.erode(theirs, np.ones((5, 5), np.uint8))
        inner = (slice(128, -128), slice(128, -128))
        assert not np.any((ours != theirs[inner]) & (rim[inner] == 0))
        x, y, width, height = cv2.boundingRect(ours)
        assert mask.box() == tuple(np.array([x, y, x + width, y + height]) / 4)
        assert area >= ours.sum()


def _opencv_mask(random: np.random.RandomState, name: str) -> np.ndarray:
    """The same shape from the same draws, filled by OpenCV from floating-point corners, with a margin of 128 points."""
    largest = random.randint(85, 146)
    radius, degrees = random.randint(46, largest), random.randint(360)
    row, column = (random.randint(0, 512, 2) + 128).tolist()
    canvas = np.zeros((768, 768), np.uint8)
    if name in ('circle', 'ring'):
        cv2.circle(canvas, (column, row), radius, 1, -1)
        if name == 'ring':
            cv2.circle(canvas, (column, row), round(radius * 0.3**0.5), 0, -1)
        return canvas
    corners = {'square': 4, 'triangle': 3, 'star': 10}[name]
    angles = np.radians(degrees + np.arange(corners) * 360 / corners)
    reach = radius * (np.where(np.arange(corners) % 2, 0.45, 1.0) if name == 'star' else 1.0)
    points = np.stack([column + reach * np.cos(angles), row + reach * np.sin(angles)], 1)
    return cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 1)


def test_boxes_are_inside_the_image_and_fine():
    for index in range(20):
        boxes = _draw.draw(128, (0, 1, index)).boxes_xyxy
        assert len(boxes) <= 6 and np.all(boxes * _draw.FINE % 1 == 0)
        assert np.all(boxes[:, 2:] - boxes[:, :2] >= 5) and boxes.min(initial=0) >= 0 and boxes.max(initial=0) <= 128
