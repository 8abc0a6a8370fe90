"""The original program, evaluated on sliced variables."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph
from jaxprune.replaying import (  # noqa: F401
    _rules_call,
    _rules_contract,
    _rules_custom,
    _rules_elementwise,
    _rules_index,
    _rules_reduce,
    _rules_shape,
)
from jaxprune.replaying._registry import evaluate
from jaxprune.replaying._values import Kept, Value, arrays_of, count, unless_all, whole

Places = Mapping[trees.Path, Mapping[int, Kept]]
"""Path of a leaf -> axis -> which of its places stay; what is not named stays whole."""


class Planned(Protocol):
    """What a plan offers: the graph that it is bound to, and the kept channels of each group by name."""

    graph: Graph | None

    @property
    def keep(self) -> Mapping[str, tuple[int, ...]]:
        """Group name -> kept channels."""
        ...


def replay(apply: Callable[..., Any], variables: Any, plan: Planned) -> Callable[..., Any]:
    """A function of sliced variables that computes what `apply` computes of masked ones.

    The function is traced at its original widths, and the program that this gives is evaluated on the smaller arrays.
    So it does not matter how the user's source comes by its widths: numbers written into it, comparisons of widths and
    constants with an entry per channel all mean what they meant.

    Args:
      apply: pure function, called as `apply(variables, *inputs, **options)`.
      variables: of the whole model: a pytree of arrays or `jax.ShapeDtypeStruct`.
      plan: what was removed; bound to the model's graph.

    Returns:
      `run(small, *inputs, **options)`, a pure function: compile it with `jax.jit`, differentiate or map it. Results
      that lie along pruned channels (updated statistics) are as small as the variables. Arrays among the inputs and
      options are arguments of the program; everything else (`train=True`, lists of names) is passed on as it is.

    Raises:
      UserError: if the plan is not bound, or does not fit the variables.
    """
    graph = getattr(plan, 'graph', None)
    if graph is None:
        raise UserError('the plan is not bound to a model: give plan.on(graph)')
    return replay_kept(apply, variables, kept_places(graph, variables, plan.keep))


def kept_places(graph: Graph, variables: Any, keep: Mapping[str, tuple[int, ...]]) -> Places:
    """Which places stay on every axis of every leaf where some do not."""
    shapes = _shapes(variables)
    kept: dict[trees.Path, dict[int, Kept]] = {}
    for group in (group for group in graph.groups if group.name in keep):
        gone = np.ones(group.channels, bool)
        gone[list(keep[group.name])] = False
        for slot in group.slots:
            shape = shapes.get(slot.path, ())
            if not slot.fits(shape):
                raise UserError(f'variables do not belong to this model: {"/".join(slot.path)} has the shape {shape}')
            stays = kept.setdefault(slot.path, {}).setdefault(slot.axis, np.ones(shape[slot.axis], bool))
            stays[slot.indices[gone].ravel()] = False
    return kept


def replay_kept(apply: Callable[..., Any], variables: Any, kept: Places) -> Callable[..., Any]:
    """As `replay`, for places instead of channels of a plan.

    Args:
      apply: pure function, called as `apply(variables, *inputs, **options)`.
      variables: of the whole model: a pytree of arrays or `jax.ShapeDtypeStruct`.
      kept: which places of the leaves stay.

    Returns:
      `run(small, *inputs, **options)`.
    """
    shapes = _shapes(variables)

    def run(small: Any, *inputs: Any, **options: Any) -> Any:
        held = {path: leaf for path, leaf in trees.flatten(small).items() if _is_array(leaf)}
        if lost := sorted(kept.keys() - held.keys()):
            raise UserError(f'variables are not those that the plan leaves: {"/".join(lost[0])} is missing')
        values = [_value(path, leaf, shapes, kept.get(path, {})) for path, leaf in held.items()]
        leaves, structure = jax.tree.flatten((inputs, options))
        arguments = [leaf for leaf in leaves if _is_array(leaf)]

        def original(variables: list[Any], arguments: list[Any]) -> Any:
            rest = iter(arguments)
            given = [next(rest) if _is_array(leaf) else leaf for leaf in leaves]
            inputs, options = jax.tree.unflatten(structure, given)
            return apply(trees.replace(small, dict(zip(held, variables, strict=True))), *inputs, **options)

        wide = [_struct(value.array, value.sizes) for value in values]
        closed, shape = jax.make_jaxpr(original, return_shape=True)(wide, [_struct(each) for each in arguments])
        results = evaluate(closed.jaxpr, closed.consts, [*values, *map(whole, arguments)])
        return jax.tree.unflatten(jax.tree.structure(shape), arrays_of(results))

    return run


def _value(
    path: trees.Path, leaf: Any, shapes: Mapping[trees.Path, tuple[int, ...]], kept: Mapping[int, Kept]
) -> Value:
    masks = tuple(kept.get(axis) for axis in range(np.ndim(leaf)))
    value = Value(leaf, tuple(unless_all(mask) for mask in masks))
    expected = tuple(count(mask, size) for size, mask in zip(shapes.get(path, leaf.shape), value.kept, strict=False))
    if leaf.shape != expected:
        raise UserError(
            f'variables are not those that the plan leaves: {"/".join(path)} is {leaf.shape}, not {expected}'
        )
    return value


def _shapes(variables: Any) -> dict[trees.Path, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in trees.flatten(variables).items() if _is_array(leaf)}


def _struct(leaf: Any, shape: tuple[int, ...] | None = None) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(aval.shape if shape is None else shape, aval.dtype, weak_type=aval.weak_type)


def _is_array(leaf: Any) -> bool:
    """Whether a leaf is an argument of the program; numbers of Python and NumPy are not."""
    return hasattr(leaf, 'shape') and hasattr(leaf, 'dtype') and not isinstance(leaf, np.generic)
