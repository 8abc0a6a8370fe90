"""What `select` does: layers and rates from the table of a scan, and which cells a scan can do without for it."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxprune import pruning, sensitivity
from jaxprune.errors import UserError
from jaxprune.files import Path

RESAMPLED = 'map50_95'
"""The figure that layers are chosen by."""
_COLUMN = f'{RESAMPLED}_resamples'
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectSettings:
    """How layers are chosen, as in `pruning.select_layers`; `UserError` for what it refuses."""

    params_layers: int = 6
    flops_layers: int = 5
    map_power: float = 20
    rule: str = 'published'

    def __post_init__(self) -> None:
        pruning.select_layers({}, [], **dataclasses.asdict(self))

    def choose(self, baseline: Row, cells: Sequence[Row]) -> list[pruning.Choice]:
        """Layers and rates.

        Raises:
          UserError: where cells were stopped that this choice would have to know.
        """
        for cell in cells:
            if cell.get('stopped'):
                self._check(cell['stopped'])
        return pruning.select_layers(baseline, cells, **dataclasses.asdict(self))

    def _check(self, stopped: Row) -> None:
        """Of a cell that was not measured to the end."""
        few = stopped['params_layers'] < self.params_layers or stopped['flops_layers'] < self.flops_layers
        if few or stopped['map_power'] != self.map_power:
            raise UserError(
                f'the scan was a race for {stopped["params_layers"]} layers for parameters, {stopped["flops_layers"]} '
                f'for FLOPs and the map power {stopped["map_power"]}: ask for no more layers and the same power, or '
                'scan without --racing'
            )

    def racing(self, baseline: Row, *, confidence: float, seed: int) -> sensitivity.Racing:
        """Stops cells that are not the best rate of one of the best layers of either list."""
        lists = [
            dataclasses.replace(self, params_layers=params, flops_layers=flops, rule='top')
            for params, flops in ((self.params_layers, 0), (0, self.flops_layers))
        ]

        def chosen(rows: Sequence[Row]) -> Iterator[tuple[int, float]]:
            return ((choice.layer, choice.rate) for each in lists for choice in each.choose(baseline, rows))

        purpose = dataclasses.asdict(self)
        del purpose['rule']
        return sensitivity.Racing(choose=chosen, purpose=purpose, confidence=confidence, seed=seed)


def select(table: Path, output: Path | None = None, **options: Any) -> list[dict[str, Any]]:
    """Chooses layers and rates from a scan; with `output`, writes them as a plan of rates.

    Args:
      table: of a scan.
      output: file to write.
      **options: those of `SelectSettings`.

    Returns:
      The plan's entries. Of a scan with confidence intervals they also have `map50_95`, its interval, and `stability`:
      the share of the resamples of the images in which the layer is chosen, at whatever rate.

    Raises:
      UserError: where the table is missing or not a table, has no row of the unpruned model, or does not hold what the
        choice needs.
    """
    settings = SelectSettings(**options)
    baseline, cells = baseline_and_cells(sensitivity.read_rows(table), str(table))
    try:
        choices = settings.choose(baseline, cells)
        rows = [{**choice.to_json(), **extra} for choice, extra in _certainty(settings, baseline, cells, choices)]
    except UserError as error:
        raise UserError(f'{table}: {error}') from error
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError) as error:
        raise UserError(f'{table}: has a row that is not one of a scan ({error!r}); scan again') from error
    if output is not None:
        pruning.write_rates(choices, output)
    return rows


def _certainty(
    settings: SelectSettings, baseline: Row, cells: Sequence[Row], choices: Sequence[pruning.Choice]
) -> Iterator[tuple[pruning.Choice, Row]]:
    """How sure each choice is, where the table tells."""
    raced = [cell for cell in cells if not cell.get('stopped')]
    if not raced or not all(cell.get(_COLUMN) for cell in raced):
        yield from ((choice, {}) for choice in choices)
        return
    times: collections.Counter[int] = collections.Counter()
    draws = min((len(cell[_COLUMN]) for cell in raced), default=0)
    for draw in range(draws):
        rows = [{**cell, RESAMPLED: cell[_COLUMN][draw]} for cell in raced]
        times.update(choice.layer for choice in settings.choose(baseline, rows))
    found = {(cell['layer'], cell['rate']): cell for cell in raced}
    for choice in choices:
        cell = found[choice.layer, choice.rate]
        columns = {name: cell[name] for name in (RESAMPLED, f'{RESAMPLED}_interval')}
        yield choice, {**columns, 'stability': times[choice.layer] / draws}


def baseline_and_cells(rows: Sequence[dict[str, Any]], name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of the unpruned model, and the others."""
    baseline = next((row for row in rows if row['layer'] is None), None)
    if baseline is None:
        raise UserError(f'{name}: has no row of the unpruned model (layer null); finish the scan first')
    return baseline, [row for row in rows if row['layer'] is not None]
