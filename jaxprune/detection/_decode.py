"""From the raw heads of a detector to boxes in pixels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def decode(
    heads: Sequence[Float[Array, 'b _h _w a c']],
    anchors: Float[Array, 'levels a 2'] | Sequence[Float[Array, 'a 2']],
    strides: Float[Array, 'levels'] | Sequence[float],
) -> Float[Array, 'b n c']:
    """Predictions of all levels: cx cy w h in pixels of the network's input, objectness, class probabilities.

    A centre lies at most half a cell outside its cell, a side is at most four times its anchor's. `n` runs over levels,
    anchors, rows and columns, in this order. Computed in float32, whatever the heads are.

    Args:
        heads: one array per level, before the sigmoid, `c` = 5 + classes.
        anchors: width and height of the anchors of each level, in pixels.
        strides: pixels per cell of each level.

    Raises:
        ValueError: if heads, anchors and strides do not have the same number of levels.

    Source: Wang et al., "YOLOv7", arXiv:2207.02696; the formula is that of YOLOv4-CSP, arXiv:2011.08036, section 3.
    """
    levels = [_decode_level(*level) for level in zip(heads, anchors, strides, strict=True)]
    return jnp.concatenate(levels, axis=1)


def _decode_level(
    head: Float[Array, 'b h w a c'], anchors: Float[Array, 'a 2'], stride: Float[Array, ''] | float
) -> Float[Array, 'b a*h*w c']:
    batch, height, width, count, channels = head.shape
    sigma = jax.nn.sigmoid(head.astype(jnp.float32))
    rows, columns = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in (height, width)), indexing='ij')
    grid = jnp.stack([columns, rows], axis=-1)[None, :, :, None, :]
    size = jnp.asarray(anchors, jnp.float32)[None, None, None, :, :]
    xy = (sigma[..., :2] * 2 - 0.5 + grid) * jnp.asarray(stride, jnp.float32)
    wh = (sigma[..., 2:4] * 2) ** 2 * size
    decoded = jnp.concatenate([xy, wh, sigma[..., 4:]], axis=-1)
    return decoded.transpose(0, 3, 1, 2, 4).reshape(batch, count * height * width, channels)
