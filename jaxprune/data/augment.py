"""Training pictures: mosaics, scaling and shifting, colours and mirroring, as in YOLOv7's recipe (OpenCV, uint8)."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxprune.data._letterbox import letterbox

_GREY = 114
_MIN_SIDE = 2.0  # pixels that a box must keep,
_MIN_AREA = 0.1  # the part of its area,
_MAX_ASPECT = 20.0  # and its longest shape

Picture = UInt8[np.ndarray, 'h w 3']
Labels = Float[np.ndarray, 'n 5']
Source = Callable[[int], tuple[Picture, Labels]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How strongly pictures are changed, named as in the PyTorch YOLOv7's hyper-parameter files.

    Attributes:
      mosaic: probability of a mosaic of four pictures.
      scale: factor drawn from 1 - scale to 1.1 + scale.
      translate: shift of the centre, as a part of the picture's side.
      fliplr, flipud: probability of a mirrored picture.
      hsv_h, hsv_s, hsv_v: largest relative change of hue, saturation and value.
    """

    mosaic: float = 1.0
    scale: float = 0.5
    translate: float = 0.1
    fliplr: float = 0.5
    flipud: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4


def augment(
    index: int, source: Source, count: int, size: int, *, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Picture, Labels]:
    """One training picture; all randomness comes from `rng`.

    Args:
      index: of the picture to begin with.
      source: picture (BGR, longer side `size`) and labels (class, cx, cy, w, h in 0..1) of an index.
      count: how many indices the source has.
      size: height and width of the result in pixels.
      config: how strongly to change it.
      rng: the only source of randomness.

    Returns:
      The picture, RGB `[size, size, 3]`, and labels in 0..1 of it.
    """
    if rng.random() < config.mosaic:
        indices = [index, *rng.integers(count, size=3).tolist()]
        picture, boxes = _mosaic([source(i) for i in indices], size, rng)
    else:
        picture, boxes = _single(*source(index), size)
    picture, boxes = _affine(picture, boxes, size, config, rng)
    picture = _recolour(picture, config, rng)
    if rng.random() < config.fliplr:
        picture, boxes[:, [1, 3]] = picture[:, ::-1], size - boxes[:, [3, 1]]
    if rng.random() < config.flipud:
        picture, boxes[:, [2, 4]] = picture[::-1], size - boxes[:, [4, 2]]
    return np.ascontiguousarray(picture), _normalised(boxes, size)


def _single(picture: Picture, labels: Labels, size: int) -> tuple[Picture, Labels]:
    height, width = picture.shape[:2]
    boxed, ratio, (left, top) = letterbox(picture, (size, size))
    return boxed, _corners(labels, width * ratio, height * ratio, left, top)


def _mosaic(parts: list[tuple[Picture, Labels]], size: int, rng: np.random.Generator) -> tuple[Picture, Labels]:
    """Four pictures that touch in one point of a canvas of twice the size (YOLOv4, arXiv:2004.10934, section 3.3)."""
    side = 2 * size
    canvas = np.full((side, side, 3), _GREY, np.uint8)
    y, x = (int(rng.uniform(size / 2, side - size / 2)) for _ in range(2))
    boxes = []
    for place, (picture, labels) in enumerate(parts):
        height, width = picture.shape[:2]
        left, top = (x - width, x)[place % 2], (y - height, y)[place // 2]
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, side), min(top + height, side)
        canvas[y1:y2, x1:x2] = picture[y1 - top : y2 - top, x1 - left : x2 - left]
        boxes.append(_corners(labels, width, height, left, top))
    joined = np.concatenate(boxes)
    np.clip(joined[:, 1:], 0, side, out=joined[:, 1:])
    return canvas, joined


def _affine(
    picture: Picture, boxes: Labels, size: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Picture, Labels]:
    """Scales about the centre, shifts, and cuts out `size` × `size`."""
    height, width = picture.shape[:2]
    scale = rng.uniform(1 - config.scale, 1.1 + config.scale)
    shift = rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2) * size
    offset = shift - scale * np.array([width, height]) / 2
    if scale != 1 or (height, width) != (size, size) or offset.any():
        matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
        picture = cv2.warpAffine(picture, matrix, (size, size), borderValue=(_GREY, _GREY, _GREY))
    moved = boxes.copy()
    moved[:, 1:] = np.clip(boxes[:, 1:] * scale + np.tile(offset, 2), 0, size)
    return picture, moved[_keep(boxes[:, 1:] * scale, moved[:, 1:])]


def _keep(before_xyxy: Float[np.ndarray, 'n 4'], after_xyxy: Float[np.ndarray, 'n 4']) -> Bool[np.ndarray, ' n']:
    """Which boxes are still worth learning after they were cut at the border."""
    before, after = (boxes[:, 2:] - boxes[:, :2] for boxes in (before_xyxy, after_xyxy))
    long, short = after.max(axis=1, initial=0), after.min(axis=1, initial=np.inf)
    kept = after.prod(axis=1) > _MIN_AREA * before.prod(axis=1)
    return (short > _MIN_SIDE) & kept & (long < _MAX_ASPECT * short)


def _recolour(picture: Picture, config: AugmentConfig, rng: np.random.Generator) -> Picture:
    """Scales hue, saturation and value by random factors; BGR in, RGB out."""
    strength = np.array([config.hsv_h, config.hsv_s, config.hsv_v])
    if not strength.any():
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    factor = rng.uniform(-1, 1, 3) * strength + 1
    steps = np.arange(256)
    table = np.stack([steps * factor[0] % 180, *np.clip(steps * factor[1:, None], 0, 255)], axis=-1)
    hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, table.astype(np.uint8)[None]), cv2.COLOR_HSV2RGB)


def _corners(labels: Labels, width: float, height: float, left: float, top: float) -> Labels:
    """Class and corners in pixels, from class, centre and size in 0..1 of a picture placed at (left, top)."""
    size, corner = np.array([width, height]), np.array([left, top])
    low, high = labels[:, 1:3] - labels[:, 3:5] / 2, labels[:, 1:3] + labels[:, 3:5] / 2
    return np.concatenate([labels[:, :1], low * size + corner, high * size + corner], axis=1)


def _normalised(boxes: Labels, size: int) -> Labels:
    low, high = boxes[:, 1:3], boxes[:, 3:5]
    return np.concatenate([boxes[:, :1], (low + high) / (2 * size), (high - low) / size], axis=1).astype(np.float32)
