"""One style of progress bar, on standard error, for everything that takes long."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(description: str, total: int | None, *, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
    """Shows what is done, the rate and the time left.

    Args:
      description: what is going on.
      total: steps in all; None if not known.
      unit: what one step is, such as `cells`; `bytes` are shown with their multiples.
      done: steps that an earlier run has finished.

    Yields:
      `advance(note='', steps=1)`: that many more steps are done; `note` is shown after the bar.
    """
    from rich import console, progress

    steps_and_rate: tuple[progress.ProgressColumn, ...] = (
        progress.MofNCompleteColumn(),
        progress.TextColumn(unit),
        progress.TextColumn('{task.fields[rate]}'),
    )
    if unit == 'bytes':
        steps_and_rate = (progress.DownloadColumn(), progress.TransferSpeedColumn())
    columns = (
        progress.TextColumn('{task.description}'),
        progress.BarColumn(),
        *steps_and_rate,
        progress.TimeRemainingColumn(),
        progress.TextColumn('{task.fields[note]}'),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True)) as shown:
        task = shown.add_task(description, total=total, completed=done, rate='', note='')

        exact: float = done

        def advance(note: str = '', steps: float = 1) -> None:
            nonlocal exact
            exact += steps
            shown.update(task, completed=round(exact, 6), note=note)  # sums of fractions end at whole numbers
            speed = shown.tasks[0].speed
            shown.update(task, rate=f'{speed:.2f}/s' if speed else '')

        yield advance


@contextlib.contextmanager
def silent() -> Iterator[Callable[..., None]]:
    """A bar that shows nothing."""
    yield lambda note='', steps=1: None
