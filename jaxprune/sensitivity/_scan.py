"""The scan engine: the metric of every candidate, several at a time through one compiled program per batch shape."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from jaxprune import progress
from jaxprune.sensitivity._table import Table

Batch = TypeVar('Batch')
Masks = Mapping[str, np.ndarray]
Outputs = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One cell of the table.

    Attributes:
      layer: index of the pruned layer; None for the unpruned model.
      rate: share of its filters that goes.
      masks: reading layer -> factors (0 or 1) of its input channels; the same layers and shapes for every candidate.
      cost: further columns of the row, known without measuring.
    """

    layer: int | None
    rate: float
    masks: Masks
    cost: Mapping[str, Any]


def scan(
    candidates: Sequence[Candidate],
    *,
    batches: Iterable[Batch],
    predict: Callable[[Masks, Batch], Outputs],
    metric: Callable[[list[tuple[Batch, Outputs]]], Mapping[str, Any]],
    table: Table,
    width: int,
) -> None:
    """Measures the candidates that the table lacks, and appends a row for each.

    Args:
      candidates: in the order in which they are measured.
      batches: gone through once for every `width` candidates.
      predict: masks with a leading axis `[width, in]` and a batch -> a pytree of arrays `[width, ...]`; jitted.
      metric: of one candidate: (batch, its outputs) of all batches -> columns of its row.
      table: where rows are looked up and appended.
      width: candidates per call.
    """
    missing = [candidate for candidate in candidates if (candidate.layer, candidate.rate) not in table]
    done = len(candidates) - len(missing)
    with progress.bar('scan', len(candidates), unit='cells', done=done) as advance:
        for start in range(0, len(missing), width):
            group = missing[start : start + width]
            for candidate, outputs in zip(group, _outputs(group, batches, predict, width), strict=True):
                row = {'layer': candidate.layer, 'rate': candidate.rate, **metric(outputs), **candidate.cost}
                table.append(row)
                advance(f'layer {candidate.layer}')


def _outputs(
    group: Sequence[Candidate],
    batches: Iterable[Batch],
    predict: Callable[[Masks, Batch], Outputs],
    width: int,
) -> list[list[tuple[Batch, Outputs]]]:
    """Per candidate, per batch: what the masked model gives."""
    full = [*group, *[group[-1]] * (width - len(group))]
    masks = jax.tree.map(lambda *leaves: np.stack(leaves), *(dict(candidate.masks) for candidate in full))
    masks = jax.device_put(masks)
    computed = [(batch, predict(masks, batch)) for batch in batches]  # dispatched ahead of what is read below
    on_host = [(batch, jax.tree.map(np.asarray, outputs)) for batch, outputs in computed]
    return [
        [(batch, jax.tree.map(lambda leaf, i=i: leaf[i], out)) for batch, out in on_host] for i in range(len(group))
    ]
