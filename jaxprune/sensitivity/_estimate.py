"""How long a scan will take, and how much memory: measured stage by stage on one batch."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.errors import UserError
from jaxprune.sensitivity._engine import Batch, Engine, Model, checked, devices
from jaxprune.sensitivity._memory import SAMPLE_BYTES, resident
from jaxprune.sensitivity._metrics import Metric
from jaxprune.sensitivity._rows import Candidate, Intervals, Sample, joined, measured
from jaxprune.sensitivity._scan import CELLS, Batches, of_valid, tree_bytes
from jaxprune.sensitivity._stages import Stages

_REPEATS = 3
SAMPLE = 12
"""Candidates that are computed together, to scale what was measured one by one."""
MOST_IMAGES = 256
"""On as many at most the figures are timed; on more they take longer in proportion."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a scan will need.

    Attributes:
      seconds: in all, compilation included.
      compile_seconds: of these, tracing and compiling.
      cells: candidates that it measures.
      computed: share of the model's time that a candidate computes, on average.
      host_bytes: largest resident memory of the process.
      device_bytes: largest memory in use on one device; None where the devices are the host.
    """

    seconds: float
    compile_seconds: float
    cells: int
    computed: float
    host_bytes: int
    device_bytes: int | None


def estimate(
    model: Model,
    candidates: Sequence[Candidate],
    *,
    batches: Batches,
    metric: Metric,
    intervals: Intervals | None = None,
    sizes: Sequence[int] | None = None,
    images: int | None = None,
    inputs_bytes: int = 0,
) -> Estimate:
    """Measures every stage on the first batch, and adds up what the candidates compute.

    Args:
      model: function and variables.
      candidates: those that will be measured.
      batches: the first one stands for all.
      metric: what will be measured.
      intervals: that rows will have.
      sizes: of the inputs of every batch, in any unit that time grows with; None: all are as large.
      images: how many are valid, in all; None: in every batch as many as in the first.
      inputs_bytes: that batches will come to hold beside those that are there already.

    Raises:
      UserError: where there is nothing to measure, or nothing to measure it on.
    """
    if not len(batches):
        raise UserError('there are no batches to scan on: give at least one')
    if not candidates:
        raise UserError('there are no candidates to measure: give at least one')
    start = time.perf_counter()
    batch = checked(next(iter(batches[:1])))
    reading = time.perf_counter() - start
    sizes = sizes or [1] * len(batches)
    count = sum(sizes) / sizes[0]
    engine = Engine(model, metric)
    stages, compiling = _timed(lambda: engine.stages(engine.place(batch)[0]))
    (statistics,), first = _timed(lambda: jax.block_until_ready(engine.compute([{}], batch)))
    reached, masking = _timed(lambda: [stages.chain.reached(engine.masked(each.plan)) for each in candidates])
    alone, measuring = _stage_seconds(engine, stages, batch)
    again = np.array([alone[list(numbers)].sum() for numbers in reached])
    # Taken together things take less (or more) time than one by one: a sample says by how much.
    sample = list(range(0, len(candidates), max(1, len(candidates) // SAMPLE)))
    masked = [engine.masked(candidates[index].plan) for index in sample]
    factor = _seconds(lambda: engine.compute(masked, batch)) / (alone.sum() + (again[sample] + measuring).sum())
    on_host = of_valid(statistics, batch.valid)
    kept = Sample(int(batch.valid.sum()), metric.kept(on_host))
    keeping = len(candidates) * _seconds(lambda: metric.kept(on_host))
    size = tree_bytes(kept.kept) * count
    together = max(1, min(CELLS, len(candidates), int(SAMPLE_BYTES / max(1, size))))
    passes = -(-len(candidates) // together)
    computing = count * (reading + keeping + factor * (passes * alone.sum() + (again + measuring).sum()))
    each = _row_seconds(metric, kept, kept.images * len(batches) if images is None else images, intervals)
    figures = len(candidates) * each
    if devices()[0].platform != 'cpu':  # else they take the time of cores that compute candidates, too
        figures -= _hidden(each, len(candidates), together, computing)
    compiling = (compiling + first) * len(set(sizes))
    return Estimate(
        seconds=float(compiling + masking + computing + figures),
        compile_seconds=compiling,
        cells=len(candidates),
        computed=float(again.mean() / alone.sum()),
        host_bytes=int(resident() + 2 * together * size + inputs_bytes),
        device_bytes=_on_device(),
    )


def _stage_seconds(engine: Engine, stages: Stages, batch: Batch) -> tuple[np.ndarray, float]:
    """Of every stage alone, and of the metric."""
    inputs, labels = engine.place(batch)
    values = stages.run(engine.variables, inputs)
    outputs = stages.result(values)
    alone = [
        _seconds(lambda p=part, run=run: run(*(values[place] for place in p.reads)))
        for part, run in zip(stages.chain.parts, stages.programs, strict=True)
    ]
    return np.array(alone), _seconds(lambda: engine.measure(outputs, labels, outputs))


def _row_seconds(metric: Metric, kept: Sample, images: int, intervals: Intervals | None) -> float:
    """Of the row of a candidate, of so many images: those at hand, again and again."""
    sample = joined([kept] * max(1, round(min(images, MOST_IMAGES) / max(1, kept.images))))
    return _seconds(lambda: measured(metric, sample, intervals)) * images / max(1, sample.images)


def _hidden(each: float, candidates: int, together: int, computing: float) -> float:
    """What of the figures' time is none of the scan's, as the devices compute the next group meanwhile."""
    last = (candidates - 2) % together + 1  # no group comes after it; the first one has one candidate
    return min(computing, each * (candidates - last))


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _seconds(call: Callable[[], Any]) -> float:
    """Median time of a call, its result waited for."""
    return float(np.median([_timed(lambda: jax.block_until_ready(call()))[1] for _ in range(_REPEATS)]))


def _on_device() -> int | None:
    device = devices()[0]
    return None if device.platform == 'cpu' else (device.memory_stats() or {}).get('peak_bytes_in_use')
