"""What the plain functions of the zoo share: short words for shapes, and the case of a function without a module."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ._entry import Case


def array(*sizes: int) -> jax.ShapeDtypeStruct:
    """A leaf."""
    return jax.ShapeDtypeStruct(sizes, np.float64)


def affine(*sizes: int) -> dict[str, Any]:
    """A kernel, output axis last, with its bias."""
    return {'w': array(*sizes), 'b': array(sizes[-1])}


def batch_norm(width: int) -> dict[str, Any]:
    """Scale, shift and running statistics."""
    return {name: array(width) for name in ('gamma', 'beta', 'mean', 'var')}


def plain(apply: Callable[..., Any], shapes: Any, *inputs: tuple[int, ...]) -> Case:
    """The case of a function that finds its widths in its parameters; what sliced ones are given to is itself."""
    return Case(apply, shapes, tuple(array(*sizes) for sizes in inputs), resize=lambda small: apply)
