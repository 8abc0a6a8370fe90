"""How to train: everything that a recipe file can say."""

import dataclasses
import os
import pathlib
from typing import Any, Literal, get_args

import yaml

from jaxprune.data.augment import AugmentConfig
from jaxprune.detection import LossConfig
from jaxprune.errors import UserError

Optimizer = Literal['sgd', 'adam']
Decay = Literal['cosine', 'linear']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Named, where it exists there, as in the PyTorch YOLOv7's hyper-parameter files.

    Attributes:
      epochs, batch, image_size: used unless the caller says otherwise; pixels.
      optimizer: `sgd` (with Nesterov's momentum) or `adam` (whose beta1 is `momentum`).
      lr0: learning rate after the warm-up.
      lrf: the last epoch's learning rate as a part of `lr0`.
      decay: from one to the other along half a `cosine`, or `linear`.
      momentum: after the warm-up.
      weight_decay: of convolution kernels, for the nominal batch size.
      warmup_epochs, warmup_steps: the warm-up takes the longer of the two.
      warmup_momentum: at its beginning (`sgd` only).
      warmup_bias_lr: learning rate of biases at its beginning; all others begin at 0.
      nominal_batch: gradients of smaller batches are summed until they make up this many images.
      ema_decay: of the running mean of the variables, which is the result.
      ema_steps: updates over which that decay builds up.
      loss: weights, before they are scaled to levels, classes and image size.
      augment: of the training pictures.
    """

    epochs: int = 300
    batch: int = 16
    image_size: int = 640
    optimizer: Optimizer = 'sgd'
    lr0: float = 0.01
    lrf: float = 0.1
    decay: Decay = 'cosine'
    momentum: float = 0.937
    weight_decay: float = 0.0005
    warmup_epochs: float = 3.0
    warmup_steps: int = 1000
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    nominal_batch: int = 64
    ema_decay: float = 0.9999
    ema_steps: float = 2000.0
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        for name, kinds in (('optimizer', get_args(Optimizer)), ('decay', get_args(Decay))):
            if getattr(self, name) not in kinds:
                raise UserError(f'recipe: {name} {getattr(self, name)!r} is not one of {", ".join(kinds)}')
        for name in ('epochs', 'batch', 'image_size', 'nominal_batch', 'lr0'):
            if getattr(self, name) <= 0:
                raise UserError(f'recipe: {name} {getattr(self, name)} must be positive')


def read_recipe(file: str | os.PathLike[str]) -> Recipe:
    """Reads a recipe; what the file leaves out keeps its default.

    Raises:
      UserError: if the file is missing or no YAML mapping, or for an unknown name or a value of the wrong kind.
    """
    try:
        plain = yaml.safe_load(pathlib.Path(file).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f'{file}: not a readable recipe ({type(error).__name__}); see configs/train') from error
    if not isinstance(plain, dict):
        raise UserError(f'{file}: a recipe is a list of `name: value` lines; see configs/train')
    try:
        return _build(Recipe, plain)
    except UserError as error:
        raise UserError(f'{file}: {error}') from error


def _build(cls: Any, plain: dict[str, Any]) -> Any:
    default = cls()
    names = [field.name for field in dataclasses.fields(cls)]
    values = {}
    for name, value in plain.items():
        if name not in names:
            raise UserError(f'unknown entry {name!r}; known are {", ".join(names)}')
        values[name] = _value(name, value, getattr(default, name))
    return cls(**values)


def _value(name: str, value: Any, default: Any) -> Any:
    """`value`, if it is of the same kind as `default`."""
    if dataclasses.is_dataclass(default) and isinstance(value, dict):
        return _build(type(default), value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise UserError(f'{name}: {value!r} should be of the kind of {default!r}')
    return value
