"""Candidates that will not be chosen are measured on a part of the images only."""

import collections
import concurrent.futures
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxprune.errors import UserError
from jaxprune.sensitivity._metrics import Metric
from jaxprune.sensitivity._rows import Candidate, Intervals, Key, Row, Sample, joined, plain, scalars

PARTS = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the images after which candidates are stopped."""
LEAST_IMAGES = 16
"""As many images are measured before any is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Racing:
    """When candidates are stopped.

    After an eighth, a quarter and half of the images, the images so far are resampled with replacement, the same for
    all candidates. A candidate that `choose` takes in less than `1 - confidence` of the resamples is stopped: its row
    has the figures so far, and is never chosen. Source: racing, as in Maron and Moore, "Hoeffding Races", NIPS 1993,
    with the bootstrap in place of a bound, and the choice itself in place of one best.

    The batches have to come in random order. Where processes share a table, each races its own candidates. What is
    chosen among all has to be chosen among any of them that it is in, too, as is so for the k best.

    Attributes:
      choose: from the rows of all candidates in the race but the unpruned model, the (layer, rate) of those that are
        chosen. Rows are as in the table: a figure that is no finite number is None.
      purpose: what `choose` depends on; rows of stopped candidates carry it as `stopped`.
      confidence: with which a stopped candidate would not have been chosen.
      resamples: how many data sets are drawn from the images so far.
      seed: of the draw.
    """

    choose: Callable[[Sequence[Row]], Iterable[Key]] = dataclasses.field(repr=False)
    purpose: Mapping[str, Any]
    confidence: float = 0.95
    resamples: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise UserError(f'confidence {self.confidence}: give a number from 0.5 to below 1, such as 0.95')
        Intervals(resamples=self.resamples, seed=self.seed)
        try:
            json.dumps(dict(self.purpose))
        except (TypeError, ValueError) as error:
            raise UserError(f'purpose {self.purpose!r} is not a mapping that JSON can hold ({error})') from error


def stretches(batches: Any, racing: Racing | None) -> list[tuple[int, int]]:
    """First batch, and last batch + 1, of each stretch that ends with the end or a look at who goes on."""
    count = len(batches)
    if racing is None:
        return [(0, count)]
    least = -(-LEAST_IMAGES // len(next(iter(batches[:1])).valid))
    ends = sorted({end for part in PARTS if (end := max(least, round(count * part))) < count})
    return list(zip([0, *ends], [*ends, count], strict=True))


def losers(
    racing: Racing, metric: Metric, candidates: Sequence[Candidate], parts: Iterable[Sequence[Sample]]
) -> set[Key]:
    """The candidates that are hardly ever chosen."""
    intervals = Intervals(resamples=racing.resamples, seed=racing.seed)
    samples = list(map(joined, parts))
    if not all(sample.images for sample in samples):
        return set()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        figures = list(threads.map(lambda each: scalars(metric, each, intervals), samples))
    chosen: collections.Counter[Key] = collections.Counter()
    pruned = [pair for pair in zip(candidates, figures, strict=True) if pair[0].layer is not None]
    for draw in range(racing.resamples):
        rows = [each.row({name: plain(values[draw]) for name, values in drawn.items()}) for each, drawn in pruned]
        chosen.update(_keys(racing.choose(rows)))
    least = round((1 - racing.confidence) * racing.resamples, 6)  # 5 of 100 are 5 %, whatever 1 - 0.95 is in binary
    return {each.key for each, _ in pruned if chosen[each.key] < least}


def _keys(chosen: Any) -> set[Key]:
    found = list(chosen) if isinstance(chosen, Iterable) else [chosen]  # its own mistakes are not those of its result
    try:
        return {(layer, rate) for layer, rate in found}
    except (TypeError, ValueError) as error:
        raise UserError(f'choose returned {chosen!r}: it has to return pairs of layer and rate') from error
