"""What an iterated run is: its settings, and where its results lie."""

import dataclasses
import json
import pathlib
from typing import Any

from jaxprune import data
from jaxprune.errors import UserError
from jaxprune.pipeline._select import SelectSettings

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterateSettings:
    """Everything that an iterated run depends on, besides the model and the data.

    Attributes:
      iterations: how often; or
      keep_params: until at most this share of the parameters (as published) is left.
      rates, exclude, criterion: of the scan, as in `scan`.
      racing: of the scan, as in `scan`.
      params_layers, flops_layers, map_power, rule: of the selection, as in `select`.
      epochs, recipe, optimizer, learning_rate, batch: of the fine-tuning, as in `train`.
      image_size: in pixels, for everything.
      seed: of everything random.
    """

    iterations: int | None = None
    keep_params: float | None = None
    rates: tuple[float, ...] = (0.25, 0.5, 0.75)
    exclude: tuple[str, ...] = ()
    criterion: str = 'l2'
    racing: float | None = None
    params_layers: int = 6
    flops_layers: int = 5
    map_power: float = 20
    rule: str = 'published'
    epochs: int = 20
    recipe: str = 'finetune'
    optimizer: str | None = None
    learning_rate: float | None = None
    image_size: int = 640
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.keep_params is None):
            raise UserError('give either a number of iterations or the share of parameters to keep')
        if self.iterations is not None and self.iterations < 1:
            raise UserError(f'{self.iterations} iterations: give 1 or more')
        if self.keep_params is not None and not 0 < self.keep_params < 1:
            raise UserError(f'share of parameters to keep {self.keep_params}: give a number between 0 and 1')
        if self.epochs < 0:
            raise UserError(f'{self.epochs} epochs: give 0 (no fine-tuning) or more')
        if self.seed < 0:
            raise UserError(f'seed {self.seed}: give 0 or more')
        selection = self.selection  # refuses what is impossible
        if self.racing is not None:
            selection.racing({}, confidence=self.racing, seed=self.seed)

    @property
    def selection(self) -> SelectSettings:
        """Those of the selection."""
        return SelectSettings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(SelectSettings)})


@dataclasses.dataclass(frozen=True)
class Run:
    """A run under way: where it is, what it does, and on what."""

    path: pathlib.Path
    settings: IterateSettings
    train: data.DetectionDataset
    val: data.DetectionDataset

    def file(self, iteration: int, name: str) -> pathlib.Path:
        """Result `name` of an iteration."""
        return self.path / str(iteration) / name


def read(file: pathlib.Path) -> Json:
    """A result that the run wrote as JSON."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'{file}: cannot be read ({error}); remove it and start again') from error
