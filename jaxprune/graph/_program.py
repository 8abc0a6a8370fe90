"""A function of variables and inputs as a program, at the widths that it was traced with and at others."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.sharding import NamedSharding
from jaxtyping import Bool

from jaxprune.frameworks import following
from jaxprune.graph._leaves import Leaves, is_array, number
from jaxprune.graph._values import Value, fixed


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function, and its jaxpr at the widths of its variables. It holds no arrays that are among its arguments.

    Attributes:
      apply: the function, which follows the widths of its variables.
      arguments: leaves of the variables, then those of the inputs; of arrays only their shapes.
      structure: of the pair of variables and inputs.
      leaves: of the variables, with their numbering.
      jaxpr: its arguments are the arrays among the leaves.
    """

    apply: Callable[..., Any]
    arguments: Sequence[Any]
    structure: Any
    leaves: Leaves
    jaxpr: core.ClosedJaxpr

    def values(self) -> list[Value]:
        """The arguments of the jaxpr as a walk meets them."""
        variables = self.leaves.values()
        inputs = arrays_in(self.arguments)[len(variables) :]
        return [*variables, *(fixed(leaf.shape, data=True) for leaf in inputs)]

    def again(self) -> 'Program':
        """The same function, traced anew: it, or JAX's settings, may have changed."""
        return dataclasses.replace(self, jaxpr=_jaxpr(self.apply, self.arguments, self.structure))

    def narrow(self, kept: Bool[np.ndarray, 'ids']) -> core.ClosedJaxpr:
        """The jaxpr of the function with only the kept elements of its variables."""
        shapes = [[axis.size for axis in value.axes] for value in self.leaves.values(kept)]
        arrays = arrays_in(self.arguments)
        small = iter([*map(_struct, arrays, shapes), *arrays[len(shapes) :]])
        arguments = [next(small) if is_array(leaf) else leaf for leaf in self.arguments]
        return _jaxpr(self.apply, arguments, self.structure)


def trace_program(apply: Callable[..., Any], variables: Any, inputs: Sequence[Any]) -> Program:
    """Traces `apply(variables, *inputs)`."""
    leaves, structure = jax.tree.flatten((variables, tuple(inputs)))
    arguments = [_struct(leaf, np.shape(leaf)) if is_array(leaf) else leaf for leaf in leaves]
    function = following(apply)
    return Program(function, arguments, structure, number(variables), _jaxpr(function, arguments, structure))


def arrays_in(tree: Any) -> list[Any]:
    """All arrays of a pytree, as a program takes them."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]


def _struct(leaf: Any, shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    kind, sharding = jax.typeof(leaf), getattr(leaf, 'sharding', None)
    kept = sharding if isinstance(sharding, NamedSharding) and tuple(shape) == kind.shape else None
    return jax.ShapeDtypeStruct(shape, kind.dtype, weak_type=getattr(kind, 'weak_type', False), sharding=kept)


def _jaxpr(apply: Callable[..., Any], arguments: Sequence[Any], structure: Any) -> core.ClosedJaxpr:
    def run(arrays: Sequence[Any]) -> Any:
        left = iter(arrays)
        leaves = [next(left) if is_array(leaf) else leaf for leaf in arguments]
        variables, inputs = jax.tree.unflatten(structure, leaves)
        return apply(variables, *inputs)

    return jax.make_jaxpr(run)(arrays_in(arguments))
