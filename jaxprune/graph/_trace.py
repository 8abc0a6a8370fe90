"""From a function of variables and inputs to its connectivity graph."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune.errors import UserError
from jaxprune.graph import _rules_call, _rules_contract, _rules_elementwise, _rules_reduce, _rules_shape  # noqa: F401
from jaxprune.graph._cost import Cost, sum_of_products
from jaxprune.graph._edges import find_edges
from jaxprune.graph._groups import OUTPUT, Solution, find_groups, solve
from jaxprune.graph._leaves import Leaves, longest_prefixes
from jaxprune.graph._program import Program, trace_program
from jaxprune.graph._proof import Derivation, Lessons, Walk, failure, follow_better, learn
from jaxprune.graph._record import Protection, Record
from jaxprune.graph._registry import walk
from jaxprune.graph._types import Graph, Group, LayerInfo, Path
from jaxprune.graph._values import NONE, Ids

Layers = Sequence[tuple[str, Path]]
_NO_PRODUCER = 'its channels are those of an input of the model'
_NO_KERNEL = 'no convolution or matrix product with a kernel of it was found'


def trace(
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    layers: Layers | None = None,
    approximate: bool = False,
    prove: bool = True,
) -> Graph:
    """Follows every channel through a model; nothing is compiled or computed.

    What cannot be followed exactly is protected: `Group.protected` and `LayerInfo.reason` name the primitive and the
    user's line. Unless `prove` is False, the function is then traced again with channels of every group removed, and
    both programs are compared, equation by equation: where a number or a shape in the second is not what follows from
    the first (a scale computed from a width, a width written into the code), the groups that cause it are protected
    too.

    Args:
      apply: pure function, called as `apply(variables, *inputs)`, in evaluation mode.
      variables: pytree of arrays or `jax.ShapeDtypeStruct`; leaves of other kinds are passed on. The first keys may
        name collections, of which one is `params`.
      *inputs: arrays or `jax.ShapeDtypeStruct`; nothing along their axes is ever removed.
      layers: `(name, path prefix without the collection)` in index order; a layer may own several kernels. None: every
        module that owns a kernel is a layer, in the order in which they are used.
      approximate: whether channels may be removed that others depend on (layer norm, softmax over channels, a scale by
        the width): then a sliced network does not compute what the masked one does.
      prove: whether to compare with the function at other widths.

    Returns:
      Layers, edges, groups and costs.

    Raises:
      UserError: if a prefix in `layers` fits no leaf, or a name stands there twice.
    """
    derive = functools.partial(_derive, trace_program(apply, variables, inputs), layers, approximate)
    found, lessons = follow_better(derive)
    if not prove:
        return found.graph
    while (more := learn(found, lessons)) is not None:
        lessons = more
        found = derive(lessons)
    return dataclasses.replace(found.graph, walk=found.walk)


def differences(graph: Graph, removed: Mapping[str, Sequence[int]]) -> list[str]:
    """Where the function without these channels is not what follows from the whole one; nothing is computed.

    `trace` compares with the function at some other widths; this compares at exactly those that are wanted. A list
    that is empty says that slicing computes what masking does.

    Args:
      graph: of a trace with `prove`.
      removed: name of a group -> channels that go.

    Returns:
      A line for every difference; numbers that depend on the width are no difference where the graph allows them.

    Raises:
      UserError: if the graph was traced with `prove=False`.
    """
    if graph.walk is None:
        raise UserError('the graph was traced with prove=False: trace the function without it to compare widths')
    channels = [(graph.group_of(name), np.asarray(channels, int)) for name, channels in removed.items()]
    approximate = any(group.approximate for group in graph.groups)
    # Where they differ, it may be that the function or JAX's settings are not what they were when it was traced.
    return _reasons(graph.walk, channels, approximate) and _reasons(graph.walk.again(), channels, approximate)


def _reasons(walk: Walk, removed: Sequence[tuple[Group, Ids]], approximate: bool) -> list[str]:
    try:
        findings = walk.findings(walk.without(removed))
    except Exception as error:
        findings = [failure(error)]
    return [finding.reason for finding in findings if not (finding.soft and approximate)]


def _derive(program: Program, layers: Layers | None, approximate: bool, lessons: Lessons) -> Derivation:
    leaves = program.leaves
    record = Record(leaves, None if layers is None else _owners(leaves, layers), choices=lessons.choices)
    outputs = walk(record, program.jaxpr.jaxpr, program.jaxpr.consts, program.values())
    for result in outputs:
        ids = result.known() if result.split is None else result.split
        record.protections.insert(0, Protection(ids[ids >= 0], OUTPUT))
    record.protections += lessons.protections
    names, owner = _name_layers(record, layers)
    solution = solve(record, owner, names)
    groups, group_of_id = find_groups(solution, approximate=approximate)
    edges = find_edges(record, owner, inner=layers is None)
    infos, costs = _layer_infos(record, owner, names, groups), _costs(solution, groups, group_of_id)
    walked = Walk(program, lessons.choices, record.steps, outputs, group_of_id)
    return Derivation(Graph(infos, edges, groups, costs), walked, solution)


def _name_layers(record: Record, layers: Layers | None) -> tuple[list[str], Ids]:
    if layers is None:
        layers = _modules(record)
        return [name for name, _ in layers], _owners(record.leaves, layers)
    used = set(_kernel_leaves(record))
    owner = _owners(record.leaves, layers) if record.owner is None else record.owner
    if lost := [leaf for leaf in used if owner[leaf] == NONE]:
        path = '/'.join(record.leaves.paths[lost[0]])
        raise UserError(f'layers: no entry covers the kernel {path}; add one with the prefix of its module')
    return [name for name, _ in layers], owner


def _owners(leaves: Leaves, layers: Layers) -> Ids:
    """Per leaf, the layer with the longest prefix that fits, or NONE."""
    prefixes = [tuple(prefix) for _, prefix in layers]
    owner = longest_prefixes(leaves.modules, prefixes)
    names = [name for name, _ in layers]
    for index, (name, prefix) in enumerate(layers):
        if index not in owner:
            raise UserError(f'layers: {name!r} with the prefix {"/".join(prefix)!r} fits no leaf of the variables')
        if names.count(name) > 1:
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
    groups_of: dict[str, list[Group]] = {}
    for group in groups:
        for name in group.layers:
            groups_of.setdefault(name, []).append(group)
    channels = _channels(record, owner)
    infos = []
    for index, name in enumerate(names):
        reasons = [group.protected for group in groups_of.get(name, [])]
        reason: str | None = _NO_PRODUCER if index in channels else _NO_KERNEL
        if reasons:
            reason = None if None in reasons else reasons[0]
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


def _costs(solution: Solution, groups: Sequence[Group], group_of_id: Ids) -> Mapping[str, Cost]:
    record = solution.record
    counts = np.array([group.channels for group in groups], float)

    def total(terms: Sequence[tuple[float, Sequence[Ids]]]) -> Cost:
        return sum_of_products(terms, group_of_id, counts)

    leaves = record.leaves
    spans: dict[int, list[Ids]] = {}
    for axis, (start, size) in enumerate(zip(leaves.starts, leaves.sizes, strict=True)):
        spans.setdefault(int(leaves.axis_leaf[axis]), []).append(np.arange(start, start + size))
    stored = [(1.0, spans.get(leaf, [])) for leaf in range(len(leaves.paths)) if leaves.trained[leaf]]
    kinds = {
        kind: [(work.scale, work.axes) for work in record.work if work.kind == kind] for kind in ('macs', 'activations')
    }
    return {'parameters': total(stored)} | {kind: total(terms) for kind, terms in kinds.items()}
