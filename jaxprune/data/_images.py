"""Which files are pictures, and how large they are, read from their headers."""

import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from jaxprune.errors import UserError

SUFFIXES = frozenset({'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'})
EXIF_ORIENTATION = 0x0112
EXIF_TRANSPOSED = frozenset({5, 6, 7, 8})
JPEG_END = b'\xff\xd9'
JPEG_TAIL = 4096

Item = TypeVar('Item')
Result = TypeVar('Result')


def is_image(path: pathlib.Path) -> bool:
    """Whether the name is that of a picture that OpenCV can decode."""
    return path.suffix.lower() in SUFFIXES


def parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Applies `function` to every item in threads; the first error, in the order of the items, is raised."""
    with concurrent.futures.ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(function, items))


def image_size(path: pathlib.Path) -> tuple[int, int]:
    """Height and width in pixels as the picture is shown (EXIF rotation applied, as OpenCV does), not decoding it.

    Args:
        path: an existing image file.

    Returns:
        Height and width.

    Raises:
        UserError: the file is no picture, or a JPEG that ends before its end marker.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            rotated = image.getexif().get(EXIF_ORIENTATION) in EXIF_TRANSPOSED
            truncated = image.format == 'JPEG' and not _jpeg_ends(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f'{path}: not a readable image; replace it or take it out of the data set') from error
    if truncated:
        raise UserError(f'{path}: truncated JPEG, no end marker; replace it or take it out of the data set')
    return (width, height) if rotated else (height, width)


def _jpeg_ends(path: pathlib.Path) -> bool:
    """Whether the end marker is near the end: OpenCV fills what is missing with grey and goes on."""
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - JPEG_TAIL))
        return JPEG_END in file.read()
