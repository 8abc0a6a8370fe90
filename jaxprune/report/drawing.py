"""Detections drawn on pictures."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# The golden ratio: turning the hue by it keeps neighbouring class indices far apart, for any number of classes.
_TURN = 0.6180339887498949

Bgr = tuple[int, int, int]


def class_colour(index: int) -> Bgr:
    """Colour of a class as blue, green, red in 0..255: always the same one, bright enough for black text."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * _TURN) % 1, (0.75, 0.5)[index // 8 % 2], 1.0)
    return round(blue * 255), round(green * 255), round(red * 255)


def draw_detections(
    image_bgr: UInt8[np.ndarray, 'h w 3'],
    boxes_xyxy: Float[np.ndarray, 'n 4'],
    classes: Int[np.ndarray, 'n'],
    scores: Float[np.ndarray, 'n'] | None = None,
    *,
    names: Sequence[str] = (),
) -> UInt8[np.ndarray, 'h w 3']:
    """A copy of the picture with a frame and a label for every box; more confident ones lie on top.

    Args:
        image_bgr: the picture.
        boxes_xyxy: corners in its pixels; parts outside are cut off.
        classes: class of each box, which gives the colour.
        scores: confidence of each box, for the label; None for labels of a data set.
        names: name of each class; a class without a name shows its index.
    """
    image = np.ascontiguousarray(image_bgr).copy()
    order = np.arange(len(boxes_xyxy)) if scores is None else np.argsort(np.asarray(scores), kind='stable')
    line = _line_width(image)
    # All frames first: no line crosses a label.
    corners = [_draw_frame(image, np.asarray(boxes_xyxy[row]), class_colour(int(classes[row])), line) for row in order]
    for row, corner in zip(order, corners, strict=True):
        label = _name(int(classes[row]), names) + ('' if scores is None else f' {scores[row]:.2f}')
        _draw_label(image, label, corner, class_colour(int(classes[row])), line)
    return image


def _name(index: int, names: Sequence[str]) -> str:
    return names[index] if 0 <= index < len(names) else str(index)


def _line_width(image: UInt8[np.ndarray, 'h w 3']) -> int:
    """Grows with the picture, so that a large one looks the same when it is shown small."""
    return max(1, round(sum(image.shape[:2]) / 2 * 0.003))


def _draw_frame(
    image: UInt8[np.ndarray, 'h w 3'], box_xyxy: Float[np.ndarray, '4'], colour: Bgr, line: int
) -> tuple[int, int]:
    """Draws the outline and returns its upper left corner."""
    height, width = image.shape[:2]
    limit = np.array([width - 1, height - 1] * 2)
    left, top, right, bottom = (int(value) for value in np.clip(np.round(box_xyxy), 0, limit))
    cv2.rectangle(image, (left, top), (right, bottom), colour, thickness=line)
    return left, top


def _draw_label(image: UInt8[np.ndarray, 'h w 3'], label: str, corner: tuple[int, int], colour: Bgr, line: int) -> None:
    """Text on a filled tab above the corner of the box, or inside the box at the picture's upper edge."""
    scale, thickness = max(0.35, line / 4), max(1, line // 2)
    (text_width, text_height), baseline = cv2.getTextSize(label, _FONT, scale, thickness)
    pad = max(1, line)
    tab_width, tab_height = text_width + 2 * pad, text_height + baseline + pad
    left = max(0, min(corner[0] - line // 2, image.shape[1] - tab_width))
    top = corner[1] - tab_height if corner[1] >= tab_height else corner[1]
    cv2.rectangle(image, (left, top), (left + tab_width - 1, top + tab_height - 1), colour, thickness=cv2.FILLED)
    position = (left + pad, top + text_height + pad)
    cv2.putText(image, label, position, _FONT, scale, (0, 0, 0), thickness=thickness, lineType=cv2.LINE_AA)
