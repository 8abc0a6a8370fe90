"""The scan: the metric of every candidate, written to a table as it is measured."""

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Float

from jaxprune import progress, pruning
from jaxprune.errors import UserError
from jaxprune.sensitivity._engine import Batch, Engine, Model
from jaxprune.sensitivity._metrics import Metric, Statistics
from jaxprune.sensitivity._table import Table

CELLS = 48
"""Most candidates that go through the data together; the unpruned model is computed once for all of them."""
LEAST_CELLS = 16
"""As many where they take long, so that rows are written often; the unpruned model then is a seventh of the work."""
FLUSH_SECONDS = 300
"""How often rows are written, roughly, as long as that leaves more than `LEAST_CELLS`."""
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


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Bootstrap over images: percentile intervals of every figure.

    The same resamples serve all candidates. Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
    chapter 13.

    Attributes:
      resamples: how many data sets of as many images are drawn, with replacement.
      confidence: share of them between the bounds.
      seed: of the draw.
    """

    resamples: int = 200
    confidence: float = 0.95
    seed: int = 0

    def weights(self, images: int) -> Float[np.ndarray, 'r n']:
        """How often each image stands in each resample."""
        rng = np.random.default_rng(self.seed)
        return rng.multinomial(images, np.full(images, 1 / images), size=self.resamples).astype(np.float64)

    def bounds(self, values: Float[np.ndarray, 'r ...']) -> list[Any]:
        """Lower and upper bound."""
        tail = (1 - self.confidence) / 2
        return np.nanquantile(values, [tail, 1 - tail], axis=0).tolist()


def scan(
    model: Model,
    candidates: Sequence[Candidate],
    *,
    batches: Batches,
    metric: Metric,
    table: Table,
    intervals: Intervals | None = None,
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
      intervals: to be added to every row, as `NAME_interval`, `[lower, upper]`; of scalar figures.

    Returns:
      The rows, in the order of the candidates.
    """
    if not len(batches):
        raise UserError('there are no batches to scan on: give at least one')
    own = candidates[table.share.index :: table.share.count]
    missing = [candidate for candidate in own if _key(candidate) not in table]
    with progress.bar('scan', len(candidates), unit='cells', done=_done(candidates, table)) as advance:
        engine = Engine(model, metric)
        append = functools.partial(_append, table, metric, intervals)
        _measure(engine, missing, batches, append, lambda done: advance(steps=done))
        while not table.join(map(_key, candidates)):
            time.sleep(_POLL_SECONDS)
    return [table.rows[_key(candidate)] for candidate in candidates]


def _done(candidates: Iterable[Candidate], table: Table) -> int:
    return sum(_key(candidate) in table for candidate in candidates)


def _key(candidate: Candidate) -> tuple[int | str | None, float]:
    return candidate.layer, candidate.rate


def _measure(
    engine: Engine,
    candidates: Sequence[Candidate],
    batches: Batches,
    append: Callable[[Iterable[Candidate], Iterable[Statistics]], None],
    advance: Callable[[float], None],
) -> None:
    """Group by group; while the devices compute one, the host makes figures of the one before."""
    with concurrent.futures.ThreadPoolExecutor(1) as host:
        before: concurrent.futures.Future[None] | None = None
        together = 1  # the first group shows how long a candidate takes, and how much memory its statistics
        while candidates:
            start = time.perf_counter()
            group, candidates = candidates[:together], candidates[together:]
            collected = _collect(engine, group, batches, advance)
            together = together if together > 1 else _together(time.perf_counter() - start, _bytes(collected[0]))
            if before is not None:
                before.result()
            before = host.submit(append, group, collected)
        if before is not None:
            before.result()


def _together(seconds: float, size: int) -> int:
    """How many candidates go through the data together, if one takes so long and so many bytes."""
    wanted = min(max(LEAST_CELLS, int(FLUSH_SECONDS / seconds)), CELLS)
    return max(1, min(wanted, STATISTICS_BYTES // max(1, size)))


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
        waiting.append((batch.valid, engine.compute(changed, batch)))
        if len(waiting) > 1:  # the devices compute one batch while the host reads the one before
            read()
    while waiting:
        read()
    return [jax.tree.map(lambda *parts: np.concatenate(parts), *rows) for rows in collected]


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _append(
    table: Table,
    metric: Metric,
    intervals: Intervals | None,
    group: Iterable[Candidate],
    collected: Iterable[Statistics],
) -> None:
    for candidate, statistics in zip(group, collected, strict=True):
        images = len(jax.tree.leaves(statistics)[0])
        row = {name: _plain(value[0]) for name, value in metric.figures(statistics, np.ones((1, images))).items()}
        if intervals is not None:
            drawn = metric.figures(statistics, intervals.weights(images))
            row |= {f'{name}_interval': intervals.bounds(value) for name, value in drawn.items() if value.ndim == 1}
        table.append({'layer': candidate.layer, 'rate': candidate.rate, **row, **candidate.cost})


def _plain(value: Any) -> Any:
    """Numbers and lists, None where there is none (JSON has no NaN)."""
    if np.ndim(value):
        return [_plain(each) for each in value]
    return None if np.isnan(value) else float(value)
