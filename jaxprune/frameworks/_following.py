"""Functions of variables that work at any widths."""

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any

from jaxprune.errors import UserError
from jaxprune.frameworks import _closures
from jaxprune.frameworks._kinds import kind_of


def following(apply: Any) -> Callable[..., Any]:
    """A function that does what `apply(variables, *inputs)` does, at the widths of the variables that it is given.

    In line with the variables are brought:
      - every Linen module that is applied while the function runs, however it gets there (a bound `model.apply`, a
        partial, a closure, inside `jax.jit`);
      - Equinox and NNX modules among the variables;
      - an `nnx.GraphDef` given as `apply`: the function takes a state, or several in a tuple, merges and calls;
      - a graph definition, or the static part of an Equinox module (`eqx.partition`), that the function closes over,
        holds as a partial or default argument or names as a global: the call sees a copy. One that it reaches in
        another way (an attribute of an object, an entry of a container) stays as it is.

    The function may be traced; nothing outlives the call.

    Raises:
      UserError: for what cannot be called.
    """
    if kind_of(apply) == 'graphdef':
        from jaxprune.frameworks import _nnx

        return functools.partial(_nnx.call, apply)

    if not callable(apply):
        raise UserError(f'{apply!r} cannot be called: give a function of the variables and the inputs')

    @functools.wraps(apply)
    def follows(variables: Any, *inputs: Any, **options: Any) -> Any:
        variables = _in_line(variables)
        function = _closures.replaced(apply, _swap(apply, variables))
        with _linen_following():
            return function(variables, *inputs, **options)

    return follows


def _in_line(variables: Any) -> Any:
    if 'equinox' in sys.modules:
        from jaxprune.frameworks import _equinox

        variables = _equinox.in_line(variables)
    if 'flax.nnx' in sys.modules:
        from jaxprune.frameworks import _nnx

        variables = _nnx.modules_in_line(variables)
    return variables


def _swap(apply: Callable[..., Any], variables: Any) -> _closures.Swap:
    def swap(value: Any) -> Any:
        kind = kind_of(value)
        if kind == 'graphdef':
            from jaxprune.frameworks import _nnx

            held = list(_closures.values_of(apply))
            return _nnx.graphdef_in_line(value, _nnx.states_in(variables) + _nnx.states_in(held))
        if kind == 'equinox':
            from jaxprune.frameworks import _equinox

            return _equinox.static_in_line(value, variables)
        return value

    return swap


def _linen_following() -> contextlib.AbstractContextManager[None]:
    if 'flax.linen' not in sys.modules:
        return contextlib.nullcontext()
    from jaxprune.frameworks import _linen

    return _linen.following()
