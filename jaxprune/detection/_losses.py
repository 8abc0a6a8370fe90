"""YOLOv7's anchor-matched loss with static shapes: targets are padded and masked, never selected."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxprune.detection import _assign
from jaxprune.detection.boxes import ciou

_BALANCE = {3: (4.0, 1.0, 0.4)}  # of objectness, level by level
_BALANCE_OTHER = (4.0, 1.0, 0.25, 0.06, 0.02)
_FOCAL_ALPHA = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and switches of the loss, named as in the PyTorch YOLOv7's hyper-parameter files.

    Attributes:
      box, obj, cls: weights of the three components.
      cls_pw, obj_pw: weight of positive examples in the cross entropies.
      anchor_t: largest ratio between sides of a box and of its anchor.
      fl_gamma: exponent of the focal loss (arXiv:1708.02002); 0 is plain cross entropy.
      label_smoothing: arXiv:1902.04103, equation 3.
    """

    box: float = 0.05
    obj: float = 1.0
    cls: float = 0.5
    cls_pw: float = 1.0
    obj_pw: float = 1.0
    anchor_t: float = 4.0
    fl_gamma: float = 0.0
    label_smoothing: float = 0.0

    def scaled(self, *, levels: int, classes: int, image_size: int) -> Self:
        """Weights for other than 3 levels, 80 classes and 640 pixels, by the original's rules."""
        return dataclasses.replace(
            self,
            box=self.box * 3 / levels,
            cls=self.cls * classes / 80 * 3 / levels,
            obj=self.obj * (image_size / 640) ** 2 * 3 / levels,
        )


class LossParts(NamedTuple):
    """The weighted components, means over the batch."""

    box: Float[Array, '']
    obj: Float[Array, '']
    cls: Float[Array, '']


def anchor_loss(
    heads: Sequence[Float[Array, 'b h w a p']],
    targets: Float[Array, 'b m 5'],
    valid: Bool[Array, 'b m'],
    *,
    anchors: Sequence[Sequence[Sequence[float]]],
    strides: Sequence[int],
    config: LossConfig,
) -> tuple[Float[Array, ''], LossParts]:
    """Loss of raw predictions against padded targets (YOLOv7's `loss_ota: 0`; YOLOv5's loss).

    Args:
      heads: per level, before the sigmoid: x, y, w, h, objectness, classes.
      targets: class, then centre x, centre y, width, height as fractions of the image.
      valid: false for padding, which may hold anything.
      anchors: per level, per anchor: width and height in pixels.
      strides: per level, in pixels.
      config: weights, already scaled.

    Returns:
      The sum of the components times the batch size, and the components.
    """
    safe = jnp.where(valid[..., None], targets, jnp.array([0, 0.5, 0.5, 0.5, 0.5], targets.dtype)[None, None])
    levels = [
        _level(head, safe, valid, jnp.array(anchor, head.dtype) / stride, config)
        for head, anchor, stride in zip(heads, anchors, strides, strict=True)
    ]
    box, obj, cls = (jnp.stack(values) for values in zip(*levels, strict=True))
    balance = jnp.array(_BALANCE.get(len(heads), _BALANCE_OTHER)[: len(heads)], obj.dtype)
    parts = LossParts(config.box * box.sum(), config.obj * (obj * balance).sum(), config.cls * cls.sum())
    return sum(parts, start=jnp.zeros((), box.dtype)) * heads[0].shape[0], parts


def _level(head: Array, targets: Array, valid: Array, anchors: Array, config: LossConfig) -> LossParts:
    b, h, w, a, p = head.shape
    matches = _assign.match(targets[..., 1:], valid, anchors, (h, w), config.anchor_t)
    picked = jax.vmap(lambda cells, index: cells[index])(head.reshape(b, h * w * a, p), matches.cell)
    iou = ciou(_boxes(picked, matches.anchor), matches.box)
    klass = targets[:, :, 0].astype(jnp.int32)[:, matches.target]
    return LossParts(
        box=_mean(1 - iou, matches.valid),
        obj=_cross_entropy(
            head[..., 4], _objectness(matches, iou, (b, h, w, a)), config.obj_pw, config.fl_gamma
        ).mean(),
        cls=_mean(_class_loss(picked[..., 5:], klass, config).mean(axis=-1), matches.valid),
    )


def _boxes(raw: Array, anchor: Array) -> Array:
    """Centre relative to the cell's corner and sides, in cells."""
    centre = jax.nn.sigmoid(raw[..., :2]) * 2 - 0.5
    return jnp.concatenate([centre, (jax.nn.sigmoid(raw[..., 2:4]) * 2) ** 2 * anchor[None]], axis=-1)


def _objectness(matches: _assign.Matches, iou: Array, shape: tuple[int, ...]) -> Array:
    """What objectness should be: the IoU of the last box that takes the cell, else 0."""
    winner = _assign.winners(matches, shape[1] * shape[2] * shape[3])
    quality = jax.lax.stop_gradient(jnp.maximum(iou, 0))
    wanted = jnp.take_along_axis(quality, jnp.maximum(winner, 0), axis=1)
    return jnp.where(winner >= 0, wanted, 0).reshape(shape)


def _class_loss(raw: Array, klass: Array, config: LossConfig) -> Array:
    """`[b, k, classes]`; a model of one class learns no class, as in the original."""
    if raw.shape[-1] == 1:
        return jnp.zeros_like(raw)
    off = 0.5 * config.label_smoothing
    wanted = jnp.where(klass[..., None] == jnp.arange(raw.shape[-1])[None, None], 1 - off, off).astype(raw.dtype)
    return _cross_entropy(raw, wanted, config.cls_pw, config.fl_gamma)


def _cross_entropy(raw: Array, wanted: Array, positive: float, gamma: float) -> Array:
    """Binary cross entropy with logits, with the focal loss's modulation if `gamma` is not 0."""
    loss = (1 - wanted) * raw + (1 + (positive - 1) * wanted) * jax.nn.softplus(-raw)
    if gamma == 0:
        return loss
    probability = jax.nn.sigmoid(raw)
    right = wanted * probability + (1 - wanted) * (1 - probability)
    alpha = wanted * _FOCAL_ALPHA + (1 - wanted) * (1 - _FOCAL_ALPHA)
    return loss * alpha * (1 - right) ** gamma


def _mean(values: Array, valid: Array) -> Array:
    """Mean over the valid ones, 0 where there are none."""
    return jnp.where(valid, values, 0).sum() / jnp.maximum(valid.sum(), 1).astype(values.dtype)
