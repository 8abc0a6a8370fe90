"""Reading pictures and fitting them to the size of the network, as the PyTorch YOLOv7 does, pixel for pixel."""

import os
import pathlib

import cv2
import numpy as np
from jaxtyping import UInt8

from jaxprune.errors import UserError

_BORDER = (114, 114, 114)
_JPEG_START, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'

Image = UInt8[np.ndarray, 'h w 3']


def letterbox(
    image_bgr: Image, size: tuple[int, int], *, auto: bool = False, stride: int = 32, scale_up: bool = True
) -> tuple[Image, float, tuple[float, float]]:
    """Scales a picture to fit into a rectangle and fills the rest with grey, half of it on either side.

    Args:
        image_bgr: the picture.
        size: height and width of the rectangle, in pixels.
        auto: the smallest border that makes both sides a multiple of `stride` smaller than `size`, not all of it.
        stride: of the network, in pixels; used by `auto`.
        scale_up: whether a picture smaller than the rectangle grows.

    Returns:
        The picture, its pixels per original pixel, and the border (x, y) in pixels left and on top. The border is half
        of the whole one and may end in .5; then the larger half is on the right or below.
    """
    height, width = image_bgr.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    ratio = ratio if scale_up else min(ratio, 1.0)
    scaled = max(1, round(width * ratio)), max(1, round(height * ratio))
    pad_x, pad_y = size[1] - scaled[0], size[0] - scaled[1]
    if auto:
        pad_x, pad_y = pad_x % stride, pad_y % stride
    if (width, height) != scaled:
        image_bgr = cv2.resize(image_bgr, scaled, interpolation=cv2.INTER_LINEAR)
    left, top = round(pad_x / 2 - 0.1), round(pad_y / 2 - 0.1)
    image = cv2.copyMakeBorder(
        image_bgr, top, pad_y - top, left, pad_x - left, borderType=cv2.BORDER_CONSTANT, value=_BORDER
    )
    return image, ratio, (pad_x / 2, pad_y / 2)


def load_image(
    path: str | os.PathLike[str], size: int, *, augment: bool = False
) -> tuple[Image, tuple[int, int], tuple[int, int]]:
    """Reads a picture and scales it so that its longer side is `size` pixels.

    Pictures shrink by averaging areas, unless they are going to be augmented: that needs speed, not quality.

    Returns:
        The picture (BGR), its original (height, width) and its (height, width) now.

    Raises:
        UserError: if there is no such file, or if it is not a picture or only a part of one.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    if ratio != 1:
        interpolation = cv2.INTER_AREA if ratio < 1 and not augment else cv2.INTER_LINEAR
        # Cut off, not rounded, as in the original; a very long picture keeps one pixel.
        target = max(1, int(width * ratio)), max(1, int(height * ratio))
        image = cv2.resize(image, target, interpolation=interpolation)
    return image, (height, width), image.shape[:2]


def read_image(path: str | os.PathLike[str]) -> Image:
    """Reads a picture as BGR, turned as its EXIF data say.

    Raises:
        UserError: if there is no such file, or if it is not a picture or only a part of one.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); give the path of a picture') from error
    if content.startswith(_JPEG_START) and content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN):
        # OpenCV would fill the missing part with grey and only print a warning.
        raise UserError(f'{path}: the JPEG file is cut off; replace it by a whole one')
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise UserError(f'{path}: not a picture that OpenCV can read; use JPEG or PNG, for example')
    return image
