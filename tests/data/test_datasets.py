import functools
import http.server
import json
import pathlib
import shutil
import socket
import threading
import unittest.mock
import urllib.request
import zipfile

import cv2
import numpy as np
import pytest
import yaml

from jaxprune import downloads, resources
from jaxprune.data import load_dataset
from jaxprune.errors import UserError

ROWS = '0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.5 0.5\n'


def draw(path: pathlib.Path, height: int = 40, width: int = 60) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), picture)
    return path


def describe(folder: pathlib.Path, **entries: object) -> pathlib.Path:
    content = {'path': '.', 'val': 'images/val', 'nc': 2, 'names': ['cat', 'dog'], **entries}
    file = folder / 'set.yaml'
    file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return file


@pytest.fixture
def yolo(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two images with labels and one without a label file."""
    for name, size in (('b.jpg', (40, 60)), ('a.png', (64, 32)), ('c.jpg', (30, 30))):
        draw(tmp_path / 'images' / 'val' / name, *size)
    labels = tmp_path / 'labels' / 'val'
    labels.mkdir(parents=True)
    (labels / 'b.txt').write_text(ROWS)
    (labels / 'a.txt').write_text('1 0.5 0.5 1 1\n')
    describe(tmp_path)
    return tmp_path


@pytest.fixture
def coco(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two images; ids as COCO likes them: gaps in the categories, annotation ids from 0, one crowd."""
    for name in ('x.jpg', 'y.jpg'):
        draw(tmp_path / 'images' / 'val' / name)
    content = {
        'images': [
            {'id': 7, 'file_name': 'x.jpg', 'height': 40, 'width': 60},
            {'id': 3, 'file_name': 'y.jpg', 'height': 40, 'width': 60},
        ],
        'categories': [{'id': 18, 'name': 'dog'}, {'id': 17, 'name': 'cat'}],
        'annotations': [
            {'id': 0, 'image_id': 3, 'category_id': 17, 'bbox': [6, 4, 30, 20], 'iscrowd': 0, 'area': 600},
            {'id': 1, 'image_id': 3, 'category_id': 18, 'bbox': [0, 0, 60, 40], 'iscrowd': 1, 'area': 2400},
            {'id': 2, 'image_id': 3, 'category_id': 18, 'bbox': [30, 20, 60, 10]},
        ],
    }
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations' / 'instances_val.json').write_text(json.dumps(content))
    describe(tmp_path, annotations={'val': 'annotations/instances_val.json'})
    return tmp_path


def edit(file: pathlib.Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_yolo_layout(yolo):
    dataset = load_dataset(yolo / 'set.yaml')
    assert [path.name for path in dataset.images] == ['a.png', 'b.jpg', 'c.jpg']
    np.testing.assert_array_equal(dataset.sizes, [[64, 32], [40, 60], [30, 30]])
    assert [len(rows) for rows in dataset.labels] == [1, 2, 0]
    expected = np.array([[0, 0.5, 0.5, 0.25, 0.5], [1, 0.25, 0.25, 0.5, 0.5]], np.float32)
    np.testing.assert_array_equal(dataset.labels[1], expected)
    assert {rows.dtype for rows in dataset.labels} == {np.dtype(np.float32)}
    assert (len(dataset), dataset.classes, dataset.names) == (3, 2, ('cat', 'dog'))


@pytest.mark.parametrize(
    'entry',
    ['images', ['images/val'], ['images/val/', 'images'], 'val.txt', ['val.txt', 'images/val'], 'lists/val.txt'],
)
def test_the_same_images_by_folder_list_or_both(yolo, entry):
    (yolo / 'val.txt').write_text('./images/val/b.jpg\n\nimages/val/a.png\nimages/val/c.jpg\n')
    (yolo / 'lists').mkdir()
    (yolo / 'lists' / 'val.txt').write_text('images/val/b.jpg\nimages/val/a.png\n../images/val/c.jpg\n')
    dataset = load_dataset(describe(yolo, val=entry))
    assert {path.resolve() for path in dataset.images} == set((yolo / 'images' / 'val').resolve().iterdir())
    assert sorted(len(rows) for rows in dataset.labels) == [0, 1, 2]


def test_names_as_mapping_and_working_folder(yolo, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    file = describe(elsewhere, path=yolo.name, names={1: 'dog', 0: 'cat'}, nc=None)
    monkeypatch.chdir(yolo.parent)
    assert load_dataset(file).names == ('cat', 'dog')


def test_repeated_rows_and_polygons(yolo):
    rows = '1 0.5 0.5 0.25 0.5\n0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.5 0.2 0.3 0.8\n'
    (yolo / 'labels' / 'val' / 'b.txt').write_text(rows)
    expected = np.array([[1, 0.5, 0.5, 0.25, 0.5], [0, 0.5, 0.5, 0.25, 0.5], [0, 0.3, 0.5, 0.4, 0.6]], np.float32)
    np.testing.assert_allclose(load_dataset(yolo / 'set.yaml').labels[1], expected, rtol=1e-6)


def test_labels_lie_beside_the_last_images_folder(tmp_path):
    inner = tmp_path / 'images' / 'set'
    draw(inner / 'images' / 'val' / 'a.png')
    (inner / 'labels' / 'val').mkdir(parents=True)
    (inner / 'labels' / 'val' / 'a.txt').write_text(ROWS)
    assert len(load_dataset(describe(inner)).labels[0]) == 2


def test_exif_rotation_counts(yolo):
    from PIL import Image

    path = yolo / 'images' / 'val' / 'b.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif)
    shown = cv2.imread(str(path)).shape[:2]
    assert tuple(load_dataset(yolo / 'set.yaml').sizes[1]) == shown == (60, 40)


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


YOLO_ERRORS = {
    'class too large': (
        lambda d: (d / 'labels/val/b.txt').write_text(ROWS + '2 0 0 1 1'),
        'b.txt: line 3: class index 2',
    ),
    'class negative': (lambda d: (d / 'labels/val/b.txt').write_text('-1 0 0 1 1'), 'b.txt: line 1: class index -1'),
    'class fraction': (lambda d: (d / 'labels/val/b.txt').write_text('0.5 0 0 1 1'), 'class index 0.5'),
    'outside': (lambda d: (d / 'labels/val/b.txt').write_text('\n0 0 0 1.5 1'), 'b.txt: line 2: coordinate 1.5'),
    'negative': (lambda d: (d / 'labels/val/b.txt').write_text('0 -0.1 0 1 1'), 'line 1: coordinate -0.1'),
    'nan': (lambda d: (d / 'labels/val/b.txt').write_text('0 nan 0 1 1'), 'line 1: coordinate nan'),
    'columns': (lambda d: (d / 'labels/val/b.txt').write_text('0 0 0 1'), 'line 1: 4 columns'),
    'even columns': (lambda d: (d / 'labels/val/b.txt').write_text('0 0 0 1 1 1 1 1'), 'line 1: 8 columns'),
    'words': (lambda d: (d / 'labels/val/b.txt').write_text('cat 0 0 1 1'), "line 1: 'cat 0 0 1 1' is not"),
    'binary labels': (lambda d: (d / 'labels/val/b.txt').write_bytes(b'\xff\xfe\x00'), 'b.txt: not a readable text'),
    'no labels': (lambda d: shutil.rmtree(d / 'labels'), 'no label file for any image'),
    'listed missing': (
        lambda d: (d / 'l.txt').write_text('images/val/a.png\nimages/val/q.png\n') and describe(d, val='l.txt'),
        "l.txt: line 2: image 'images/val/q.png' does not exist",
    ),
    'listed no image': (
        lambda d: (d / 'l.txt').write_text('a.doc') and describe(d, val='l.txt'),
        "line 1: 'a.doc' is not",
    ),
    'no images': (lambda d: (d / 'empty').mkdir() or describe(d, val='empty'), 'empty: no images found'),
    'no folder': (lambda d: describe(d, val='images/test'), "val: 'images/test' does not exist"),
    'no split': (lambda d: describe(d, val=None, train='images/val'), "no split 'val': it has train"),
    'junk image': (lambda d: (d / 'images/val/b.jpg').write_bytes(b'junk' * 99), 'b.jpg: not a readable image'),
    'truncated': (lambda d: truncate(d / 'images/val/b.jpg'), 'b.jpg: truncated JPEG'),
    'nc': (lambda d: describe(d, nc=3), 'nc is 3 but there are 2 names'),
    'names': (lambda d: describe(d, names='cat'), "names 'cat' is not a list"),
    'names missing': (lambda d: describe(d, names=None), 'no names'),
    'names gap': (lambda d: describe(d, names={0: 'cat', 2: 'dog'}), r'indices \[0, 2\]'),
    'yaml list': (lambda d: (d / 'set.yaml').write_text('- a'), 'set.yaml: not a mapping'),
    'yaml broken': (lambda d: (d / 'set.yaml').write_text('a: [\n'), 'set.yaml: not a readable YAML'),
    'yaml missing': (lambda d: (d / 'set.yaml').unlink(), 'set.yaml: does not exist'),
    'script': (lambda d: describe(d, val='x', download='bash get.sh'), 'commands are not run'),
}


@pytest.mark.parametrize('name', YOLO_ERRORS)
def test_yolo_errors(yolo, name):
    spoil, message = YOLO_ERRORS[name]
    spoil(yolo)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(yolo / 'set.yaml')
    assert '\n' not in str(caught.value)


def test_coco_layout(coco):
    dataset = load_dataset(coco / 'set.yaml')
    assert (dataset.image_ids, dataset.category_ids, dataset.names) == ((7, 3), (17, 18), ('cat', 'dog'))
    assert dataset.labels[0].shape == (0, 5)
    cut = [1, 0.75, 0.625, 0.5, 0.25]  # reaches 30 pixels beyond the right edge
    np.testing.assert_allclose(dataset.labels[1], np.array([[0, 0.35, 0.35, 0.5, 0.5], cut]), rtol=1e-6)


def test_coco_ground_truth_is_numbered_from_1_and_keeps_crowds(coco):
    truth = load_dataset(coco / 'set.yaml').coco_ground_truth()
    assert [row['id'] for row in truth['annotations']] == [1, 2, 3]
    assert [row['iscrowd'] for row in truth['annotations']] == [0, 1, 0]
    assert [row['area'] for row in truth['annotations']] == [600, 2400, 600]


@pytest.mark.parametrize('entry', ['annotations/instances_val.json', 'images/val', 'val.txt'])
def test_coco_split_as_file_folder_or_list(coco, entry):
    (coco / 'val.txt').write_text('images/val/y.jpg\n')
    given = None if entry.endswith('.json') else {'val': 'annotations/instances_val.json'}
    dataset = load_dataset(describe(coco, val=entry, annotations=given, names=None, nc=None))
    assert dataset.names == ('cat', 'dog')
    assert dataset.images[-1] == coco / 'images' / 'val' / 'y.jpg'
    assert dataset.image_ids == ((3,) if entry == 'val.txt' else (7, 3))
    assert [len(rows) for rows in dataset.labels] == ([2] if entry == 'val.txt' else [0, 2])


def test_coco_names_decide_the_class_index(coco):
    dataset = load_dataset(describe(coco, names=['horse', 'dog', 'cat'], nc=3, val='annotations/instances_val.json'))
    assert dataset.category_ids[1:] == (18, 17)
    assert dataset.category_ids[0] not in (17, 18)
    assert dataset.labels[1][:, 0].tolist() == [2, 1]


def test_images_named_by_their_ids(yolo):
    assert load_dataset(yolo / 'set.yaml').image_ids == (0, 1, 2)
    for old, new in (('a.png', '000009.png'), ('b.jpg', '12.jpg'), ('c.jpg', '5.jpg')):
        (yolo / 'images/val' / old).rename(yolo / 'images/val' / new)
        (yolo / 'labels/val' / new).with_suffix('.txt').touch()
    assert load_dataset(yolo / 'set.yaml').image_ids == (9, 12, 5)


COCO_ERRORS = {
    'image missing': (
        lambda c: c['images'][1].update(file_name='z.jpg'),
        r'instances_val.json: image .*z.jpg does not',
    ),
    'no images': (lambda c: c['images'].clear(), 'no images listed'),
    'no list': (lambda c: c.pop('categories'), "no list 'categories'"),
    'no key': (lambda c: c['annotations'][2].pop('bbox'), r"annotations\[2\] has no 'bbox'"),
    'category': (lambda c: c['annotations'][0].update(category_id=1), 'category_id 1, which'),
    'image id': (lambda c: c['annotations'][0].update(image_id=1), 'image_id 1, which'),
    'name': (lambda c: c['categories'][0].update(name='wolf'), "category 'wolf' is not among the names"),
    'size': (lambda c: c['images'][0].update(width=61), "image 'x.jpg' is 61 x 40 here but 60 x 40"),
    'box short': (lambda c: c['annotations'][0].update(bbox=[1, 2, 3]), r'bbox \[1, 2, 3\] of image 3'),
    'box nan': (lambda c: c['annotations'][2].update(bbox=[1, 2, 3, float('nan')]), r'bbox \[1, 2, 3, nan\]'),
    'box words': (lambda c: c['annotations'][2].update(bbox='1 2 3 4'), "bbox '1 2 3 4'"),
}


@pytest.mark.parametrize('name', COCO_ERRORS)
def test_coco_errors(coco, name):
    change, message = COCO_ERRORS[name]
    edit(coco / 'annotations' / 'instances_val.json', change)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(coco / 'set.yaml')
    assert '\n' not in str(caught.value)


def test_coco_file_that_is_no_json(coco):
    (coco / 'annotations' / 'instances_val.json').write_text('{')
    with pytest.raises(UserError, match='not a readable COCO JSON'):
        load_dataset(coco / 'set.yaml')


@pytest.fixture
def server(tmp_path_factory):
    """A web server on this machine that serves a folder."""
    folder = tmp_path_factory.mktemp('served')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f'http://127.0.0.1:{running.server_port}'
        running.shutdown()
        thread.join()


@pytest.mark.parametrize('per_split', [False, True])
def test_download(yolo, server, per_split):
    folder, address = server
    with zipfile.ZipFile(folder / 'set.zip', 'w') as archive:
        for path in yolo.rglob('*.*'):
            archive.write(path, path.relative_to(yolo))
    for part in ('images', 'labels'):
        shutil.rmtree(yolo / part)
    item = f'{address}/set.zip'
    source = {'val': [{'url': item, 'into': '.'}], 'train': [f'{address}/none']} if per_split else item
    assert len(load_dataset(describe(yolo, download=source))) == 3
    assert not list(yolo.glob('.*')) and not list(yolo.glob('*.zip'))


def test_download_goes_on(yolo, server):
    """Half of the archive is there already, from a call that was interrupted."""
    folder, address = server
    with zipfile.ZipFile(folder / 'set.zip', 'w') as archive:
        for path in yolo.rglob('*.*'):
            archive.write(path, path.relative_to(yolo))
    shutil.rmtree(yolo / 'images')
    content = (folder / 'set.zip').read_bytes()
    (yolo / '.set.zip.part').write_bytes(content[: len(content) // 2])
    asked = []
    original = downloads._transfer._open

    def noted(url, headers, plain):
        asked.append(headers)
        return original(url, headers, plain)

    with urllib.request.urlopen(f'{address}/set.zip') as answer:
        begun = {'url': f'{address}/set.zip', 'tag': answer.headers['Last-Modified'], 'size': len(content)}
    (yolo / '.set.zip.part.json').write_text(json.dumps(begun))
    with unittest.mock.patch.object(downloads._transfer, '_open', noted):
        assert len(load_dataset(describe(yolo, download=begun['url']))) == 3
    assert asked[0]['Range'] == f'bytes={len(content) // 2}-'


def test_download_fails_with_the_way_out(yolo, server):
    file = describe(yolo, val='images/test', download=f'{server[1]}/none.zip')
    with pytest.raises(UserError, match=r'could not get http.*none.zip .*404.*; fetch it yourself and unpack it in'):
        load_dataset(file)
    assert not list(yolo.glob('*.zip'))


def test_bccd_in_both_layouts(data, tmp_path):
    folder = data / 'bccd'
    plain = load_dataset(folder / 'bccd.yaml')
    described = {'path': str(folder.resolve()), 'annotations': {'val': 'annotations/instances_val.json'}}
    boxed = load_dataset(describe(tmp_path, **described, nc=3, names=['RBC', 'WBC', 'Platelets']))
    assert plain.images == boxed.images or [p.name for p in plain.images] == [p.name for p in boxed.images]
    for left, right in zip(plain.labels, boxed.labels, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-6)
    made, given = plain.coco_ground_truth()['annotations'], boxed.coco_ground_truth()['annotations']
    np.testing.assert_allclose([row['bbox'] for row in made], [row['bbox'] for row in given], atol=1e-3)


@pytest.mark.parametrize('path', sorted(resources.path('data').glob('*.yaml')), ids=lambda path: path.stem)
def test_shipped_descriptions(path, monkeypatch, tmp_path):
    content = yaml.safe_load(path.read_text())
    assert content['nc'] == len(content['names']) == len(set(content['names']))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *_, **__: (_ for _ in ()).throw(OSError('offline')))
    with pytest.raises(UserError, match='offline' if 'download' in content else 'does not exist'):
        load_dataset(path)
