"""Equinox: modules whose static fields follow their arrays."""

from typing import Any

import equinox as eqx
import jax

from jaxprune.errors import UserError
from jaxprune.frameworks import _equinox_layers


def _is_none(node: Any) -> bool:
    return node is None


def resize(model: eqx.Module, small: Any) -> eqx.Module:
    """See `jaxprune.frameworks.resize`."""
    leaves, structure = jax.tree.flatten(model, is_leaf=_is_none)
    smaller = jax.tree.leaves(small, is_leaf=_is_none)
    if len(leaves) != len(smaller):
        raise UserError(f'variables are not of this model: they have {len(smaller)} leaves, it has {len(leaves)}')
    merged = [old if new is None else new for old, new in zip(leaves, smaller, strict=True)]
    return in_line(jax.tree.unflatten(structure, merged))


def in_line(tree: Any) -> Any:
    """The tree with the static fields of every Equinox module in it set from the shapes of its arrays."""

    def is_module(node: Any) -> bool:
        return isinstance(node, eqx.Module)

    def visit(node: Any) -> Any:
        if not is_module(node):
            return node
        inner = jax.tree.map(visit, node, is_leaf=lambda other: is_module(other) and other is not node)
        return _with_fields(inner, _equinox_layers.fields(inner))

    return jax.tree.map(visit, tree, is_leaf=is_module)


def static_in_line(static: eqx.Module, variables: Any) -> eqx.Module:
    """The rest of a partitioned module (None for its arrays) at the widths of its arrays, which stand elsewhere."""
    leaves = jax.tree.leaves(static, is_leaf=_is_none)
    for candidate in jax.tree.leaves(variables, is_leaf=lambda node: type(node) is type(static)):
        arrays = jax.tree.leaves(candidate, is_leaf=_is_none)
        if type(candidate) is type(static) and _complete(leaves, arrays):
            structure = jax.tree.structure(resize(static, candidate), is_leaf=_is_none)
            return jax.tree.unflatten(structure, leaves)
    return static


def _complete(static: list[Any], arrays: list[Any]) -> bool:
    """Whether each of two lists of leaves has None where the other has not."""
    return len(static) == len(arrays) and all(a is None or b is None for a, b in zip(static, arrays, strict=True))


def _with_fields(module: eqx.Module, changes: dict[str, Any]) -> eqx.Module:
    """A copy with other static fields; no `__init__` runs."""
    if not changes:
        return module
    copy = object.__new__(type(module))
    for name, value in (vars(module) | changes).items():
        object.__setattr__(copy, name, value)
    return copy
