"""Convolution and max pooling whose gradients are fast on CPUs; the results are those of `lax`.

XLA's own gradients cost more than the forward pass there: that of a 1×1 kernel becomes a convolution with a window as
large as the image, that of a pooling a search for indices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def conv(
    x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j c d'], strides: Any, padding: Any, **options: Any
) -> Array:
    """`lax.conv_general_dilated`, as `nn.Conv` calls it; the gradient of a plain 1×1 kernel is a matrix product."""
    unpadded = isinstance(padding, str) or not any(map(any, padding))
    if kernel.shape[:2] == (1, 1) and set(strides) == {1} and unpadded and options['feature_group_count'] == 1:
        return _pointwise(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


@jax.custom_vjp
def _pointwise(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), 'VALID', dimension_numbers=_LAYOUT)


def _pointwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _pointwise(x, kernel), (x, kernel)


def _pointwise_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    flat_x, flat_gradient = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    to_kernel = lax.dot_general(flat_x, flat_gradient, (((0,), (0,)), ((), ())))
    return _pointwise(gradient, kernel.swapaxes(2, 3)), to_kernel.reshape(kernel.shape)


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def max_pool(
    x: Float[Array, 'b h w c'], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Float[Array, 'b i j c']:
    """`nn.max_pool`: first over rows, then over columns. Of equal values the first in that order gets the gradient."""
    for axis in (1, 2):
        x = _max_along(x, axis, kernel[axis - 1], stride[axis - 1], padding[axis - 1])
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_along(x: Array, axis: int, size: int, stride: int, padding: int) -> Array:
    window, strides, pads = [1] * 4, [1] * 4, [(0, 0)] * 4
    window[axis], strides[axis], pads[axis] = size, stride, (padding, padding)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)


def _max_along_forward(x: Array, *where: int) -> tuple[Array, tuple[Array, Array]]:
    top = _max_along(x, *where)
    return top, (x, top)


def _max_along_backward(*arguments: Any) -> tuple[Array]:
    axis, size, stride, padding, (x, top), gradient = arguments
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), _pads(axis, padding, padding))
    span = (top.shape[axis] - 1) * stride + 1
    free, total = jnp.ones(top.shape, bool), jnp.zeros_like(x)
    for start in range(size):
        here = free & (lax.slice_in_dim(x, start, start + span, stride, axis) == top)
        part = jnp.where(here, gradient, 0)
        total += lax.pad(part, jnp.array(0, x.dtype), _pads(axis, start, x.shape[axis] - start - span, stride - 1))
        free &= ~here
    return (lax.slice_in_dim(total, padding, x.shape[axis] - padding, 1, axis),)


def _pads(axis: int, low: int, high: int, between: int = 0) -> list[tuple[int, int, int]]:
    return [(low, high, between) if dim == axis else (0, 0, 0) for dim in range(4)]


_max_along.defvjp(_max_along_forward, _max_along_backward)
