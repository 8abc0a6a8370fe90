"""Rules for reductions, windows, cumulative sums and sorting: fine along any axis but that of the channels."""

from typing import Any

from jaxprune.graph._record import Record
from jaxprune.graph._registry import rule
from jaxprune.graph._values import Axis, Value

_JOINS = 'makes its channels depend on each other'


@rule(
    'reduce_sum', 'reduce_max', 'reduce_min', 'reduce_prod', 'reduce_and', 'reduce_or', 'reduce_xor', 'argmax', 'argmin'
)
def reduce(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """The axes that stay keep their ids."""
    (operand,) = operands
    gone = set(equation.params['axes'])
    for place in gone:
        record.protect(operand.axes[place].ids, _JOINS)
    axes = [axis.with_origin(None) for place, axis in enumerate(operand.axes) if place not in gone]
    return [Value(tuple(axes), operand.data)]


@rule('reduce_window_max', 'reduce_window_min', 'reduce_window_sum')
def reduce_window(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Pooling: an axis keeps its ids where the window is one element wide."""
    (operand,) = operands
    sizes = equation.outvars[0].aval.shape
    windows = equation.params['window_dimensions']
    axes = []
    for axis, size, window in zip(operand.axes, sizes, windows, strict=True):
        untouched = window == 1 and size == axis.size
        axes.append(axis.with_origin(None) if untouched else _joined(record, axis, size))
    return [Value(tuple(axes), operand.data)]


@rule('cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')
def cumulative(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """All axes but one keep their ids."""
    (operand,) = operands
    axes = [axis.with_origin(None) for axis in operand.axes]
    axes[equation.params['axis']] = _joined(record, axes[equation.params['axis']])
    return [Value(tuple(axes), operand.data)]


@rule('sort')
def sort(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Several arrays sorted together: all axes but one lie side by side."""
    axes = [record.combine(list(each)) for each in zip(*(operand.axes for operand in operands), strict=True)]
    axes[equation.params['dimension']] = _joined(record, axes[equation.params['dimension']])
    return [Value(tuple(axes), any(operand.data for operand in operands))] * len(operands)


def _joined(record: Record, axis: Axis, size: int | None = None) -> Axis:
    record.protect(axis.ids, _JOINS)
    return Axis(axis.size if size is None else size)
