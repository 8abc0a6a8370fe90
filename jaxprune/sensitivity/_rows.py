"""What a scan is asked for, and the rows that it gives."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from jaxprune import pruning
from jaxprune.errors import UserError
from jaxprune.sensitivity._metrics import Kept, Metric

Key: TypeAlias = tuple[int | str | None, float]
"""Layer and rate."""
Row: TypeAlias = dict[str, Any]


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

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return self.layer, self.rate

    def row(self, figures: Mapping[str, Any]) -> Row:
        """Its row with these figures; `UserError` where one has the name of another column."""
        taken = figures.keys() & {'layer', 'rate', 'stopped', 'settings', *self.cost}
        if taken:
            raise UserError(f'the metric has a figure named {min(taken)!r}, which is another column: rename the figure')
        return {'layer': self.layer, 'rate': self.rate, **figures, **self.cost}


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Bootstrap over images: percentile intervals of every figure.

    The same resamples serve all candidates. Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
    chapter 13.

    Attributes:
      resamples: how many data sets of as many images are drawn, with replacement.
      confidence: share of them between the bounds.
      seed: of the draw.
      keep: names of figures whose values of all resamples become a column, `NAME_resamples`.
    """

    resamples: int = 200
    confidence: float = 0.95
    seed: int = 0
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (isinstance(self.resamples, int) and self.resamples > 0 and 0 < self.confidence < 1):
            raise UserError(
                f'{self.resamples} resamples, confidence {self.confidence}: give a whole number above 0, and a number '
                'between 0 and 1'
            )
        if self.seed < 0:
            raise UserError(f'seed {self.seed}: give 0 or more')

    def weights(self, images: int) -> Float[np.ndarray, 'r n']:
        """How often each image stands in each resample."""
        rng = np.random.default_rng(self.seed)
        return rng.multinomial(images, np.full(images, 1 / images), size=self.resamples).astype(np.float64)

    def bounds(self, values: Float[np.ndarray, 'r ...']) -> list[Any]:
        """Lower and upper bound."""
        tail = (1 - self.confidence) / 2
        if np.isnan(values).all():
            return [None, None]
        return plain(np.nanquantile(values, [tail, 1 - tail], axis=0))


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a metric keeps of so many images."""

    images: int
    kept: Kept


def joined(parts: Sequence[Sample]) -> Sample:
    """All images of several parts."""
    if len(parts) == 1:
        return parts[0]
    kept = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part.kept for part in parts))
    return Sample(sum(part.images for part in parts), kept)


def measured(metric: Metric, sample: Sample, intervals: Intervals | None) -> Row:
    """The figures over all images, with their intervals where they are asked for."""
    if not sample.images:
        raise UserError('no image of the batches is valid: there is nothing to measure')
    found = metric.figures(sample.kept, np.ones((1, sample.images)))
    row = {name: plain(value[0]) for name, value in found.items()}
    if intervals is not None:
        drawn = scalars(metric, sample, intervals)
        missing = set(intervals.keep) - drawn.keys()
        if missing:
            raise UserError(f'no figure {min(missing)!r} to keep the resamples of: there are {", ".join(drawn)}')
        row |= {f'{name}_interval': intervals.bounds(value) for name, value in drawn.items()}
        row |= {f'{name}_resamples': plain(drawn[name].round(5)) for name in intervals.keep}
    return row


def scalars(metric: Metric, sample: Sample, intervals: Intervals) -> dict[str, Float[np.ndarray, ' r']]:
    """Figures that are single numbers, of every resample."""
    found = metric.figures(sample.kept, intervals.weights(sample.images))
    return {name: values for name, values in found.items() if np.ndim(values) == 1}


def plain(value: Any) -> Any:
    """Numbers and lists, None where there is no finite number (JSON has none)."""
    if np.ndim(value):
        return [plain(each) for each in value]
    return float(value) if np.isfinite(value) else None
