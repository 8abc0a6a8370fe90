"""The loop over epochs: steps, progress, evaluation, and a state on disk after each."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxprune.errors import UserError
from jaxprune.training._schedule import Schedule
from jaxprune.training._step import Metrics, TrainState, Variables
from jaxprune.training._store import History, Store

Batches = Callable[[int], Iterable[Any]]
Evaluate = Callable[[Variables], Mapping[str, float]]


class Fit(NamedTuple):
    """A finished training.

    Attributes:
      variables: the running mean, which is the result.
      state: to look into.
      history: per epoch `epoch`, the mean of every metric of the steps, and what `evaluate` returned.
    """

    variables: Variables
    state: TrainState
    history: History


def fit(
    state: TrainState,
    step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    batches: Batches,
    schedule: Schedule,
    *,
    directory: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    evaluate: Evaluate | None = None,
    console: Console | None = None,
) -> Fit:
    """Trains for the schedule's epochs, or for what is left of them.

    Killed at any moment and called again with the same arguments, it continues after the last finished epoch and
    ends with the same variables, bit for bit (same machine and devices).

    Args:
      state: before the first step; used up.
      step: from `make_step`.
      batches: number of an epoch to its batches; the same ones at every call.
      schedule: of the same recipe as `step`.
      directory: where the state is kept after every epoch; None: nowhere.
      settings: plain data; a training that was begun with other settings is not continued.
      evaluate: metrics of the running mean after every epoch.
      console: for progress; None: silent.

    Raises:
      UserError: if the loss is no longer finite, or `directory` holds a training with other settings.
    """
    store = Store(directory, settings or {}) if directory is not None else None
    first, state, history = store.restore(state) if store else (0, state, [])
    with _Report(schedule, first, console) as report:
        for epoch in range(first, schedule.epochs):
            state, means = _epoch(state, step, batches, epoch, report)
            scores = evaluate(state.ema) if evaluate else {}
            history = [*history, {'epoch': epoch, **means, **{name: float(value) for name, value in scores.items()}}]
            report.epoch(history[-1])
            if store:
                store.save(epoch + 1, state, history)
    if store:
        store.close()
    return Fit(state.ema, state, history)


def _epoch(
    state: TrainState, step: Callable[..., Any], batches: Batches, epoch: int, report: '_Report'
) -> tuple[TrainState, dict[str, float]]:
    """One pass; each step's metrics are read while the next one runs."""
    rows: list[dict[str, float]] = []
    waiting: Metrics | None = None
    for batch in batches(epoch):
        state, metrics = step(state, batch)
        if waiting is not None:
            rows.append(_read(waiting, epoch, len(rows)))
            report.step(epoch, rows[-1])
        waiting = metrics
    if waiting is None:
        raise UserError(f'epoch {epoch}: there are no batches to learn from')
    rows.append(_read(waiting, epoch, len(rows)))
    report.step(epoch, rows[-1])
    return state, {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _read(metrics: Metrics, epoch: int, step: int) -> dict[str, float]:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not math.isfinite(values['loss']):
        raise UserError(
            f'the loss became {values["loss"]} in epoch {epoch}, step {step}: lower lr0 or lengthen the warm-up'
        )
    return values


class _Report:
    """A progress bar with the time that is left, and a line per epoch."""

    def __init__(self, schedule: Schedule, first: int, console: Console | None) -> None:
        self._console = console
        columns = (
            TextColumn('{task.description}'),
            BarColumn(),
            TextColumn('{task.fields[rate]}'),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=console is None, transient=True)
        total, done = schedule.epochs * schedule.steps_per_epoch, first * schedule.steps_per_epoch
        self._epochs = schedule.epochs
        self._task = self._bar.add_task('training', total=total, completed=done, rate='')

    def __enter__(self) -> '_Report':
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, epoch: int, row: Mapping[str, float]) -> None:
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            advance=1,
            description=f'epoch {epoch + 1}/{self._epochs}, loss {row["loss"]:.3f}',
            rate=f'{speed:.2f} steps/s' if speed else '',
        )

    def epoch(self, row: Mapping[str, float]) -> None:
        if self._console is not None:
            values = ', '.join(f'{name} {value:.4g}' for name, value in row.items() if name != 'epoch')
            self._console.print(f'epoch {int(row["epoch"]) + 1}/{self._epochs}: {values}', highlight=False)
