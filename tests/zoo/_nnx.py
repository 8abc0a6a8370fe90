"""A case from a Flax NNX module."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxprune import frameworks

from ._entry import Case


def whole(make: Callable[[], nnx.Module], *inputs: tuple[int, ...]) -> Case:
    """The module shaped, not initialised; its whole state is what the function reads."""
    model = nnx.eval_shape(make)
    model.eval()

    def bound(module: nnx.Module) -> Callable[..., Any]:
        graphdef = nnx.graphdef(module)
        return lambda state, *inputs: nnx.merge(graphdef, state)(*inputs)

    return Case(bound(model), nnx.state(model), _structs(inputs), lambda small: bound(_resize(model, small)), model)


def parted(make: Callable[[], nnx.Module], *inputs: tuple[int, ...]) -> Case:
    """The same with the parameters alone as variables; the rest, such as states of generators, is held fast."""
    model = nnx.eval_shape(make)
    model.eval()
    _, params, rest = nnx.split(model, nnx.Param, ...)
    rest = jax.tree.map(_real, rest)

    def bound(module: nnx.Module) -> Callable[..., Any]:
        graphdef = nnx.graphdef(module)
        return lambda params, *inputs: nnx.merge(graphdef, params, rest)(*inputs)

    return Case(bound(model), params, _structs(inputs), lambda small: bound(_resize(model, small)), model)


def _resize(model: nnx.Module, small: Any) -> nnx.Module:
    return frameworks.resize(model, small)


def _real(leaf: Any) -> Any:
    return (
        jax.random.key(0)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.zeros(leaf.shape, leaf.dtype)
    )


def _structs(inputs: tuple[tuple[int, ...], ...]) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(sizes, np.float64) for sizes in inputs)
