"""Boxes: the two formats, overlap, and the way from the letterboxed image back to the original.

Two formats occur and every argument's name says which: `xyxy` (left, top, right, bottom) and `xywh` (centre x, centre
y, width, height), both in pixels unless a function says otherwise. Leading axes broadcast in all functions.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EPS = 1e-7


def xywh_to_xyxy(boxes_xywh: Float[Array, '*b 4']) -> Float[Array, '*b 4']:
    """Corners of boxes given by centre and size."""
    centre, half = boxes_xywh[..., :2], boxes_xywh[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def xyxy_to_xywh(boxes_xyxy: Float[Array, '*b 4']) -> Float[Array, '*b 4']:
    """Centre and size of boxes given by their corners."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def area(boxes_xyxy: Float[Array, '*b 4']) -> Float[Array, '*b']:
    """Width times height, in square pixels."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def iou_matrix(a_xyxy: Float[Array, '*b n 4'], b_xyxy: Float[Array, '*b m 4']) -> Float[Array, '*b n m']:
    """Intersection over union of every box of `a` with every box of `b`; 0 where they do not intersect.

    Two boxes without area have no union to divide by; their IoU is 0 here, so nothing that follows sees a NaN.
    """
    # One column per coordinate, instead of a [n, m, 2] array: the pairs are then contiguous and vectorise.
    a, b = a_xyxy[..., :, None, :], b_xyxy[..., None, :, :]
    width = jnp.minimum(a[..., 2], b[..., 2]) - jnp.maximum(a[..., 0], b[..., 0])
    height = jnp.minimum(a[..., 3], b[..., 3]) - jnp.maximum(a[..., 1], b[..., 1])
    inter = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    union = area(a_xyxy)[..., :, None] + area(b_xyxy)[..., None, :] - inter
    return inter / jnp.where(inter > 0, union, 1)


def ciou(a_xywh: Float[Array, '*b 4'], b_xywh: Float[Array, '*b 4']) -> Float[Array, '*b']:
    """Complete IoU of boxes pair by pair, at most 1; the box loss is one minus it.

    IoU, less the squared distance of the centres in units of the enclosing box's diagonal, less a penalty for another
    aspect ratio whose weight carries no gradient. The epsilons stand where YOLOv7 has them. Any unit of length.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, section "Complete IoU".
    """
    a, b = xywh_to_xyxy(a_xywh), xywh_to_xyxy(b_xywh)
    a_size, b_size = _size(a), _size(b)
    inter = jnp.prod(jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2]), 0), axis=-1)
    union = jnp.prod(a_size, axis=-1) + jnp.prod(b_size, axis=-1) - inter + _EPS
    iou = inter / union
    enclosing = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    diagonal = jnp.sum(enclosing**2, axis=-1) + _EPS
    distance = jnp.sum((b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]) ** 2, axis=-1) / 4
    shape = 4 / math.pi**2 * (_aspect(b_size) - _aspect(a_size)) ** 2
    weight = jax.lax.stop_gradient(shape / (shape - iou + (1 + _EPS)))
    return iou - (distance / diagonal + shape * weight)


def _size(boxes_xyxy: Float[Array, '*b 4']) -> Float[Array, '*b 2']:
    """Width and height, the height with the epsilon that keeps the aspect ratio finite."""
    size = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return size.at[..., 1].add(_EPS)


def _aspect(size: Float[Array, '*b 2']) -> Float[Array, '*b']:
    return jnp.arctan(size[..., 0] / (size[..., 1] + _EPS))
