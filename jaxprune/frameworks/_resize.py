"""A module at the widths of other variables."""

import types
from typing import Any

from jaxprune.errors import UserError
from jaxprune.frameworks._kinds import kind_of


def resize(model: Any, small: Any) -> Any:
    """The module at the widths of `small`; nothing is initialised or run, and the given module stays as it is.

    Args:
      model: one of
        - a Flax Linen module. The result has its fields, the name of its class, and is an instance of it; only shapes
          of `small` are kept, so it takes any variables of these shapes.
        - a Flax NNX module. The result holds the arrays of `small`; variables that `small` lacks are those of `model`.
        - an Equinox module. The result holds the arrays of `small`; where that has None, the leaf of `model`.
        - a module with a method `at_widths_of(variables)`, such as a detector (its spec changes too): its result.
        - a method of a Linen module: that method of the resized module.
        - a function, which takes its widths from its arguments: it is returned as it is.
      small: variables, such as `jaxprune.slice` returns: a nested dictionary (Linen), an `nnx.State`, several of them
        in a tuple, or an NNX module (NNX), or a pytree of the structure of `model` (Equinox).

    Raises:
      UserError: for a model of another kind, variables that are not of this model, or a number of groups that cannot be
        kept.
    """
    if hasattr(type(model), 'at_widths_of'):
        return model.at_widths_of(small)
    kind = kind_of(model)
    if kind == 'linen':
        from jaxprune.frameworks import _linen

        return _linen.resize(model, small)
    if kind == 'nnx':
        from jaxprune.frameworks import _nnx

        return _nnx.resize(model, small)
    if kind == 'equinox':
        from jaxprune.frameworks import _equinox

        return _equinox.resize(model, small)
    if isinstance(model, types.MethodType) and kind_of(model.__self__) == 'linen':
        return getattr(resize(model.__self__, small), model.__name__)
    if kind == 'function':
        return model
    raise UserError(
        f'cannot resize a {type(model).__name__}: give a Flax Linen, Flax NNX or Equinox module, or a plain function'
    )
