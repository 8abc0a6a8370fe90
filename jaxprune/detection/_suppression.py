"""Greedy suppression over the scored candidates of one image, a block at a time.

The candidates are never sorted as a whole: the next chunk of the best ones is taken by a partial sort, and cut into
blocks that are compared with the boxes kept so far and within themselves. Loops end as soon as the image is done.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprune.detection import boxes as boxes_

# Boxes of different classes are moved apart by this many pixels per class before they are compared. The PyTorch
# YOLOv7 relies on it alone; here classes are compared too, so this only reproduces its rounding to float32.
_CLASS_OFFSET = 4096

# From the flat indices of candidates to their boxes and classes.
LookUp = Callable[[Int[Array, 'k']], tuple[Float[Array, 'k 4'], Int[Array, 'k']]]


class Limits(NamedTuple):
    """What the compiled program depends on, besides shapes.

    Attributes:
        multi_label: whether a box can be detected as several classes.
        agnostic: whether boxes of different classes suppress each other.
        classes: the only classes to keep, or None.
        candidates: how many candidates of highest confidence are looked at.
        detections: how many boxes are kept.
        chunk: how many candidates are sorted at a time; most images need one chunk or two.
        block: how many candidates are compared at a time.
    """

    multi_label: bool
    agnostic: bool
    classes: tuple[int, ...] | None
    candidates: int
    detections: int
    chunk: int = 1024
    block: int = 128


class Kept(NamedTuple):
    """The detections so far: `indices` and `scores` of the candidates, `boxes` (moved apart), `classes`, how many."""

    indices: Int[Array, 'd']
    scores: Float[Array, 'd']
    boxes: Float[Array, 'd 4']
    classes: Int[Array, 'd']
    number: Int[Array, '']


def suppress(scores: Float[Array, 'n w'], look_up: LookUp, iou: Float[Array, ''], limits: Limits) -> Kept:
    """Goes through the candidates by falling score until enough are kept or none is left.

    Args:
        scores: confidence of `w` candidates per box; -inf where there is none. Equal ones go by flat index.
        look_up: boxes (x1 y1 x2 y2) and classes of candidates.
        iou: a candidate whose IoU with a kept one exceeds this goes.
        limits: how many, and how.
    """
    total = min(limits.candidates, scores.size)

    def unfinished(state: tuple) -> Bool[Array, '']:
        taken, last, kept = state
        return (taken < total) & (last[0] > -jnp.inf) & (kept.number < limits.detections)

    def step(state: tuple, *, left: Float[Array, 'n w'] | None = None) -> tuple:
        taken, last, kept = state
        score, index = _best(_after(scores, last) if left is None else left, limits.chunk)
        allowed = jnp.where(taken + jnp.arange(score.size) < total, score, -jnp.inf)
        kept = _suppress_chunk(allowed, index, kept, look_up, iou=iou, limits=limits)
        return taken + score.size, (score[-1], index[-1]), kept

    # The first chunk comes before the loop: it needs no search for what is left.
    start = (jnp.int32(0), (jnp.float32(jnp.inf), jnp.int32(-1)), _nothing_kept(limits.detections))
    return jax.lax.while_loop(unfinished, step, step(start, left=scores))[2]


def _nothing_kept(size: int) -> Kept:
    # Boxes without area overlap nothing, so free places need no mask.
    index, score = jnp.zeros(size, jnp.int32), jnp.zeros(size, jnp.float32)
    return Kept(index, score, jnp.zeros((size, 4), jnp.float32), index - 1, jnp.int32(0))


def _after(scores: Float[Array, 'n w'], last: tuple[Float[Array, ''], Int[Array, '']]) -> Float[Array, 'n w']:
    """The candidates that follow `last` (score, flat index) in falling order; -inf for it and those before it."""
    index = jnp.arange(scores.size, dtype=jnp.int32).reshape(scores.shape)
    # Up to the last index an equal score was taken already; behind it, only higher ones were.
    bound = jnp.where(index > last[1], jnp.nextafter(last[0], jnp.float32(jnp.inf)), last[0])
    return jnp.where(scores < bound, scores, -jnp.inf)


def _best(scores: Float[Array, 'n w'], chunk: int) -> tuple[Float[Array, 'k'], Int[Array, 'k']]:
    """The highest scores, falling, and their flat indices; equal ones by rising index."""
    rows, width = scores.shape
    size = min(chunk, scores.size)
    if width == 1 or rows <= 2 * chunk:
        return _top(scores.reshape(-1), size)
    # The k best candidates belong to the k boxes whose best candidate is best: only those need sorting.
    best = jnp.sort(_top(jnp.max(scores, axis=1), chunk)[1])
    score, place = _top(scores[best].reshape(-1), size)
    return score, best[place // width] * width + place % width


def _top(values: Float[Array, 'n'], size: int) -> tuple[Float[Array, 'k'], Int[Array, 'k']]:
    """The highest values and their indices.

    Without the barriers XLA merges what reads the result into it, no longer sees a partial sort, and sorts everything.
    (One barrier around both makes programs for several devices of a CPU fail in the compiler.)
    """
    score, index = jax.lax.top_k(values, size)
    return jax.lax.optimization_barrier(score), jax.lax.optimization_barrier(index)


def _suppress_chunk(
    score: Float[Array, 'k'],
    index: Int[Array, 'k'],
    kept: Kept,
    look_up: LookUp,
    *,
    iou: Float[Array, ''],
    limits: Limits,
) -> Kept:
    """Greedy suppression of sorted candidates (-inf: none), block by block."""
    padding = -score.size % limits.block
    score = jnp.pad(score, (0, padding), constant_values=-jnp.inf)
    index = jnp.pad(index, (0, padding))
    boxes, classes = look_up(index)
    classes = jnp.zeros_like(classes) if limits.agnostic else classes
    boxes = boxes + classes.astype(jnp.float32)[:, None] * _CLASS_OFFSET

    def unfinished(state: tuple) -> Bool[Array, '']:
        start, kept = state
        following = jax.lax.dynamic_index_in_dim(score, jnp.minimum(start, score.size - 1), keepdims=False)
        return (start < score.size) & (following > -jnp.inf) & (kept.number < limits.detections)

    def step(state: tuple) -> tuple:
        start, kept = state
        slice_ = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=limits.block)
        return start + limits.block, _suppress_block(kept, *map(slice_, (index, score, boxes, classes)), iou=iou)

    return jax.lax.while_loop(unfinished, step, (jnp.int32(0), kept))[1]


def _suppress_block(
    kept: Kept,
    index: Int[Array, 't'],
    score: Float[Array, 't'],
    boxes: Float[Array, 't 4'],
    classes: Int[Array, 't'],
    *,
    iou: Float[Array, ''],
) -> Kept:
    """Adds the candidates of one block that overlap neither a kept one nor an earlier kept one of the block."""
    # Candidates lie along the last axis: reducing over the other one vectorises.
    before = _overlap(kept.boxes, kept.classes, boxes, classes, iou)
    alive = (score > -jnp.inf) & ~jnp.any(before, axis=0)
    order = jnp.arange(score.size)
    within = _overlap(boxes, classes, boxes, classes, iou) & (order[:, None] < order[None, :])
    survives = _greedy(alive, within)
    # A place outside the array drops the candidate: the suppressed ones, and all after the last free place.
    place = jnp.where(survives, kept.number + jnp.cumsum(survives, dtype=jnp.int32) - 1, kept.indices.size)

    def add(old: Array, new: Array) -> Array:
        return old.at[place].set(new, mode='drop')

    return Kept(
        add(kept.indices, index),
        add(kept.scores, score),
        add(kept.boxes, boxes),
        add(kept.classes, classes),
        jnp.minimum(kept.number + jnp.sum(survives, dtype=jnp.int32), kept.indices.size),
    )


def _overlap(
    a_xyxy: Float[Array, 'n 4'],
    a_classes: Int[Array, 'n'],
    b_xyxy: Float[Array, 'm 4'],
    b_classes: Int[Array, 'm'],
    iou: Float[Array, ''],
) -> Bool[Array, 'n m']:
    """Whether IoU exceeds the threshold and the classes agree (the offset alone fails in images wider than it)."""
    return (boxes_.iou_matrix(a_xyxy, b_xyxy) > iou) & (a_classes[:, None] == b_classes[None, :])


def _greedy(alive: Bool[Array, 't'], suppresses: Bool[Array, 't t']) -> Bool[Array, 't']:
    """Which survive when each one, in order, removes what it overlaps: `suppresses[i, j]`, i < j, i removes j.

    The survivors are the only solution of keep = alive & no kept one suppresses. Candidate i is right after i rounds
    at the latest; a few rounds are enough in practice.
    """

    def step(state: tuple) -> tuple:
        keep = state[0]
        return alive & ~jnp.any(suppresses & keep[:, None], axis=0), keep

    return jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), step, step((alive, alive)))[0]
