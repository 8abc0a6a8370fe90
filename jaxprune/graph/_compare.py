"""Whether a program at other widths is the same program: the walks through both, equation by equation."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxprune.graph._record import Place, Step, describe
from jaxprune.graph._values import Axis, Ids, Value

# What follows from the shapes of the operands, or shows in the ids of the results.
_SIZES = (
    *('new_sizes', 'shape', 'start_indices', 'limit_indices', 'slice_sizes', 'sizes', 'padding_config'),
    *('feature_group_count', 'sharding', 'out_sharding', 'name'),
)

Kept = Bool[np.ndarray, 'ids']


@dataclasses.dataclass(frozen=True)
class Finding:
    """Where the second program is not what follows from the first.

    Attributes:
      ids: on the operands of the equation.
      reason: naming the equation.
      soft: whether only a number differs.
      place: of the equation; None where it is not known.
    """

    ids: Ids
    reason: str
    soft: bool
    place: Place | None = None


def compare(whole: Sequence[Step], small: Sequence[Step], kept: Kept) -> list[Finding]:
    """Differences between a walk and the walk at other widths, in which only `kept` ids are left.

    A result that differs hides all that follows from it. A number that differs (a scale by the width) is a finding
    where it meets ids.
    """
    found: list[Finding] = []
    wrong: set[int] = set()
    changed: set[int] = set()
    for first, second in zip(whole, small, strict=False):
        if not _same_primitive(first, second):
            return [*found, _other_program(first)]
        if any(id(operand) in wrong for operand in second.operands):
            wrong |= {id(result) for result in second.results}
        elif first.equation is None:
            changed |= {
                id(value)
                for value, a, b in zip(second.results, first.constants, second.constants, strict=True)
                if not _equal(a, b)
            }
        else:
            found += _check(first, second, kept, wrong, changed)
    return (
        found
        if len(whole) == len(small)
        else [*found, _other_program((whole if len(whole) > len(small) else small)[-1])]
    )


def _check(first: Step, second: Step, kept: Kept, wrong: set[int], changed: set[int]) -> list[Finding]:
    ids = _known(second.operands)
    if not all(
        _matches(a, b, kept) for a, b in zip(first.results, second.results, strict=True)
    ) or not _same_parameters(first.equation, second.equation):
        wrong |= {id(result) for result in second.results}
        return [
            Finding(
                ids,
                f'{describe(first.equation, first.callers)} does not follow its width',
                soft=False,
                place=first.place,
            )
        ]
    if _has_body(first.equation):
        return []
    if any(_other_number(a, b, changed) for a, b in zip(first.operands, second.operands, strict=True)):
        if len(ids):
            return [
                Finding(
                    ids, f'{describe(first.equation, first.callers)} uses a number that depends on its width', soft=True
                )
            ]
        changed |= {id(result) for result in second.results}
    return []


def _same_primitive(first: Step, second: Step) -> bool:
    names = [step.equation.primitive.name if step.equation is not None else None for step in (first, second)]
    same = len(first.operands) == len(second.operands) and len(first.results) == len(second.results)
    return names[0] == names[1] and same


def _other_program(step: Step) -> Finding:
    where = 'its program' if step.equation is None else describe(step.equation, step.callers)
    return Finding(_known(step.operands), f'{where} is another one at other widths', soft=False)


def _known(values: Iterable[Value]) -> Ids:
    found = np.concatenate([value.known() for value in values] or [np.empty(0, int)])
    return np.unique(found[found >= 0])


def _other_number(first: Value, second: Value, changed: set[int]) -> bool:
    return first.fill != second.fill or id(second) in changed


def _matches(first: Value, second: Value, kept: Kept) -> bool:
    if len(first.axes) != len(second.axes):
        return False
    return all(_same_axis(a, b, kept) for a, b in zip(first.axes, second.axes, strict=True))


def _same_axis(first: Axis, second: Axis, kept: Kept) -> bool:
    if first.ids is None:
        return second.ids is None and (first.size == second.size or (first.uniform and second.uniform))
    left = first.ids[(first.ids < 0) | kept[first.ids]]
    return np.array_equal(left, second.known)


def _same_parameters(first: Any, second: Any) -> bool:
    if _has_body(first):
        # Bodies are walked through; functions beside them (derivatives) are made anew for every shape.
        keys = [key for key, value in first.params.items() if isinstance(value, bool | int)]
    else:
        keys = [key for key in first.params if key not in _SIZES]
    return all(_equal(first.params[key], second.params[key]) for key in keys)


def _has_body(equation: Any) -> bool:
    return any(_is_body(value) for value in equation.params.values())


def _is_body(value: Any) -> bool:
    """Whether a parameter is a jaxpr (or several), which is walked through, or a function that makes one."""
    if isinstance(value, tuple | list):
        return any(_is_body(each) for each in value)
    return hasattr(value, 'eqns') or hasattr(value, 'jaxpr') or (callable(value) and not isinstance(value, type))


def _equal(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if hasattr(first, 'shape') and hasattr(second, 'shape'):
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        return bool(np.array_equal(np.asarray(first), np.asarray(second)))
    return bool(first == second)
