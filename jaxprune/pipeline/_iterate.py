"""What `iterate` does: scan, select, prune, fine-tune and evaluate, again and again, step by step on disk.

A run directory holds one folder per iteration (`0` is the start). Every step writes its result whole or not at all, and
a step whose result is there is not done again: that is how a run goes on after it was killed.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from jaxprune import checkpoint, data, models, pruning, trees
from jaxprune.errors import UserError
from jaxprune.files import Path, write_json
from jaxprune.pipeline import _evaluate, _report, _scan, _train
from jaxprune.pipeline._cells import plan_cells
from jaxprune.pipeline._prune import apply_plan
from jaxprune.pipeline._run import IterateSettings, Json, Run, read
from jaxprune.pipeline._scan_detection import DetectionScan
from jaxprune.pipeline._select import baseline_and_cells


def iterate(path: Path, data_file: Path, output: Path, settings: IterateSettings) -> Json:
    """Prunes a model iteratively (Pavlitska et al., IJCNN 2024), and writes `report.html` into the run directory.

    Returns:
      `report` (path), `model` (path of the last one), `stopped` (why it ended early, or None) and `iterations`, a row
      per iteration (0 is the start): `iteration`, `layers` (how many were pruned), `parameters` (as published),
      `gflops`, `map50_95_before` and `map50_95` (before and after fine-tuning).

    Raises:
      UserError: where the run directory belongs to another run, or model and data do not fit.
    """
    train, val = (data.load_dataset(str(data_file), split) for split in ('train', 'val'))
    run = Run(pathlib.Path(output), settings, train, val)
    model, variables = checkpoint.load(path)
    _check(run, model, variables)
    _claim(run, model, variables)
    _once(run.file(0, 'model'), lambda out: checkpoint.save(model, variables, out))
    start = _measured(run, 0, 'metrics.json', 'model')
    iteration, report, stopped = 0, None, None
    while not _finished(run, iteration, start):
        if not _advance(run, iteration + 1):
            stopped = 'no layer is worth pruning any more: none removes anything at a mAP above 0'
            break
        iteration += 1
        report = _report.write(run, iteration)
    return {
        'report': str(report or _report.write(run, iteration)),
        'model': str(run.file(iteration, 'model')),
        'stopped': stopped,
        'iterations': [_row(run, number) for number in range(iteration + 1)],
    }


def _check(run: Run, model: models.Detector, variables: models.Variables) -> None:
    """Finds a user's mistakes before anything is written."""
    settings = run.settings
    models.check_size(model.spec, settings.image_size, settings.image_size)
    for dataset in (run.train, run.val):
        _evaluate.check_classes(dataset, model.spec)
    _train.choose_recipe(
        settings.recipe,
        epochs=max(settings.epochs, 1),
        batch=settings.batch,
        image_size=settings.image_size,
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
    )
    plan_cells(
        model, variables, settings.rates, exclude=settings.exclude, criterion=settings.criterion, seed=settings.seed
    )


def _claim(run: Run, model: models.Detector, variables: models.Variables) -> None:
    """Notes in the run directory what it belongs to, or checks that it is the same."""
    parts = [*_evaluate.dataset_digest(run.train), *_evaluate.dataset_digest(run.val)]
    settings = dataclasses.asdict(run.settings)
    goal = {key: settings.pop(key) for key in ('iterations', 'keep_params')}  # a finished run may be asked for more
    identity = json.loads(json.dumps({**settings, 'inputs': trees.digest(repr(model.spec), variables, *parts)}))
    file = run.path / 'settings.json'
    if file.exists():
        before = {key: value for key, value in read(file).items() if key not in goal}
        changed = [key for key in identity if before.get(key) != identity[key]]
        if changed:
            raise UserError(
                f'{run.path}: holds a run with other {", ".join(changed)}; name another directory or remove it'
            )
    elif run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise UserError(f'{run.path}: exists and is not a run; name another directory')
    write_json(file, {**identity, **goal})


def _finished(run: Run, iteration: int, start: Json) -> bool:
    if run.settings.iterations is not None:
        return iteration >= run.settings.iterations
    share = _measured(run, iteration, 'metrics.json', 'model')['parameters_published'] / start['parameters_published']
    return share <= (run.settings.keep_params or 0)


def _advance(run: Run, iteration: int) -> bool:
    """One iteration; False where no layer can be chosen any more."""
    settings = run.settings
    before = run.file(iteration - 1, 'model')
    model, variables = checkpoint.load(before)
    rates = run.file(iteration, 'rates.json')
    if not rates.exists():
        choices = _choose(run, iteration, model, variables)
        if not choices:
            return False
        pruning.write_rates(choices, rates)
    pruned = run.file(iteration, 'pruned')
    if not pruned.exists():
        plan = pruning.read_plan(
            rates, models.connectivity(model.spec), variables, criterion=settings.criterion, seed=settings.seed
        )
        checkpoint.save(*apply_plan(model, variables, plan), pruned, metadata={'plans': [plan.to_json()]})
    _measured(run, iteration, 'pruned.json', 'pruned')
    _once(run.file(iteration, 'model'), lambda out: _tune(run, iteration, out))
    _measured(run, iteration, 'metrics.json', 'model')
    return True


def _choose(run: Run, iteration: int, model: models.Detector, variables: models.Variables) -> list[pruning.Choice]:
    settings = run.settings
    cells = plan_cells(
        model, variables, settings.rates, exclude=settings.exclude, criterion=settings.criterion, seed=settings.seed
    )
    table = run.file(iteration, 'scan.jsonl')
    shuffle = None if settings.racing is None else settings.seed
    task = DetectionScan(model, variables, run.val, settings.image_size, _EVALUATION_BATCH, shuffle=shuffle)
    racing = _scan.race(task, settings.selection, settings.racing, settings.seed)
    rows = _scan.scan_model(task, table, cells, ranking=(settings.criterion, settings.seed), racing=racing)
    return settings.selection.choose(*baseline_and_cells(rows, str(table)))


_EVALUATION_BATCH = 32


def _tune(run: Run, iteration: int, output: pathlib.Path) -> None:
    model, variables = checkpoint.load(run.file(iteration, 'pruned'))
    settings, state = run.settings, run.file(iteration, 'tuning')
    if settings.epochs:
        variables = _train.tune(
            model,
            variables,
            run.train,
            state,
            epochs=settings.epochs,
            recipe=settings.recipe,
            image_size=settings.image_size,
            batch=settings.batch,
            seed=settings.seed + iteration,
            optimizer=settings.optimizer,
            learning_rate=settings.learning_rate,
        )
    checkpoint.save(model, variables, output)
    shutil.rmtree(state, ignore_errors=True)


def _once(path: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
    if not path.exists():
        make(path)


def _measured(run: Run, iteration: int, name: str, directory: str) -> Json:
    """Metrics and cost of one model of the run, measured once."""
    file = run.file(iteration, name)

    def measure(output: pathlib.Path) -> None:
        model, variables = checkpoint.load(run.file(iteration, directory))
        settings = run.settings
        metrics = _evaluate.evaluate(model, variables, run.val, image_size=settings.image_size, batch=_EVALUATION_BATCH)
        cost = models.count(model, variables, settings.image_size)
        costs = {name: getattr(cost, name) for name in ('parameters', 'parameters_published', 'gflops')}
        write_json(output, {**metrics, **costs})

    _once(file, measure)
    return read(file)


def _row(run: Run, iteration: int) -> Json:
    after = read(run.file(iteration, 'metrics.json'))
    before: Mapping[str, Any] = read(run.file(iteration, 'pruned.json')) if iteration else after
    layers = len(read(run.file(iteration, 'rates.json'))['layers']) if iteration else 0
    return {
        'iteration': iteration,
        'layers': layers,
        'parameters': after['parameters_published'],
        'gflops': after['gflops'],
        'map50_95_before': before['map50_95'],
        'map50_95': after['map50_95'],
    }
