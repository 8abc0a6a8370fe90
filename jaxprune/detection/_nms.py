"""Non-maximum suppression: exact, batched, compiled once per shape."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprune.detection import boxes as boxes_
from jaxprune.detection._suppression import Limits, suppress
from jaxprune.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Detections:
    """What is left of each image's predictions, by falling confidence, in arrays of fixed shape.

    Attributes:
        boxes_xyxy: corners in pixels of the network's input, not clipped; 0 where not valid.
        scores: confidence; 0 where not valid.
        classes: class index; -1 where not valid.
        valid: true for the detections, which come first, and false for the rest.
    """

    boxes_xyxy: Float[Array, '*b d 4']
    scores: Float[Array, '*b d']
    classes: Int[Array, '*b d']
    valid: Bool[Array, '*b d']


def nms(
    decoded: Float[Array, 'b n c'],
    *,
    conf: float | Float[Array, ''],
    iou: float | Float[Array, ''],
    multi_label: bool,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
    max_candidates: int = 30000,
    max_detections: int = 300,
) -> Detections:
    """Greedy suppression of boxes that overlap a more confident one, exact up to the two limits.

    A box gives a candidate for each class (`multi_label`) or for its best class, if its confidence, objectness times
    class probability, exceeds `conf`. With one class the confidence is the objectness: the class branch of such a
    detector is never trained. Equal confidences keep the order of boxes, then of classes.

    Thresholds are traced: another value does not compile again. Works under `jax.vmap` and `jax.jit`.

    Args:
        decoded: cx cy w h in pixels, objectness, class probabilities (`decode`).
        conf: confidence that a candidate exceeds.
        iou: a candidate whose IoU with a kept one exceeds this goes.
        multi_label: whether a box can be detected as several classes.
        agnostic: compare boxes of different classes too.
        classes: keep only these classes; None keeps all.
        max_candidates: only so many candidates of highest confidence are looked at.
        max_detections: at most so many are kept; the last axis of the result.

    Raises:
        UserError: if one of `classes` is not a class of the model.
    """
    known = decoded.shape[-1] - 5
    chosen = None if classes is None else tuple(sorted({int(index) for index in classes}))
    unknown = sorted(set(chosen or ()) - set(range(known)))
    if unknown:
        raise UserError(f'class {unknown[0]} does not exist: the model has the classes 0 to {known - 1}')
    limits = Limits(multi_label and known > 1, agnostic, chosen, max_candidates, max_detections)
    return _batched(decoded, jnp.asarray(conf, jnp.float32), _round_down(iou), limits=limits)


def _round_down(value: float | Float[Array, '']) -> Float[Array, '']:
    """The largest float32 that is not above `value`: a float32 exceeds the one exactly if it exceeds the other."""
    if isinstance(value, jax.Array):
        return value.astype(jnp.float32)
    nearest = np.float32(value)
    return jnp.asarray(np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > value else nearest)


@functools.partial(jax.jit, static_argnames='limits')
def _batched(
    decoded: Float[Array, 'b n c'], conf: Float[Array, ''], iou: Float[Array, ''], *, limits: Limits
) -> Detections:
    return jax.vmap(lambda image: _nms_image(image, conf, iou, limits))(decoded.astype(jnp.float32))


def _nms_image(
    decoded: Float[Array, 'n c'], conf: Float[Array, ''], iou: Float[Array, ''], limits: Limits
) -> Detections:
    corners = boxes_.xywh_to_xyxy(decoded[:, :4])
    scores, labels = _candidates(decoded, conf, limits)
    width = scores.shape[1]

    def look_up(index: Int[Array, 'k']) -> tuple[Float[Array, 'k 4'], Int[Array, 'k']]:
        return corners[index // width], index % width if labels is None else labels[index]

    kept = suppress(scores, look_up, iou, limits)
    boxes, classes = look_up(kept.indices)
    valid = jnp.arange(limits.detections) < kept.number
    return Detections(
        jnp.where(valid[:, None], boxes, 0), jnp.where(valid, kept.scores, 0), jnp.where(valid, classes, -1), valid
    )


def _candidates(
    decoded: Float[Array, 'n c'], conf: Float[Array, ''], limits: Limits
) -> tuple[Float[Array, 'n w'], Int[Array, 'n'] | None]:
    """Confidence of each box's candidates, -inf if it is none: one per class, or one with its class."""
    objectness, probabilities = decoded[:, 4:5], decoded[:, 5:]
    scores = objectness if probabilities.shape[1] == 1 else objectness * probabilities
    labels = jnp.arange(scores.shape[1], dtype=jnp.int32)[None, :]
    if not limits.multi_label:
        labels = jnp.argmax(scores, axis=1, keepdims=True).astype(jnp.int32)
        scores = jnp.max(scores, axis=1, keepdims=True)
    # Probabilities are at most 1, so this asks for the objectness too.
    wanted = scores > conf
    if limits.classes is not None:
        wanted &= jnp.isin(labels, jnp.asarray(limits.classes, jnp.int32))
    return jnp.where(wanted, scores, -jnp.inf), None if limits.multi_label else labels[:, 0]
