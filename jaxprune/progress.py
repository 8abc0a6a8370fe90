"""One style of progress bar, on standard error, for everything that takes long."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(description: str, total: int, *, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
    """Shows what is done, the rate and the time left.

    Args:
      description: what is going on.
      total: steps in all.
      unit: what one step is, such as `cells`.
      done: steps that an earlier run has finished.

    Yields:
      `advance(note='')`: one more step is done; `note` is shown after the bar.
    """
    from rich import console, progress

    columns = (
        progress.TextColumn('{task.description}'),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn(unit),
        progress.TextColumn('{task.fields[rate]}'),
        progress.TimeRemainingColumn(),
        progress.TextColumn('{task.fields[note]}'),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True)) as shown:
        task = shown.add_task(description, total=total, completed=done, rate='', note='')

        def advance(note: str = '') -> None:
            shown.update(task, advance=1, note=note)
            speed = shown.tasks[0].speed
            shown.update(task, rate=f'{speed:.2f}/s' if speed else '')

        yield advance


@contextlib.contextmanager
def silent() -> Iterator[Callable[..., None]]:
    """A bar that shows nothing."""
    yield lambda note='': None
