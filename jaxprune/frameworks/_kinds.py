"""Which framework an object comes from, without an import of any."""

import functools
import types
from collections.abc import Sequence
from typing import Any, Literal

Kind = Literal['linen', 'nnx', 'graphdef', 'equinox', 'function']

_CLASSES: dict[tuple[str, str], Kind] = {
    ('flax.linen', 'Module'): 'linen',
    ('flax.nnx', 'Module'): 'nnx',
    ('flax.nnx', 'GraphDef'): 'graphdef',
    ('equinox', 'Module'): 'equinox',
}
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)


def kind_of(thing: Any) -> Kind | None:
    """The framework of a module; `function` for a function, a method, a partial or a transformed function."""
    for base in type(thing).__mro__:
        for (package, name), kind in _CLASSES.items():
            if base.__name__ == name and f'{base.__module__}.'.startswith(f'{package}.'):
                return kind
    if isinstance(thing, _FUNCTIONS) or (callable(thing) and hasattr(thing, '__wrapped__')):
        return 'function'
    return None


def shape_of(leaf: Any) -> tuple[int, ...] | None:
    """The shape of an array or of what stands for one; None for anything else."""
    shape = getattr(leaf, 'shape', None)
    return tuple(shape) if isinstance(shape, tuple) else None


def groups_after(groups: int, before: Sequence[int], after: Sequence[int]) -> int:
    """Number of groups of a grouped convolution whose kernel was cut.

    Depthwise, an input channel goes with all its output channels. Otherwise the number of groups stays.

    Args:
      groups: before the cut.
      before: kernel shape, at its end the input channels per group and the output channels.
      after: the same of the kernel as it is.
    """
    each = before[-1] // groups
    return after[-1] // each if before[-2] == 1 and after[-1] % each == 0 else groups
