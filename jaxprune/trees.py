"""Pytrees of any kind, addressed by path.

A path is a tuple of strings, one for every key of `jax.tree_util.tree_flatten_with_path`: keys of dictionaries, names
of attributes, indices of sequences. `None` counts as a leaf.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Path = tuple[str, ...]
_ARRAYS = (np.ndarray, jax.ShapeDtypeStruct, jax.Array)


def flatten(tree: Any) -> dict[Path, Any]:
    """Leaves by path; keys of dictionaries in their own order, everything else in JAX's."""
    flat: dict[Path, Any] = {}
    _collect(tree, (), flat)
    return flat


def unflatten(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """The nested dictionary whose `flatten` is `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def get(tree: Any, path: Path) -> Any:
    """What stands at `path`; KeyError where nothing does."""
    for key in path:
        tree = tree[key] if type(tree) is dict and key in tree else dict(_children(tree)[0])[key]
    return tree


def replace(tree: Any, leaves: Mapping[Path, Any]) -> Any:
    """A tree of the same type with the given leaves in place of its own; KeyError for a path that it lacks."""
    flat = flatten(tree)
    unknown = [path for path in leaves if path not in flat]
    if unknown:
        raise KeyError('/'.join(unknown[0]))
    return _rebuild(tree, (), leaves)


def diff(expected: Any, actual: Any) -> list[str]:
    """One line for every leaf that is missing, unexpected or of another shape; empty where the trees fit."""
    want, have = ({path: _shape(leaf) for path, leaf in flatten(tree).items()} for tree in (expected, actual))
    lines = [f'missing: {"/".join(path)} {want[path]}' for path in want if path not in have]
    lines += [f'unexpected: {"/".join(path)} {have[path]}' for path in have if path not in want]
    lines += [
        f'shape: {"/".join(path)} is {have[path]}, expected {want[path]}'
        for path in want
        if path in have and have[path] != want[path]
    ]
    return lines


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(getattr(leaf, 'shape', ()))


def _collect(node: Any, path: Path, flat: dict[Path, Any]) -> None:
    children, build = _children(node)
    if build is None:
        flat[path] = node
    for key, child in children:
        _collect(child, (*path, key), flat)


def _rebuild(node: Any, path: Path, leaves: Mapping[Path, Any]) -> Any:
    children, build = _children(node)
    if build is None:
        return leaves.get(path, node)
    return build([_rebuild(child, (*path, key), leaves) for key, child in children])


def _children(node: Any) -> tuple[Sequence[tuple[str, Any]], Callable[[list[Any]], Any] | None]:
    """What lies one level below by key, and how the node is made of it; a leaf is not made of anything."""
    if type(node) is dict:
        return _items(node)
    if isinstance(node, _ARRAYS):
        return (), None  # as below, only sooner
    found: list[tuple[tuple[Any, ...], Any]]
    definition: Any
    found, definition = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
    if node is None or (found and not found[0][0]):
        return _items(node) if isinstance(node, Mapping) else ((), None)  # a mapping that JAX does not know
    return [(_text(path[0]), child) for path, child in found], definition.unflatten


def _items(node: Mapping[Any, Any]) -> tuple[Sequence[tuple[str, Any]], Callable[[list[Any]], Any]]:
    return [(str(key), child) for key, child in node.items()], lambda new: dict(zip(node, new, strict=True))


def _text(key: Any) -> str:
    for attribute in ('key', 'name', 'idx'):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def digest(*parts: Any) -> str:
    """A short digest of settings, variables and data: of every leaf its bytes or, where it is no array, its text."""
    state = hashlib.sha256()
    for leaf in jax.tree.leaves(parts):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)  # noqa: PLW2901
        if isinstance(leaf, np.ndarray | jax.Array):
            array = np.asarray(leaf)
            state.update(f'{array.dtype}{array.shape}'.encode() + array.tobytes())
        elif callable(leaf):  # its text would have an address in it, another one in every process
            state.update(getattr(leaf, '__qualname__', type(leaf).__qualname__).encode())
        else:
            state.update(repr(leaf).encode())
    return state.hexdigest()[:16]
