"""Which layers to prune at which rate, from a table of what pruning each of them costs.

The published score of a cell (a layer at a rate) is `removed · mAP50-95^k`, once with the parameters that it removes
and once with the FLOPs. A layer stands for its best rate, and a list takes the layers whose score reaches `max / f`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from jaxprune.errors import UserError

RULES = ('published', 'top')
FIRST_DIVISOR = 2.0
STEPS_PER_UNIT = 1000

Best = dict[int, tuple[float, float]]
"""Layer -> (score, rate)."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A layer to prune: its index, the share of its filters that goes, and `params`, `FLOPS` or `both`."""

    layer: int
    rate: float
    chosen_for: str

    def to_json(self) -> dict[str, Any]:
        """The entry of a rate plan."""
        return dataclasses.asdict(self)


def select_layers(
    baseline: Mapping[str, Any],
    cells: Iterable[Mapping[str, Any]],
    *,
    params_layers: int,
    flops_layers: int,
    map_power: float,
    rule: str = 'published',
) -> list[Choice]:
    """Layers that remove much for little loss.

    The rule `published` raises `f` from 2 in steps of 0.001 until the threshold `max / f` admits k-1 or k layers. Where
    no `f` does (more than k layers reach half of the best score, equal scores jump over k, or there are fewer layers),
    and with the rule `top`, the best k are taken, among equal scores those of lower index. Of equal scores of one layer
    the lower rate counts. Cells that remove nothing, cost all of the mAP or whose mAP is not finite are never chosen,
    so the answer may be shorter.

    Args:
      baseline: row of the unpruned model: `parameters_published` and `gflops`.
      cells: rows of the scan: `layer` (index), `rate`, `map50_95`, `parameters_published`, `gflops` (at the scan's
        image size). Rows without a layer, and those of cells that lost a race (`stopped`), are skipped.
      params_layers: the k of the list that removes parameters; 0 for no such list.
      flops_layers: the k of the list that removes FLOPs; 0 for no such list.
      map_power: exponent of mAP50-95: the larger, the more careful.
      rule: `published` or `top`.

    Returns:
      Chosen layers without repetition: those of the FLOPs list by index, then those of the parameters list alone by
      index. A layer of both lists has the lower of the two rates.

    Raises:
      UserError: for a negative number of layers or power, an unknown rule, or a row that lacks a column.
    """
    _check(params_layers, flops_layers, map_power, rule)
    rows = [row for row in cells if row.get('layer') is not None and not row.get('stopped')]
    wanted = {
        column: _admitted(_best_rates(baseline, rows, column, map_power), count, rule)
        for column, count in (('parameters_published', params_layers), ('gflops', flops_layers))
    }
    return _merge(wanted['parameters_published'], wanted['gflops'])


def _check(params_layers: int, flops_layers: int, map_power: float, rule: str) -> None:
    for name, value in (('params_layers', params_layers), ('flops_layers', flops_layers)):
        if not isinstance(value, int) or value < 0:
            raise UserError(f'{name} is {value}: give a whole number of layers, 0 or more')
    if not (isinstance(map_power, int | float) and math.isfinite(map_power) and map_power >= 0):
        raise UserError(f'map_power is {map_power}: give a finite number, 0 or more')
    if rule not in RULES:
        raise UserError(f'selection rule {rule!r} does not exist: give one of {", ".join(RULES)}')


def _best_rates(baseline: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], column: str, map_power: float) -> Best:
    best: Best = {}
    try:
        for row in sorted(rows, key=lambda row: (row['layer'], row['rate'])):
            value = _score(baseline[column] - row[column], row['map50_95'], map_power)
            if value > best.get(row['layer'], (0.0, 0.0))[0]:
                best[row['layer']] = (value, row['rate'])
    except KeyError as error:
        raise UserError(
            f'layers are chosen by mAP, parameters and GFLOPs, and a row has no {error}: make the table with '
            '`jaxprune scan --metric map`'
        ) from error
    return best


def _score(removed: float, accuracy: float | None, map_power: float) -> float:
    """The published score; 0 where the cell cannot be chosen."""
    if accuracy is None or not math.isfinite(accuracy) or not math.isfinite(removed) or removed <= 0 or accuracy <= 0:
        return 0.0
    return removed * accuracy**map_power


def _admitted(best: Best, count: int, rule: str) -> dict[int, float]:
    """Layer -> rate of at most `count` layers."""
    ranked = sorted(best, key=lambda layer: (-best[layer][0], layer))
    number = min(count, len(ranked))
    if rule == 'published' and 1 <= count - 1 <= len(ranked):
        highest = best[ranked[0]][0]
        steps = [_steps(highest, best[layer][0]) for layer in ranked]
        # The count grows with f, so the first f that can end the search is the one that admits layer number k-1.
        reached = sum(step <= steps[count - 2] for step in steps)
        number = reached if reached in (count - 1, count) else number
    return {layer: best[layer][1] for layer in ranked[:number]}


def _steps(highest: float, value: float) -> float:
    """Steps from the first divisor to the first `f` with `value >= highest / f`."""
    return (
        max(0, math.ceil((highest / value - FIRST_DIVISOR) * STEPS_PER_UNIT))
        if highest / value < math.inf
        else math.inf
    )


def _merge(params: dict[int, float], flops: dict[int, float]) -> list[Choice]:
    common = params.keys() & flops.keys()
    first = [
        Choice(layer, min(flops[layer], params[layer]), 'both')
        if layer in common
        else Choice(layer, flops[layer], 'FLOPS')
        for layer in sorted(flops)
    ]
    return first + [Choice(layer, params[layer], 'params') for layer in sorted(params.keys() - common)]
