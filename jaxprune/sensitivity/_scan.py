"""The scan: the metric of every candidate, written to a table as it is measured."""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from jaxprune import progress, pruning
from jaxprune.sensitivity._engine import Batch, Engine, Model
from jaxprune.sensitivity._metrics import Metric, Statistics
from jaxprune.sensitivity._table import Table

CELLS = 48
"""Most candidates that go through the data together; the unpruned model is computed once for all of them."""
STATISTICS_BYTES = 1 << 30
"""Most memory that their statistics may take: with many images fewer candidates go together."""
_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One cell of the table.

    Attributes:
      layer: index of the pruned layer, or name of the group where a layer has several; None for the unpruned model.
      rate: share of its filters that goes.
      plan: what goes; bound to the graph.
      cost: further columns of the row, known without measuring.
    """

    layer: int | str | None
    rate: float
    plan: pruning.Plan
    cost: Mapping[str, Any]


class Batches(Protocol):
    """The data: batches that can be gone through as often as needed."""

    def __len__(self) -> int:
        """How many batches."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """The same batches every time."""
        ...


def scan(
    model: Model, candidates: Sequence[Candidate], *, batches: Batches, metric: Metric, table: Table
) -> list[dict[str, Any]]:
    """Measures the candidates that the table lacks, and appends a row for each.

    The unpruned model is computed once per batch; a candidate computes only what depends on the weights that its plan
    masks. Images are spread over the devices of this process. Where several
    processes share a table, each measures its share of the candidates and waits until the others have done theirs.

    Args:
      model: function and variables.
      candidates: in the order in which they are measured.
      batches: gone through once for every `CELLS` candidates.
      metric: what is measured.
      table: where rows are looked up and appended.

    Returns:
      The rows, in the order of the candidates.
    """
    own = candidates[table.share.index :: table.share.count]
    missing = [candidate for candidate in own if _key(candidate) not in table]
    with progress.bar('scan', len(candidates), unit='cells', done=len(candidates) - len(missing)) as advance:
        _measure(Engine(model, metric), missing, batches, table, lambda done: advance(steps=done))
        while not table.join(map(_key, candidates)):
            time.sleep(_POLL_SECONDS)
    return [table.rows[_key(candidate)] for candidate in candidates]


def _key(candidate: Candidate) -> tuple[int | str | None, float]:
    return candidate.layer, candidate.rate


def _measure(
    engine: Engine,
    candidates: Sequence[Candidate],
    batches: Batches,
    table: Table,
    advance: Callable[[float], None],
) -> None:
    """Group by group; while the devices compute one, the host makes figures of the one before."""
    with concurrent.futures.ThreadPoolExecutor(1) as host:
        before: concurrent.futures.Future[None] | None = None
        together = 1  # the first group shows how much a candidate's statistics take
        while candidates:
            group, candidates = candidates[:together], candidates[together:]
            collected = _collect(engine, group, batches, advance)
            together = max(1, min(CELLS, STATISTICS_BYTES // max(1, _bytes(collected[0]))))
            if before is not None:
                before.result()
            before = host.submit(_append, table, engine.metric, group, collected)
        if before is not None:
            before.result()


def _collect(
    engine: Engine, group: Sequence[Candidate], batches: Batches, advance: Callable[[float], None]
) -> list[Statistics]:
    """Statistics of every candidate over all valid images, in the order of the batches."""
    changed = [engine.masked(candidate.plan) for candidate in group]
    collected: list[list[Statistics]] = [[] for _ in group]
    waiting: list[tuple[Any, list[Statistics]]] = []

    def read() -> None:
        valid, computed = waiting.pop(0)
        for rows, statistics in zip(collected, computed, strict=True):
            rows.append(jax.tree.map(lambda leaf: np.asarray(leaf)[valid], statistics))
        advance(len(group) / len(batches))

    for batch in batches:
        waiting.append((batch.valid, list(engine.compute(changed, batch))))
        if len(waiting) > 1:  # the devices compute one batch while the host reads the one before
            read()
    while waiting:
        read()
    return [jax.tree.map(lambda *parts: np.concatenate(parts), *rows) for rows in collected]


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _append(table: Table, metric: Metric, group: Iterable[Candidate], collected: Iterable[Statistics]) -> None:
    for candidate, statistics in zip(group, collected, strict=True):
        images = len(jax.tree.leaves(statistics)[0])
        figures = metric.figures(statistics, np.ones((1, images)))
        row = {name: np.asarray(value)[0].tolist() for name, value in figures.items()}
        table.append({'layer': candidate.layer, 'rate': candidate.rate, **row, **candidate.cost})
