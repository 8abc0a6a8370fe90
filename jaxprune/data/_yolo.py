"""YOLO layout: folders or lists of images, and one text file of labels per image."""

import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from jaxprune.data._images import is_image, parallel
from jaxprune.errors import UserError

Labels = Float[np.ndarray, 'n 5']


def list_images(entries: Sequence[pathlib.Path], root: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """All images of a split, sorted by path.

    Args:
        entries: existing folders (searched to any depth) and text files with one image path per line.
        root: where relative paths of a list are looked for when they are not beside the list.

    Returns:
        Paths of existing files, each once.

    Raises:
        UserError: a listed image is missing or is no image, or there are no images at all.
    """
    found: set[pathlib.Path] = set()
    for entry in entries:
        found.update(_from_folder(entry) if entry.is_dir() else _from_list(entry, root))
    if not found:
        names = ', '.join(str(entry) for entry in entries)
        raise UserError(f'{names}: no images found; the split must name a folder or a list (.txt) of images')
    return tuple(sorted(found, key=str))


def _from_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.rglob('*') if is_image(path)]


def _from_list(file: pathlib.Path, root: pathlib.Path) -> list[pathlib.Path]:
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{file}: not a folder, nor a readable list of images') from error
    return [_listed(file, number, line.strip(), root) for number, line in enumerate(lines, 1) if line.strip()]


def _listed(file: pathlib.Path, number: int, name: str, root: pathlib.Path) -> pathlib.Path:
    if not is_image(pathlib.Path(name)):
        raise UserError(f'{file}: line {number}: {name!r} is not the name of an image; list one image path per line')
    for base in (file.parent, root, pathlib.Path()):
        if (base / name).is_file():
            return base / name
    raise UserError(f'{file}: line {number}: image {name!r} does not exist; add the image or take the line out')


def label_file(image: pathlib.Path) -> pathlib.Path:
    """The label file of an image: the last folder called `images` in its path becomes `labels`, the suffix `.txt`."""
    parts = list(image.with_suffix('.txt').parts)
    folders = parts[:-1]
    if 'images' in folders:
        parts[len(folders) - 1 - folders[::-1].index('images')] = 'labels'
    return pathlib.Path(*parts)


def read_labels(images: Sequence[pathlib.Path], classes: int) -> tuple[Labels, ...]:
    """Labels of every image; an image without a label file has no objects.

    Args:
        images: paths of the images.
        classes: number of classes.

    Returns:
        Per image `float32 [n, 5]`: class, centre x, centre y, width, height in 0..1 of the image, as in the file.

    Raises:
        UserError: a file that is not in this format, or no label file for any of the images.
    """
    files = [label_file(image) for image in images]
    if not any(file.is_file() for file in files):
        raise UserError(f'{files[0]}: no label file for any image; put labels (.txt) in folder labels beside images')
    return tuple(parallel(functools.partial(read_label_file, classes=classes), files))


def read_label_file(file: pathlib.Path, *, classes: int) -> Labels:
    """Reads one label file: rows of a class and a box, or of a class and a polygon (its bounding box is taken).

    Args:
        file: text file; if it does not exist there are no objects.
        classes: number of classes.

    Returns:
        `float32 [n, 5]`, rows that repeat an earlier one left out.

    Raises:
        UserError: file, line and value of the first thing that is wrong.
    """
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except FileNotFoundError:
        return np.zeros((0, 5), np.float32)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{file}: not a readable text file of labels') from error
    rows = [_row(file, number, line.split(), classes) for number, line in enumerate(lines, 1) if line.strip()]
    return without_repeats(np.array(rows, np.float32).reshape(-1, 5))


def without_repeats(labels: Labels) -> Labels:
    """Leaves out every row that repeats an earlier one, and keeps the order."""
    _, first = np.unique(labels, axis=0, return_index=True)
    return labels[np.sort(first)]


def _row(file: pathlib.Path, number: int, words: list[str], classes: int) -> list[float]:
    fail = functools.partial(_fail, file, number)
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise fail(f'{len(words)} columns; a box has 5 (class, cx, cy, width, height), a polygon 7 or more, odd')
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise fail(f'{" ".join(words)!r} is not a row of numbers') from None
    _check_class(values[0], classes, fail)
    for value, word in zip(values[1:], words[1:], strict=True):
        if not 0 <= value <= 1:
            raise fail(f'coordinate {word} is outside 0..1; divide by the width or height of the image')
    return values if len(values) == 5 else [values[0], *_bounding_box(values[1:])]


def _check_class(value: float, classes: int, fail: Callable[[str], UserError]) -> None:
    if value not in range(classes):
        raise fail(
            f'class index {value:g}, but the data set has classes 0 to {classes - 1}; correct it, or nc and names'
        )


def _bounding_box(polygon: Sequence[float]) -> tuple[float, float, float, float]:
    left, right = min(polygon[::2]), max(polygon[::2])
    top, bottom = min(polygon[1::2]), max(polygon[1::2])
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _fail(file: pathlib.Path, number: int, what: str) -> UserError:
    return UserError(f'{file}: line {number}: {what}')
