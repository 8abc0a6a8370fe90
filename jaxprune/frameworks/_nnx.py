"""Flax NNX: modules whose widths follow the variables that they hold."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from jaxprune.errors import UserError
from jaxprune.frameworks import _nnx_layers


def resize(model: nnx.Module, small: Any) -> nnx.Module:
    """See `jaxprune.frameworks.resize`."""
    if isinstance(small, nnx.Module):
        return in_line(nnx.merge(*nnx.split(small), copy=True))
    graphdef, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    for part in small if isinstance(small, (tuple, list)) else (small,):
        flat |= _leaves(part, flat)
    return in_line(nnx.merge(graphdef, nnx.from_flat_state(flat), copy=True))


def _leaves(small: Any, flat: Mapping[Any, Any]) -> dict[Any, Any]:
    """Variables by path, as in the module."""
    if not isinstance(small, (nnx.State, Mapping)):
        raise UserError(f'an NNX module takes an nnx.State or several of them, not a {type(small).__name__}')
    found: dict[Any, Any] = dict(nnx.to_flat_state(small)) if isinstance(small, nnx.State) else dict(_pure(small))
    unknown = [path for path in found if path not in flat]
    if unknown:
        raise UserError(f'variables are not of this model: it has no {"/".join(map(str, unknown[0]))}')
    return {
        path: leaf
        if isinstance(leaf, nnx.Variable) or not isinstance(flat[path], nnx.Variable)
        else flat[path].replace(leaf)
        for path, leaf in found.items()
    }


def _pure(tree: Mapping[Any, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _pure(value, (*path, key))
        else:
            yield (*path, key), value


def in_line(module: nnx.Module) -> nnx.Module:
    """The same module object, its layers' widths set from their variables."""
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module):
            for name, value in _nnx_layers.attributes(node).items():
                setattr(node, name, value)
    return module


def modules_in_line(tree: Any) -> Any:
    """A tree in which every NNX module is replaced by a copy that is in line with its variables."""

    def is_module(node: Any) -> bool:
        return isinstance(node, nnx.Module)

    def copied(node: Any) -> Any:
        return in_line(nnx.merge(*nnx.split(node), copy=True)) if is_module(node) else node

    return jax.tree.map(copied, tree, is_leaf=is_module)


def call(graphdef: nnx.GraphDef, state: Any, *inputs: Any, **options: Any) -> Any:
    """Merges, brings in line and calls a module."""
    states = state if isinstance(state, (tuple, list)) else (state,)
    return in_line(nnx.merge(graphdef, *states))(*inputs, **options)


def states_in(tree: Any) -> list[nnx.State]:
    """Every state in a tree."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, nnx.State))
    return [leaf for leaf in leaves if isinstance(leaf, nnx.State)]


def graphdef_in_line(graphdef: nnx.GraphDef, states: list[nnx.State]) -> nnx.GraphDef:
    """The graph definition at the widths of the states; itself where they do not make up a module of it."""
    for chosen in (states, *([state] for state in states)):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            return nnx.split(in_line(nnx.merge(graphdef, *chosen)))[0]
    return graphdef
