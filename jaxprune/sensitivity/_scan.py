"""The scan: the metric of every candidate, written to a table as it is measured."""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Bool

from jaxprune import progress
from jaxprune.errors import UserError
from jaxprune.sensitivity._engine import Batch, Engine, Model, checked, devices
from jaxprune.sensitivity._memory import sample_bytes, value_limit
from jaxprune.sensitivity._metrics import Metric, Statistics
from jaxprune.sensitivity._racing import Racing, losers, stretches
from jaxprune.sensitivity._rows import Candidate, Intervals, Key, Row, Sample, joined, measured
from jaxprune.sensitivity._table import Share, Table

CELLS = 48
"""Most candidates that go through the data together; the unpruned model is computed once for all of them."""
LEAST_CELLS = 16
"""As many where they take long, so that rows are written often; the unpruned model then is a seventh of the work."""
FLUSH_SECONDS = 300
"""How often rows are written, roughly, as long as that leaves more than `LEAST_CELLS`."""
_POLL_SECONDS = 0.5


class Batches(Protocol):
    """The data: batches that can be gone through as often as needed. A list will do."""

    def __len__(self) -> int:
        """How many batches."""
        ...

    def __getitem__(self, part: slice, /) -> Iterable[Batch]:
        """Some of them, the same every time."""
        ...


def scan(
    model: Model,
    candidates: Sequence[Candidate],
    *,
    batches: Batches,
    metric: Metric,
    table: Table,
    intervals: Intervals | None = None,
    racing: Racing | None = None,
    memory: int | None = None,
) -> list[Row]:
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
      racing: stops candidates that will not be chosen; the batches then have to come in random order.
      memory: most bytes that the process may hold, or where there are accelerators, each of these.

    Returns:
      The rows, in the order of the candidates.
    """
    if not len(batches):
        raise UserError('there are no batches to scan on: give at least one')
    own = _own(candidates, table.share)
    missing = [candidate for candidate in candidates if candidate.key in own and candidate.key not in table]
    done = sum(candidate.key in table for candidate in candidates)
    with progress.bar('scan', len(candidates), unit='cells', done=done) as advance:

        def append(candidate: Candidate, sample: Sample, **more: Any) -> None:
            table.append({**candidate.row(measured(metric, sample, intervals)), **more})

        engine = Engine(model, metric, memory=value_limit(memory, model.variables, devices()[0]))
        loop = _Loop(engine, append, lambda steps: advance(steps=steps), sample_bytes(memory))
        loop.measure(missing, batches, racing)
        while not table.join(candidate.key for candidate in candidates):
            waiting = [candidate.key for candidate in candidates if candidate.key not in table]
            layer, rate = waiting[0]
            advance(f'waits for {len(waiting)} cells of other processes, such as layer {layer} at {rate}', steps=0)
            time.sleep(_POLL_SECONDS)
    return [table.rows[candidate.key] for candidate in candidates]


def _own(candidates: Sequence[Candidate], share: Share) -> set[Key]:
    """Those of this process: the same in whatever order the candidates come."""
    keys = sorted((candidate.key for candidate in candidates), key=repr)
    return set(keys[share.index :: share.count])


@dataclasses.dataclass
class _Loop:
    """Takes candidates through the data.

    Attributes:
      engine: that computes.
      append: writes the row of a candidate, from its sample of images.
      advance: the progress, in cells.
      most_bytes: that samples of candidates that go together may take.
      together: how many candidates do; the first one shows how long one takes, and how much memory.
      parts: how many times as many images there are in all as in the stretch that is measured.
    """

    engine: Engine
    append: Callable[..., None]
    advance: Callable[[float], None]
    most_bytes: int
    together: int = 1
    parts: float = 1

    def measure(self, candidates: Sequence[Candidate], batches: Batches, racing: Racing | None) -> None:
        """All of them, over all batches or, racing, as long as they may be chosen."""
        if not candidates:
            return
        kept: dict[Key, list[Sample]] = {candidate.key: [] for candidate in candidates}
        for start, stop in stretches(batches, racing):
            last = stop == len(batches)
            self.parts = len(batches) / (stop - start)

            def keep(candidate: Candidate, sample: Sample, last: bool = last) -> None:
                kept[candidate.key].append(sample)
                if last:
                    self.append(candidate, joined(kept.pop(candidate.key)))

            self._measure(candidates, batches[start:stop], len(batches), keep)
            if racing and not last:
                lost = losers(racing, self.engine.metric, candidates, [kept[each.key] for each in candidates])
                for candidate in (candidate for candidate in candidates if candidate.key in lost):
                    sample = joined(kept.pop(candidate.key))
                    self.append(candidate, sample, stopped={**racing.purpose, 'images': sample.images})
                    self.advance(1 - stop / len(batches))
                candidates = [candidate for candidate in candidates if candidate.key not in lost]

    def _measure(
        self,
        candidates: Sequence[Candidate],
        batches: Iterable[Batch],
        count: int,
        done: Callable[[Candidate, Sample], None],
    ) -> None:
        """Group by group; while the devices compute one, the host deals with the one before."""
        with concurrent.futures.ThreadPoolExecutor(1) as host:
            before: concurrent.futures.Future[Any] | None = None
            while candidates:
                start = time.perf_counter()
                group, candidates = candidates[: self.together], candidates[self.together :]
                collected = self._collect(group, batches, count)
                if self.together == 1:
                    seconds, size = time.perf_counter() - start, tree_bytes(collected[0].kept)
                    self.together = self._fitting(seconds * self.parts, int(size * self.parts))
                if before is not None:
                    before.result()
                before = host.submit(lambda *each: list(map(done, *each)), group, collected)
            if before is not None:
                before.result()

    def _fitting(self, seconds: float, size: int) -> int:
        """How many candidates go through the data together, if one takes so long and so many bytes."""
        wanted = min(max(LEAST_CELLS, int(FLUSH_SECONDS / seconds)), CELLS)
        return max(1, min(wanted, self.most_bytes // max(1, size)))

    def _collect(self, group: Sequence[Candidate], batches: Iterable[Batch], count: int) -> list[Sample]:
        """What is kept of every candidate over all valid images, in the order of the batches."""
        changed = [self.engine.masked(candidate.plan) for candidate in group]
        collected: list[list[Sample]] = [[] for _ in group]
        waiting: list[tuple[Any, float, list[Statistics]]] = []
        metric = self.engine.metric

        def read() -> None:
            valid, share, computed = waiting.pop(0)
            for rows, statistics in zip(collected, computed, strict=True):
                rows.append(Sample(int(valid.sum()), metric.kept(of_valid(statistics, valid))))
            self.advance(len(group) * share / count)

        for batch in map(checked, batches):
            for part in self.engine.parts(changed, batch):
                share = len(part.valid) / len(batch.valid)
                waiting.append((part.valid, share, self.engine.compute(changed, part)))
                if len(waiting) > 1:  # the devices compute one batch while the host reads the one before
                    read()
        while waiting:
            read()
        return [joined(rows) for rows in collected]


def of_valid(statistics: Statistics, valid: Bool[np.ndarray, ' b']) -> Statistics:
    """Those of the images that count, on the host."""
    on_host = jax.tree.map(np.asarray, statistics)
    for leaf in jax.tree.leaves(on_host):
        if leaf.shape[:1] != valid.shape:
            raise UserError(f'the metric gives {leaf.shape} for {len(valid)} images: it has to give a number per image')
    return jax.tree.map(lambda leaf: leaf[valid], on_host)


def tree_bytes(tree: Any) -> int:
    """What its arrays take."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
