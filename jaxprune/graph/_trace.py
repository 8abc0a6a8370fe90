"""From a function of variables and inputs to its connectivity graph."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.errors import UserError
from jaxprune.graph import _rules_call, _rules_contract, _rules_elementwise, _rules_reduce, _rules_shape  # noqa: F401
from jaxprune.graph._edges import find_edges
from jaxprune.graph._groups import OUTPUT, find_groups
from jaxprune.graph._leaves import Leaves, longest_prefix, number
from jaxprune.graph._record import Protection, Record
from jaxprune.graph._registry import walk
from jaxprune.graph._types import Graph, Group, LayerInfo, Path
from jaxprune.graph._values import NONE, Ids, fixed

Layers = Sequence[tuple[str, Path]]
_NO_PRODUCER = 'its channels are those of an input of the model'
_NO_KERNEL = 'no convolution or matrix product with a kernel of it was found'


def trace(apply: Callable[..., Any], variables: Any, *inputs: Any, layers: Layers | None = None) -> Graph:
    """Follows every channel through a model; nothing is compiled or computed.

    What cannot be followed exactly is protected: `Group.protected` and `LayerInfo.reason` name the primitive.

    Args:
      apply: pure function, called as `apply(variables, *inputs)`, in evaluation mode.
      variables: pytree of arrays or `jax.ShapeDtypeStruct`; with a collection `params` at its top, or without
        collections.
      *inputs: arrays or `jax.ShapeDtypeStruct`; nothing along their axes is ever removed.
      layers: `(name, path prefix without the collection)` in index order; a layer may own several kernels. None: every
        module that owns a kernel is a layer, in the order in which they are used.

    Returns:
      Layers, edges and groups.

    Raises:
      UserError: if a prefix in `layers` fits no leaf, or a name stands there twice.
    """
    leaves = number(variables)
    record = Record(leaves, None if layers is None else _owners(leaves, layers))
    arguments = [fixed(np.shape(leaf), data=True) for leaf in jax.tree.leaves(inputs)]
    jaxpr = jax.make_jaxpr(apply)(variables, *inputs).jaxpr
    for result in walk(record, jaxpr, [*leaves.values(), *arguments]):
        ids = result.known() if result.split is None else result.split
        record.protections.insert(0, Protection(ids[ids >= 0], OUTPUT))
    names, owner = _name_layers(record, layers)
    groups = find_groups(record, owner, names)
    edges = find_edges(record, owner, inner=layers is None)
    return Graph(_layer_infos(record, owner, names, groups), edges, groups)


def _name_layers(record: Record, layers: Layers | None) -> tuple[list[str], Ids]:
    if layers is None:
        layers = _modules(record)
        return [name for name, _ in layers], _owners(record.leaves, layers)
    used = set(_kernel_leaves(record))
    owner = _owners(record.leaves, layers).copy()
    if lost := [leaf for leaf in used if owner[leaf] == NONE]:
        path = '/'.join(record.leaves.paths[lost[0]])
        raise UserError(f'layers: no entry covers the kernel {path}; add one with the prefix of its module')
    return [name for name, _ in layers], owner


def _owners(leaves: Leaves, layers: Layers) -> Ids:
    """Per leaf, the layer with the longest prefix that fits, or NONE."""
    prefixes = [tuple(prefix) for _, prefix in layers]
    owner = np.array([longest_prefix(path, prefixes) for path in leaves.modules], int)
    for index, (name, prefix) in enumerate(layers):
        if index not in owner:
            raise UserError(f'layers: {name!r} with the prefix {"/".join(prefix)!r} fits no leaf of the variables')
        if [other for other, _ in layers].count(name) > 1:
            raise UserError(f'layers: the name {name!r} stands there twice; give every layer its own')
    return owner


def _kernel_leaves(record: Record) -> list[int]:
    """In trace order, each once."""
    found = [int(leaf) for ids in record.kernels for leaf in record.leaves.leaf_of(ids[ids >= 0])[:1]]
    return list(dict.fromkeys(found))


def _modules(record: Record) -> list[tuple[str, Path]]:
    """Every module with one kernel of its own, and every kernel that shares its module with others."""
    paths = [record.leaves.modules[leaf] for leaf in _kernel_leaves(record)]
    parents = [path[:-1] for path in paths]
    prefixes = [path if parents.count(path[:-1]) > 1 or len(path) == 1 else path[:-1] for path in paths]
    return [('/'.join(prefix), prefix) for prefix in prefixes]


def _layer_infos(record: Record, owner: Ids, names: list[str], groups: tuple[Group, ...]) -> tuple[LayerInfo, ...]:
    group_of = {name: group for group in reversed(groups) for name in group.layers}
    channels = _channels(record, owner)
    infos = []
    for index, name in enumerate(names):
        group = group_of.get(name)
        reason = group.protected if group else (_NO_PRODUCER if index in channels else _NO_KERNEL)
        infos.append(LayerInfo(index, name, channels.get(index, 0), reason is None, reason))
    return tuple(infos)


def _channels(record: Record, owner: Ids) -> dict[int, int]:
    """Per layer, the size of the output axis of the last of its kernels that is used."""
    found = {}
    for ids in record.kernels:
        axis = record.leaves.axis_of[ids[ids >= 0][0]]
        leaf = record.leaves.axis_leaf[axis]
        found[int(owner[leaf])] = record.leaves.shapes[leaf][record.leaves.axis_place[axis]]
    return found
