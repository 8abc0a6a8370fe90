"""A small detection data set that the program draws itself: five kinds of shapes on uneven, noisy backgrounds.

It is there so that the whole method can be tried, and tested, without any download. For the same arguments,
`write_shapes` writes the same pixels and labels on every machine.
"""

import json
import pathlib
from typing import Any

from jaxprune.data._draw import CLASSES, Picture, draw
from jaxprune.errors import UserError
from jaxprune.files import atomic_directory

VERSION = 1
_SPLITS = ('train', 'val')
_RECORD = 'drawn.json'


def write_shapes(
    directory: str | pathlib.Path, *, train: int = 600, val: int = 128, size: int = 128, seed: int = 0
) -> pathlib.Path:
    """Draws the data set, in YOLO layout and with COCO annotations beside it; one that is there already is kept.

    Args:
      directory: where it goes: `images/SPLIT/*.png`, `labels/SPLIT/*.txt`, `annotations/instances_SPLIT.json` and
        `shapes.yaml`. It appears when it is complete, never in part.
      train: number of training images.
      val: number of validation images.
      size: height and width of an image, in pixels.
      seed: another seed draws other pictures of the same kind.

    Returns:
      The path of `shapes.yaml`.

    Raises:
      UserError: `directory` holds something else.
    """
    target = pathlib.Path(directory)
    record = {'version': VERSION, 'train': train, 'val': val, 'size': size, 'seed': seed}
    if not _is_drawn(target, record):
        with atomic_directory(target) as work:
            _write_all(work, record)
    return target / 'shapes.yaml'


def _is_drawn(target: pathlib.Path, record: dict[str, int]) -> bool:
    """Whether this very data set stands there; False if nothing does."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    found = target / _RECORD
    if not found.is_file() or json.loads(found.read_text()) != record:
        raise UserError(
            f'{target}: is in the way, and is not the data set to be drawn here ({record}); name another folder'
        )
    return True


def _write_all(root: pathlib.Path, record: dict[str, int]) -> None:
    for number, split in enumerate(_SPLITS):
        for part in ('images', 'labels'):
            (root / part / split).mkdir(parents=True)
        keys = [(record['seed'], number, index) for index in range(record[split])]
        pictures = {f'shapes_{index:05d}': draw(record['size'], key) for index, key in enumerate(keys)}
        for name, picture in pictures.items():
            _write_picture(root, split, name, picture)
        annotations = root / 'annotations' / f'instances_{split}.json'
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps(coco_annotations(pictures)) + '\n')
    names = ', '.join(f"'{name}'" for name in CLASSES)
    lines = ['path: .', 'train: images/train', 'val: images/val', f'nc: {len(CLASSES)}', f'names: [{names}]']
    (root / 'shapes.yaml').write_text('\n'.join(lines) + '\n')
    (root / _RECORD).write_text(json.dumps(record) + '\n')


def _write_picture(root: pathlib.Path, split: str, name: str, picture: Picture) -> None:
    import cv2

    image = root / 'images' / split / f'{name}.png'
    if not cv2.imwrite(str(image), picture.image_bgr):
        raise OSError(f'{image}: cannot be written')
    (root / 'labels' / split / f'{name}.txt').write_text(yolo_labels(picture))


def yolo_labels(picture: Picture) -> str:
    """A line per shape: class, centre x, centre y, width, height, as fractions of the image."""
    size = picture.image_bgr.shape[0]
    lines = []
    for kind, (x0, y0, x1, y1) in zip(picture.classes, picture.boxes_xyxy, strict=True):
        box = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        lines.append(' '.join([str(kind), *(f'{value / size:.6f}' for value in box)]) + '\n')
    return ''.join(lines)


def coco_annotations(pictures: dict[str, Picture]) -> dict[str, Any]:
    """The pictures of one split as a COCO annotation file: boxes are x, y, width, height in pixels; ids start at 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, picture) in enumerate(pictures.items(), 1):
        height, width = picture.image_bgr.shape[:2]
        images.append({'id': number, 'file_name': f'{name}.png', 'width': width, 'height': height})
        for kind, (x0, y0, x1, y1) in zip(picture.classes.tolist(), picture.boxes_xyxy.tolist(), strict=True):
            box = [x0, y0, x1 - x0, y1 - y0]
            common = {'image_id': number, 'category_id': kind, 'area': box[2] * box[3], 'iscrowd': 0}
            annotations.append({'id': len(annotations) + 1, **common, 'bbox': box})
    categories = [{'id': index, 'name': name} for index, name in enumerate(CLASSES)]
    return {'images': images, 'annotations': annotations, 'categories': categories}
