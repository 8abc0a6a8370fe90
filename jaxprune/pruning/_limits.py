"""Budgets as users write them, as costs with limits; and what a plan costs."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune.errors import UserError
from jaxprune.graph import Graph
from jaxprune.pruning._apply import bound_graph
from jaxprune.pruning._budget import Limit
from jaxprune.pruning._layers import Key, find_group
from jaxprune.pruning._plan import Plan

Table = Mapping[Key, Mapping[int, float]]
"""Layer or group -> number of kept channels -> measured cost."""
Options = Sequence[np.ndarray]


def planned_costs(plan: Plan) -> dict[str, float]:
    """What the model costs after slicing, without slicing: each of `Graph.costs`.

    Raises:
      UserError: if the plan is not bound to a graph.
    """
    graph = bound_graph(plan)
    kept = [group.channels for group in graph.groups]
    index = {group.name: group.index for group in graph.groups}
    for layer in plan.layers:
        kept[index[layer.name]] = len(layer.keep)
    return {name: float(cost(np.array(kept))) for name, cost in graph.costs.items()}


def find_limits(
    graph: Graph,
    budget: Mapping[str, float],
    tables: Mapping[str, Table],
    options: Options,
    aliases: Mapping[str, str] | None = None,
) -> list[Limit]:
    """Costs and what they may be at most.

    Args:
      graph: connectivity of the model.
      budget: name of a cost -> a whole number: its limit; any other number: a share of what the whole model costs if at
        most 1, else the limit.
      tables: name of a cost -> measurements, summed over groups; between two measurements, a straight line is assumed.
      options: counts of channels that each group may keep.
      aliases: other names of layers -> their names.

    Raises:
      UserError: for a cost that is unknown or measured for a wrong layer or count, or a limit that is not above 0.
    """
    unknown = [name for name in tables if name not in budget or name in (*graph.costs, 'flops')]
    if unknown:
        raise UserError(f'table {unknown[0]!r} is not used: name it in the budget, under a name that no other cost has')
    if wrong := [name for name, table in tables.items() if not _is_table(table)]:
        raise UserError(f'table {wrong[0]!r} cannot be read: give layer -> number of kept channels -> cost')
    measured = {name: _tabled(graph, name, table, options, aliases) for name, table in tables.items()}
    return [_limit(graph, name, value, measured) for name, value in budget.items()]


def _is_table(table: Any) -> bool:
    if not isinstance(table, Mapping) or not all(isinstance(measured, Mapping) for measured in table.values()):
        return False
    pairs = [pair for measured in table.values() for pair in measured.items()]
    return all(isinstance(count, numbers.Integral) and _is_cost(cost) for count, cost in pairs)


def _is_cost(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _limit(graph: Graph, name: str, value: float, measured: Mapping[str, tuple[list[np.ndarray], float]]) -> Limit:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < value < float('inf'):
        raise UserError(f'budget {name!r} is {value!r}: give a share (0.5) or a whole number, above 0')
    share = not isinstance(value, numbers.Integral) and value <= 1
    if name in measured:
        costs, whole = measured[name]
        return Limit(name, costs, float(value) * (whole if share else 1))
    factor, source = (0.5, 'macs') if name == 'flops' else (1, name)  # one multiply-accumulate is two operations
    if source not in graph.costs:
        known = ', '.join([*graph.costs, 'flops', *measured])
        raise UserError(f'budget {name!r} is of no known cost: give one of {known}, or a table of it')
    cost = graph.costs[source]
    whole = float(cost(np.array([group.channels for group in graph.groups])))
    return Limit(source, cost, float(value) * (whole if share else factor))


def _tabled(
    graph: Graph, name: str, table: Table, options: Options, aliases: Mapping[str, str] | None
) -> tuple[list[np.ndarray], float]:
    """Costs of every option of every group, and of the whole model; a group without measurements costs nothing."""
    costs, whole = [np.zeros(len(option)) for option in options], 0.0
    for key, measured in table.items():
        group = find_group(graph, key, aliases)
        counts = np.array(sorted(measured), float)
        allowed = options[group.index]
        if not len(counts) or counts[0] > allowed[0] or counts[-1] < group.channels:
            raise UserError(
                f'table {name!r} does not cover {group.name}: measure it with {allowed[0]} to {group.channels} channels'
            )
        values = np.array([measured[int(count)] for count in counts], float)
        costs[group.index] += np.interp(allowed, counts, values)
        whole += float(np.interp(group.channels, counts, values))
    return costs, whole
