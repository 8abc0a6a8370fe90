"""The scan of any model that can be traced."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxprune import pruning, trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph
from jaxprune.sensitivity._engine import Batch, Engine, Model, checked
from jaxprune.sensitivity._memory import checked_memory
from jaxprune.sensitivity._metrics import Metric
from jaxprune.sensitivity._racing import Racing
from jaxprune.sensitivity._rows import Candidate, Intervals
from jaxprune.sensitivity._scan import scan
from jaxprune.sensitivity._table import Share, Table


def candidates(
    graph: Graph,
    variables: Any,
    rates: Sequence[float],
    *,
    criterion: str = 'l2',
    seed: int = 0,
    exclude: Iterable[str] = (),
) -> list[Candidate]:
    """The unpruned model, then every group that can be pruned at every rate that leaves a channel of it.

    The columns `parameters` and `macs` say what is left, the latter for the inputs that the graph was traced with.

    Raises:
      UserError: where nothing is left to scan, or for a rate out of range.
    """
    rates = checked_rates(rates)
    cells: list[Candidate] = [_candidate(graph, None, 0, pruning.Plan().on(graph))]
    for key in pruning.uniform_rates(graph, 0, exclude=exclude):
        channels = graph.group_of(key).channels
        for rate in rates:
            if pruning.removed_filters(channels, rate) < channels:
                plan = pruning.plan_rates(graph, variables, {key: rate}, criterion=criterion, seed=seed)
                cells.append(_candidate(graph, key, rate, plan))
    if len(cells) == 1:
        raise UserError('no group or no rate is left to scan: name fewer patterns to exclude, or give lower rates')
    return cells


def checked_rates(rates: Iterable[float]) -> list[float]:
    """The rates as numbers, each once; `UserError` for what is none, or out of range."""
    try:
        found = list(dict.fromkeys(float(rate) for rate in rates))
    except (TypeError, ValueError) as error:
        raise UserError(f'rates {rates!r}: give several numbers, such as [0.25, 0.5] ({error})') from error
    wrong = [rate for rate in found if not 0 < rate < 1]
    if wrong:
        raise UserError(f'rate {wrong[0]:g} is out of range: a scan needs rates above 0 and below 1')
    return found


def _identity(graph: Graph) -> list[Any]:
    """What rows depend on in a graph: names of layers and groups, where the channels stand, and what they cost."""
    channels = np.array([group.channels for group in graph.groups], np.float64)
    costs = [float(cost(channels)) for cost in graph.costs.values()]
    slots = [[dataclasses.astuple(slot) for slot in group.slots] for group in graph.groups]
    return [
        *map(dataclasses.astuple, graph.layers),
        [(group.name, group.layers) for group in graph.groups],
        slots,
        costs,
    ]


def _candidate(graph: Graph, key: int | str | None, rate: float, plan: pruning.Plan) -> Candidate:
    kept = np.array([len(plan.keep.get(group.name, range(group.channels))) for group in graph.groups], np.float64)
    name = None if key is None else graph.group_of(key).name
    costs = {column: round(float(graph.costs[column](kept))) for column in ('parameters', 'macs')}
    return Candidate(layer=key, rate=rate, plan=plan, cost={'name': name, **costs})


def scan_model(
    apply: Callable[[Any, Any], Any],
    variables: Any,
    batches: Sequence[Batch],
    output: str | os.PathLike[str],
    *,
    graph: Graph,
    metric: Metric,
    rates: Sequence[float] = (0.25, 0.5, 0.75),
    criterion: str = 'l2',
    seed: int = 0,
    exclude: Iterable[str] = (),
    intervals: Intervals | None = None,
    racing: Racing | None = None,
    memory: float | None = None,
    share: Share | None = None,
) -> list[dict[str, Any]]:
    """Measures what pruning each group of a model alone would cost, into a table that goes on where it stopped.

    Args:
      apply: pure function, called as `apply(variables, inputs)`.
      variables: its variables, any pytree.
      batches: the data.
      output: the table: JSON, a row per line.
      graph: of `jaxprune.trace(apply, variables, inputs)`.
      metric: what is measured, such as `Mean('top1', top1)` or `Mean('distance', distance)`.
      rates: shares of a group's channels to remove.
      criterion: which channels go first.
      seed: of the criterion `random`.
      exclude: patterns of layers (index or name) that are left out.
      intervals: confidence intervals of every figure, by bootstrap over the images; None: none.
      racing: stops candidates that will not be chosen; the batches then have to come in random order.
      memory: most bytes that the process may hold, or where there are accelerators, each of these; None: no limit.
      share: of this process, where several share the table; None: as `jax.distributed` says.

    Returns:
      The rows: `layer` (index of the lowest layer of the group, or the group's name where that layer has several; None
      for the unpruned model), `rate`, the metric's figures, `name`, `parameters`, `macs`.

    Raises:
      UserError: where the table was measured with another model, data set, plan or metric.
    """
    cells = candidates(graph, variables, rates, criterion=criterion, seed=seed, exclude=exclude)
    given: dict[str, Any] = {'intervals': intervals, 'racing': racing, 'memory': checked_memory(memory)}
    model = Model(apply, variables)
    batches = [checked(batch) for batch in batches]
    digest = trees.digest(
        variables,
        _identity(graph),
        Engine(model, metric).texts(batches),
        [(each.inputs, each.labels, each.valid) for each in batches],
        *(metric.name, criterion, seed, repr(intervals), repr(racing)),
    )
    table = Table(output, digest, share=share)
    try:
        return scan(model, cells, batches=batches, metric=metric, table=table, **given)
    finally:
        table.close()
