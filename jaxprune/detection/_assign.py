"""Which anchors of which cells learn a box: YOLOv7's anchor matching, for every image and level at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# A box belongs to the cell of its centre and to the neighbours that the centre is nearer to than half a cell.
_OFFSETS = np.array([[0, 0], [0.5, 0], [0, 0.5], [-0.5, 0], [0, -0.5]], np.float32)


class Matches(NamedTuple):
    """All candidates of one level, `k = 5 · anchors · targets` per image: offset, then anchor, then target.

    Attributes:
      valid: `[b, k]`; false for candidates that the rules reject and for padding.
      cell: `[b, k]` index into the level's cells: row, column, anchor.
      box: `[b, k, 4]` centre relative to the cell's corner, then width and height; in cells.
      anchor: `[k, 2]` width and height in cells.
      target: `[k]` which of the image's targets.
    """

    valid: Bool[Array, 'b k']
    cell: Int[Array, 'b k']
    box: Float[Array, 'b k 4']
    anchor: Float[Array, 'k 2']
    target: Int[Array, ' k']


def match(
    boxes: Float[Array, 'b m 4'],
    valid: Bool[Array, 'b m'],
    anchors: Float[Array, 'a 2'],
    shape: tuple[int, int],
    threshold: float,
) -> Matches:
    """Matches targets to the anchors and cells of one level.

    A target and an anchor match if neither side's ratio reaches `threshold`; the pair then belongs to up to three cells
    (YOLOv7, section 4.2 of arXiv:2207.02696 builds on this rule; it is YOLOv5's).

    Args:
      boxes: centre x, centre y, width, height as fractions of the image.
      valid: false for padding.
      anchors: width and height in cells of the level.
      shape: the level's rows and columns.
      threshold: largest ratio between a side of the box and of the anchor, exclusive.

    Returns:
      `Matches` of every candidate, in the order in which a later one takes a cell from an earlier one.
    """
    (b, m, _), a = boxes.shape, anchors.shape[0]
    size = jnp.array([shape[1], shape[0]], boxes.dtype)
    centre, side = boxes[..., :2] * size[None, None], boxes[..., 2:] * size[None, None]
    fits = _fits(side, anchors, threshold) & valid[:, None]
    near = _near(centre, size)
    offsets = jnp.asarray(_OFFSETS, boxes.dtype)[None, :, None, :]
    corner = (centre[:, None] - offsets).astype(jnp.int32)
    corner = jnp.clip(corner, 0, jnp.array([shape[1] - 1, shape[0] - 1])[None, None, None])
    inside = jnp.concatenate(
        [centre[:, None] - corner.astype(boxes.dtype), jnp.broadcast_to(side[:, None], (b, 5, m, 2))], axis=-1
    )
    first = (corner[..., 1] * shape[1] + corner[..., 0]) * a
    k = 5 * a * m
    return Matches(
        valid=(near[:, :, None] & fits[:, None]).reshape(b, k),
        cell=(first[:, :, None] + jnp.arange(a)[None, None, :, None]).reshape(b, k),
        box=jnp.broadcast_to(inside[:, :, None], (b, 5, a, m, 4)).reshape(b, k, 4),
        anchor=jnp.broadcast_to(anchors[None, :, None], (5, a, m, 2)).reshape(k, 2),
        target=jnp.broadcast_to(jnp.arange(m), (5, a, m)).reshape(k),
    )


def _fits(side: Array, anchors: Array, threshold: float) -> Array:
    """`[b, a, m]`: no side of the box is `threshold` times longer or shorter than the anchor's."""
    ratio = side[:, None] / anchors[None, :, None]
    return jnp.maximum(ratio, 1 / ratio).max(axis=-1) < threshold


def _near(centre: Array, size: Array) -> Array:
    """`[b, 5, m]`: the centre's own cell, then its left, upper, right and lower neighbour, if near and on the grid."""
    end = size[None, None] - centre
    before, after = (centre % 1 < 0.5) & (centre > 1), (end % 1 < 0.5) & (end > 1)
    own = jnp.ones(centre.shape[:2], bool)
    return jnp.stack([own, before[..., 0], before[..., 1], after[..., 0], after[..., 1]], axis=1)


def winners(matches: Matches, cells: int) -> Int[Array, 'b n']:
    """For each of the level's `cells` the last candidate that takes it, -1 where none does."""
    k = matches.valid.shape[1]
    order = jnp.where(matches.valid, jnp.arange(k)[None], -1)
    return jax.vmap(lambda o, c: jnp.full(cells, -1).at[c].max(o))(order, matches.cell)
