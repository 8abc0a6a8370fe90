"""What `train` does, and the fine-tuning of `iterate`."""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checkpoint, data, detection, models, resources, training, trees
from jaxprune.data.loader import TrainBatches
from jaxprune.errors import UserError
from jaxprune.files import Path, check_space, disk_errors
from jaxprune.pipeline import _evaluate


def find_recipe(name: Path) -> training.Recipe:
    """A recipe from `configs/train` by its name, or from a file.

    Raises:
      UserError: where there is neither, or the file is not a recipe.
    """
    known = resources.path('train', f'{name}.yaml')
    file = known if known.is_file() else pathlib.Path(name)
    if not file.is_file():
        names = ', '.join(sorted(path.stem for path in resources.path('train').glob('*.yaml')))
        raise UserError(f'recipe {str(name)!r}: neither a file nor one of {names}')
    return training.read_recipe(file)


def tune(
    model: models.Detector,
    variables: models.Variables,
    dataset: data.DetectionDataset,
    directory: Path,
    *,
    epochs: int,
    recipe: Path = 'finetune',
    image_size: int = 640,
    batch: int = 16,
    seed: int = 0,
    optimizer: str | None = None,
    learning_rate: float | None = None,
) -> models.Variables:
    """Trains a model by a recipe; returns the running mean of its variables.

    Args:
      model: what to train.
      variables: where to start.
      dataset: to learn from.
      directory: where the training's state is kept after every epoch, until the caller removes it; called again with
        the same arguments, training goes on from there.
      epochs: how many.
      recipe: name in `configs/train`, or a file.
      image_size: side of the square training images, in pixels.
      batch: images per step.
      seed: of order and augmentation.
      optimizer: `sgd` or `adam` in place of the recipe's.
      learning_rate: in place of the recipe's `lr0`.

    Raises:
      UserError: where recipe, model, data and state do not fit, or the loss is no longer finite.
    """
    spec = model.spec
    models.check_size(spec, image_size, image_size)
    _evaluate.check_classes(dataset, spec)
    if seed < 0:
        raise UserError(f'seed {seed}: give 0 or more')
    chosen = choose_recipe(
        recipe, epochs=epochs, batch=batch, image_size=image_size, optimizer=optimizer, learning_rate=learning_rate
    )
    _check_space(pathlib.Path(directory), variables)
    batches = TrainBatches(dataset, image_size, batch=batch, config=chosen.augment, seed=seed)
    schedule = training.Schedule(recipe=chosen, batch=batch, steps_per_epoch=len(batches), epochs=epochs)
    state = training.TrainState.create(jax.tree.map(jnp.asarray, variables), schedule)
    inputs = trees.digest(repr(spec), variables, *_evaluate.dataset_digest(dataset))
    with disk_errors(directory):
        return training.fit(
            state,
            training.make_step(_objective(model, chosen, image_size), schedule),
            batches,
            schedule,
            directory=directory,
            settings=json.loads(json.dumps({**dataclasses.asdict(chosen), 'seed': seed, 'inputs': inputs})),
            console=_console(),
        ).variables


def choose_recipe(
    name: Path,
    *,
    epochs: int,
    batch: int,
    image_size: int,
    optimizer: str | None,
    learning_rate: float | None,
) -> training.Recipe:
    """`find_recipe` with what a user wants otherwise; None leaves it as the recipe says."""
    if epochs < 1:
        raise UserError(f'{epochs} epochs: give 1 or more')
    if learning_rate is not None and not math.isfinite(learning_rate):
        raise UserError(f'learning rate {learning_rate}: give a positive number')
    changes: dict[str, Any] = {
        'epochs': epochs,
        'batch': batch,
        'image_size': image_size,
        'optimizer': optimizer,
        'lr0': learning_rate,
    }
    return dataclasses.replace(find_recipe(name), **{key: value for key, value in changes.items() if value is not None})


def _check_space(directory: pathlib.Path, variables: models.Variables) -> None:
    """Finds a full disk before the first epoch: the state is weights, their mean, and up to two moments of each."""
    existing = next(parent for parent in directory.absolute().parents if parent.is_dir())
    check_space(existing, 4 * sum(leaf.nbytes for leaf in jax.tree.leaves(variables)))


def _objective(model: models.Detector, recipe: training.Recipe, image_size: int) -> Any:
    spec = model.spec
    weights = recipe.loss.scaled(levels=len(spec.strides), classes=len(spec.classes), image_size=image_size)
    loss = functools.partial(detection.anchor_loss, anchors=spec.anchors, strides=spec.strides, config=weights)
    return training.detection_objective(model.apply, loss)


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def train(
    path: Path, data_file: Path, output: Path, *, epochs: int, image_size: int = 640, **options: Any
) -> dict[str, Any]:
    """Trains a model directory into another one; killed and started again, it goes on from `OUTPUT.training`.

    Args:
      path: the model to start from.
      data_file: the data set; its splits `train` and `val`.
      output: directory to write.
      epochs: how many.
      image_size: side of the square training images, in pixels.
      **options: recipe, batch, seed, optimizer, learning_rate, as in `tune`.

    Returns:
      What `evaluate` says of the result, with `path` and `epochs`.

    Raises:
      UserError: see `tune`.
    """
    model, variables = checkpoint.load(path)
    learn, check = (data.load_dataset(str(data_file), split) for split in ('train', 'val'))
    target = pathlib.Path(output)
    checkpoint.check_output(target)
    state = target.with_name(f'{target.name}.training')
    tuned = tune(model, variables, learn, state, epochs=epochs, image_size=image_size, **options)
    checkpoint.save(model, tuned, target, metadata=checkpoint.load_metadata(path))
    shutil.rmtree(state, ignore_errors=True)
    metrics = _evaluate.evaluate(model, tuned, check, image_size=image_size)
    return {'path': str(target), 'epochs': epochs, **metrics}
