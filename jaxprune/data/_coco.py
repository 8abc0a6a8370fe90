"""COCO JSON layout: one file with the images, boxes and categories of a split (cocodataset.org, "Data format")."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxprune.data._yolo import without_repeats
from jaxprune.errors import UserError

NEEDED = {
    'images': ('id', 'file_name'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
}


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """Reads a COCO annotation file and checks that it has the needed entries.

    Raises:
        UserError: not JSON, or an entry is missing.
    """
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f'{file}: not a readable COCO JSON file ({error})') from error
    for part, keys in NEEDED.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise UserError(f'{file}: no list {part!r}; a COCO JSON file has images, annotations and categories')
        for index, row in enumerate(rows):
            missing = [key for key in keys if not isinstance(row, dict) or key not in row]
            if missing:
                raise UserError(f'{file}: {part}[{index}] has no {missing[0]!r}')
    if not content['images']:
        raise UserError(f'{file}: no images listed')
    return content


def find_images(
    file: pathlib.Path, content: Mapping[str, Any], folders: Sequence[pathlib.Path]
) -> tuple[pathlib.Path, ...]:
    """The image files that the annotation file lists, in its order.

    Args:
        file: the annotation file (for messages).
        content: what `read_json` gave.
        folders: where to look; the first that has the first image is used for all of them.

    Raises:
        UserError: an image does not exist.
    """
    names = [str(image['file_name']) for image in content['images']]
    folder = next((folder for folder in folders if (folder / names[0]).is_file()), folders[0])
    paths = tuple(folder / name for name in names)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        others = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise UserError(f'{file}: image {missing[0]}{others} does not exist; add it or take it out of the file')
    return paths


def category_ids(
    file: pathlib.Path, content: Mapping[str, Any], names: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names and, per class, the category id.

    Args:
        file: the annotation file (for messages).
        content: what `read_json` gave.
        names: class names in the order of the class indices; None takes the categories by rising id.

    Raises:
        UserError: a category that is not among the names.
    """
    ids = {str(row['name']): int(row['id']) for row in sorted(content['categories'], key=lambda row: int(row['id']))}
    if names is None:
        return tuple(ids), tuple(ids.values())
    unknown = [name for name in ids if name not in names]
    if unknown:
        raise UserError(f'{file}: category {unknown[0]!r} is not among the names of the data set; add it to names')
    unused = max(ids.values(), default=0) + 1
    return tuple(names), tuple(ids.get(name, unused + index) for index, name in enumerate(names))


def read_boxes(
    file: pathlib.Path, content: Mapping[str, Any], sizes: Int[np.ndarray, 'images 2'], categories: Sequence[int]
) -> tuple[Float[np.ndarray, 'n 5'], ...]:
    """Labels per image; crowd regions are left out, boxes are cut to the image, boxes without area are dropped.

    Args:
        file: the annotation file (for messages).
        content: what `read_json` gave.
        sizes: height and width of every image.
        categories: category id of every class.

    Returns:
        Per image `float32 [n, 5]`: class, centre x, centre y, width, height in 0..1.

    Raises:
        UserError: an unknown image or category, a box that is not four numbers, or a size that is not the image's.
    """
    _check_sizes(file, content, sizes)
    position = {image['id']: index for index, image in enumerate(content['images'])}
    index_of = {category: index for index, category in enumerate(categories)}
    rows = [row for row in content['annotations'] if not row.get('iscrowd')]
    owner = _look_up(file, rows, 'image_id', position)
    classes = _look_up(file, rows, 'category_id', index_of)
    low, high = _corners(file, rows)
    scale = sizes[owner][:, ::-1].astype(np.float64)
    low, high = np.clip(low / scale, 0, 1), np.clip(high / scale, 0, 1)
    labels = np.concatenate([classes[:, None], (low + high) / 2, high - low], axis=1).astype(np.float32)
    keep = (labels[:, 3:] > 0).all(axis=1)
    return tuple(without_repeats(part) for part in split_by(owner[keep], labels[keep], len(sizes)))


def split_by(owner: Int[np.ndarray, ' n'], rows: np.ndarray, count: int) -> list[np.ndarray]:
    """Rows of owner 0, 1, … `count - 1`, each in their order."""
    order = np.argsort(owner, kind='stable')
    return np.split(rows[order], np.searchsorted(owner[order], np.arange(1, count)))


def _check_sizes(file: pathlib.Path, content: Mapping[str, Any], sizes: Int[np.ndarray, 'images 2']) -> None:
    for image, size in zip(content['images'], sizes.tolist(), strict=True):
        said = [image.get('height', size[0]), image.get('width', size[1])]
        if said != size:
            raise UserError(
                f'{file}: image {image["file_name"]!r} is {said[1]} x {said[0]} here but {size[1]} x {size[0]} pixels'
                ' as a file (EXIF rotation applied); correct width and height or replace the image'
            )


def _look_up(file: pathlib.Path, rows: Sequence[Mapping[str, Any]], key: str, table: Mapping[Any, int]) -> np.ndarray:
    unknown = next((row for row in rows if row[key] not in table), None)
    if unknown is not None:
        raise UserError(f'{file}: an annotation has {key} {unknown[key]!r}, which the file does not list')
    return np.array([table[row[key]] for row in rows], np.int64)


def _corners(file: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    try:
        boxes = np.array([row['bbox'] for row in rows], np.float64).reshape(len(rows), 4)
    except (TypeError, ValueError):
        boxes = np.full((len(rows), 4), np.nan)
    if not np.isfinite(boxes).all():
        culprit = next((row for row in rows if not _four_numbers(row['bbox'])), rows[0])
        raise UserError(f'{file}: bbox {culprit["bbox"]!r} of image {culprit["image_id"]!r} is not x, y, width, height')
    return boxes[:, :2], boxes[:, :2] + boxes[:, 2:]


def _four_numbers(box: object) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in box)


def numbered(content: Mapping[str, Any], image_ids: Sequence[int]) -> dict[str, Any]:
    """The part of an annotation file that is about the given images, ready for pycocotools.

    Annotations get the ids 1, 2, …: pycocotools takes a match to id 0 for no match.
    """
    wanted = set(image_ids)
    annotations = [row for row in content['annotations'] if row['image_id'] in wanted]
    return {
        'images': [image for image in content['images'] if image['id'] in wanted],
        'categories': content['categories'],
        'annotations': [
            {'iscrowd': 0, 'area': row['bbox'][2] * row['bbox'][3], **row, 'id': index}
            for index, row in enumerate(annotations, 1)
        ],
    }


def from_labels(
    labels: Sequence[Float[np.ndarray, 'n 5']],
    sizes: Int[np.ndarray, 'images 2'],
    image_ids: Sequence[int],
    category_of: Sequence[int],
    names: Sequence[str],
) -> dict[str, Any]:
    """COCO ground truth from labels in 0..1: boxes in pixels of the image, area = width × height, no crowds."""
    annotations: list[dict[str, Any]] = []
    for rows, (height, width), image_id in zip(labels, sizes.tolist(), image_ids, strict=True):
        scaled = rows[:, 1:].astype(np.float64) * [width, height, width, height]
        scaled[:, :2] -= scaled[:, 2:] / 2
        annotations += [
            {'image_id': image_id, 'category_id': category_of[int(kind)], 'bbox': box, 'area': box[2] * box[3]}
            for kind, box in zip(rows[:, 0].tolist(), scaled.tolist(), strict=True)
        ]
    content = {
        'images': [
            {'id': image_id, 'height': height, 'width': width}
            for image_id, (height, width) in zip(image_ids, sizes.tolist(), strict=True)
        ],
        'categories': [{'id': key, 'name': name} for key, name in zip(category_of, names, strict=True)],
        'annotations': annotations,
    }
    return numbered(content, image_ids)
