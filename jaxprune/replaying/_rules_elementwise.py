"""Rules for primitives that work element by element, and for those that pass several arrays on, each as it is."""

from jaxprune.graph import ELEMENTWISE
from jaxprune.replaying._registry import Step, rule
from jaxprune.replaying._values import NotReplayableError, Value, align

_SEVERAL = ('optimization_barrier', 'device_put')
"""Those of them that take, and pass on, several arrays."""


@rule(*(name for name in ELEMENTWISE if name not in _SEVERAL), 'layout_constraint', 'reshard')
def elementwise(step: Step, operands: list[Value]) -> list[Value]:
    """All operands hold the same places, and so does the result."""
    values, masks = align(operands)
    return step.bind_one(values, masks)


@rule(*_SEVERAL, 'debug_callback', 'debug_print')
def each(step: Step, operands: list[Value]) -> list[Value]:
    """Every result holds what its operand does."""
    arrays = step.bind(operands)
    return [Value(array, operand.kept) for array, operand in zip(arrays, operands, strict=False)]


@rule('psum', 'pmax', 'pmin', 'psum_invariant', 'ppermute')
def across_devices(step: Step, operands: list[Value]) -> list[Value]:
    """Combines arrays of several devices (or of a mapped axis), element by element."""
    names = step.params.get('axes', step.params.get('axis_name', ()))
    if any(isinstance(name, int) for name in (names if isinstance(names, tuple | list) else (names,))):
        raise NotReplayableError('a collective operation runs over the axis of pruned channels')
    return each(step, operands)
