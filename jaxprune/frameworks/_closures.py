"""Functions that look at other values than those that they were written with.

A copy of the function is made: neither the function nor the module that it stands in changes.
"""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

_LIBRARIES = {'jax', 'flax', 'equinox', 'optax', 'numpy', 'einops'}

Swap = Callable[[Any], Any]
"""Returns the very object that it was given where that stays."""


def replaced(function: Any, swap: Swap) -> Any:
    """The function with other values in its closure, default arguments, partial arguments and globals.

    Followed into the user's functions among those values. Returns `function` itself where no value changes.
    """
    return _replaced(function, swap, set())


def values_of(function: Any) -> Iterator[Any]:
    """Every value that `replaced` would offer."""
    seen: list[Any] = []

    def collect(value: Any) -> Any:
        seen.append(value)
        return value

    replaced(function, collect)
    yield from seen


def _replaced(function: Any, swap: Swap, visited: set[int]) -> Any:
    if id(function) in visited:
        return function
    visited.add(id(function))

    def visit(value: Any) -> Any:
        swapped = swap(value)
        return _replaced(value, swap, visited) if swapped is value else swapped

    if isinstance(function, functools.partial):
        return _partial(function, visit)
    if isinstance(function, types.FunctionType):
        if function.__globals__.get('__name__', '').split('.')[0] in _LIBRARIES and not function.__closure__:
            return function
        return _function(function, visit)
    inner = getattr(function, '__wrapped__', None)
    if isinstance(inner, (types.FunctionType, functools.partial)) and not isinstance(function, type):
        changed = visit(inner)  # that of a transformed function: traced again in any case
        return function if changed is inner else changed
    return function


def _partial(function: Any, visit: Swap) -> Any:
    inner, args = visit(function.func), [visit(value) for value in function.args]
    keywords = {name: visit(value) for name, value in function.keywords.items()}
    old = (function.func, *function.args, *function.keywords.values())
    same = all(new is was for new, was in zip((inner, *args, *keywords.values()), old, strict=True))
    return function if same else functools.partial(inner, *args, **keywords)


def _function(function: types.FunctionType, visit: Swap) -> types.FunctionType:
    cells = tuple(_cell(cell, visit) for cell in function.__closure__ or ())
    names = [name for name in _names(function.__code__) if name in function.__globals__]
    globals_ = {name: visit(function.__globals__[name]) for name in names}
    changed = {name: value for name, value in globals_.items() if value is not function.__globals__[name]}
    defaults = tuple(visit(value) for value in function.__defaults__ or ())
    same = all(new is was for new, was in zip(defaults, function.__defaults__ or (), strict=True))
    same &= all(new is was for new, was in zip(cells, function.__closure__ or (), strict=True))
    if same and not changed:
        return function
    scope = {**function.__globals__, **changed} if changed else function.__globals__
    copy = types.FunctionType(function.__code__, scope, function.__name__, defaults or None, cells or None)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _cell(cell: types.CellType, visit: Swap) -> types.CellType:
    try:
        value = cell.cell_contents
    except ValueError:  # not assigned yet
        return cell
    swapped = visit(value)
    return cell if swapped is value else types.CellType(swapped)


def _names(code: types.CodeType) -> set[str]:
    """Names that a function and those written inside it look up."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))
