"""Pytrees of nested dictionaries, addressed by path."""

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]


def flatten(tree: Mapping[str, Any]) -> dict[Path, Any]:
    """Leaves by path, in the dictionaries' own order."""
    flat: dict[Path, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {(key, *path): leaf for path, leaf in flatten(value).items()}
        else:
            flat[(key,)] = value
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


def get(tree: Mapping[str, Any], path: Path) -> Any:
    """What stands at `path`; KeyError where nothing does."""
    for key in path:
        tree = tree[key]
    return tree


def replace(tree: Mapping[str, Any], leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """A copy of `tree` with the given leaves in place of its own; KeyError for a path that it lacks."""
    flat = flatten(tree)
    unknown = [path for path in leaves if path not in flat]
    if unknown:
        raise KeyError('/'.join(unknown[0]))
    return unflatten({**flat, **leaves})


def diff(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """One line for every leaf that is missing, unexpected or of another shape; empty where the trees fit."""
    want, have = flatten(expected), flatten(actual)
    lines = [f'missing: {"/".join(path)} {tuple(want[path].shape)}' for path in want if path not in have]
    lines += [f'unexpected: {"/".join(path)} {tuple(have[path].shape)}' for path in have if path not in want]
    lines += [
        f'shape: {"/".join(path)} is {tuple(have[path].shape)}, expected {tuple(want[path].shape)}'
        for path in want
        if path in have and tuple(have[path].shape) != tuple(want[path].shape)
    ]
    return lines
