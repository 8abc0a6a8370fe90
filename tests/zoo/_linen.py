"""A case from a Flax Linen module."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ._entry import Case


def case(model: nn.Module, *inputs: tuple[int, ...], dtype: Any = jnp.float32, **options: Any) -> Case:
    """The module with its variables shaped, not initialised; `options` go to every call of it."""
    arguments = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in inputs)
    shapes = jax.eval_shape(functools.partial(model.init, **options), jax.random.key(0), *arguments)

    def resize(small: Any) -> Any:
        from jaxprune import frameworks

        return functools.partial(frameworks.resize(model, small).apply, **options)

    return Case(functools.partial(model.apply, **options), shapes, arguments, resize, model)
