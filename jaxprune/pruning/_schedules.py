"""How the share of channels that stay falls over several iterations of pruning."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxprune.errors import UserError

Shape = Callable[[float, float], float]
"""`(progress from 0 to 1, share at the end) -> share to keep`."""

SCHEDULES: dict[str, Shape] = {
    'one-shot': lambda progress, end: end,
    'linear': lambda progress, end: end + (1 - end) * (1 - progress),
    'cubic': lambda progress, end: end + (1 - end) * (1 - progress) ** 3,
    'geometric': lambda progress, end: end**progress,
}
"""Every schedule by the name that users give."""

Shares = TypeVar('Shares', bound=float | Mapping[Any, float])


def schedule(keep: Shares, steps: int, *, shape: str | Shape = 'cubic') -> list[Shares]:
    """Shares to keep, of what the unpruned model has, after each of several iterations.

    Example:
      Prune a little, train, prune more; shapes stay until the end, so nothing compiles again::

          plan = None
          for share in schedule(0.5, 5):
              plan = select_channels(graph, variables, keep=share, within=plan)
              variables = train(mask(variables, plan))
          small = slice_variables(variables, plan)

    Args:
      keep: share at the end, above 0, at most 1; or several of them by name, such as `{'conv*': 0.5}` or a budget.
      steps: number of iterations, 1 or more.
      shape: `one-shot` (all in the first iteration), `linear`, `geometric` (each iteration keeps the same share of what
        the one before left), `cubic` (fast at first; Zhu & Gupta, To Prune, or Not to Prune (2017), section 3), or a
        function `(progress, end) -> share`, for which progress is above 0 and 1 in the last iteration.

    Returns:
      `steps` values of the type of `keep`; the last is `keep`.

    Raises:
      UserError: for a share out of range, fewer than one step, or a name that is no schedule.
    """
    if isinstance(shape, str) and shape not in SCHEDULES:
        raise UserError(f'schedule {shape!r} does not exist: give one of {", ".join(SCHEDULES)}, or a function')
    if steps < 1:
        raise UserError(f'steps is {steps}: give a whole number, 1 or more')
    curve: Shape = SCHEDULES[shape] if isinstance(shape, str) else shape
    for value in keep.values() if isinstance(keep, Mapping) else [keep]:
        if not 0 < value <= 1:
            raise UserError(f'keep {value} is out of range: give shares above 0, at most 1')
    return [*(_at(keep, curve, step / steps) for step in range(1, steps)), keep]


def _at(keep: Any, curve: Shape, progress: float) -> Any:
    if isinstance(keep, Mapping):
        return {key: curve(progress, end) for key, end in keep.items()}
    return curve(progress, keep)
