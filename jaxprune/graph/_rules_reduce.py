"""Rules for reductions, windows, cumulative sums and sorting: fine along any axis but that of the channels."""

from typing import Any

from jaxprune.graph._record import Record
from jaxprune.graph._registry import rule
from jaxprune.graph._values import Axis, Value

_JOINS = 'makes its channels depend on each other'


@rule('reduce_sum')
def reduce_sum(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """A sum reads its channels as a kernel of ones would."""
    (operand,) = operands
    for place in set(equation.params['axes']):
        record.sum_over(operand.axes[place])
    return [_without(operand, set(equation.params['axes']))]


@rule('reduce_max', 'reduce_min', 'reduce_prod', 'reduce_and', 'reduce_or', 'reduce_xor')
def reduce(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """The axes that stay keep their ids."""
    (operand,) = operands
    for place in set(equation.params['axes']):
        record.protect(operand.axes[place].ids, _JOINS, soft=True)
    return [_without(operand, set(equation.params['axes']))]


@rule('reduce')
def general_reduce(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Any function of two, for several arrays at once; their initial values are the second half of the operands."""
    arrays = operands[: len(equation.outvars)]
    gone = set(equation.params['dimensions'])
    for place in gone:
        for array in arrays:
            record.protect(array.axes[place].ids, _JOINS, soft=True)
    left = [_without(array, gone).axes for array in arrays]
    axes = tuple(record.combine(list(each)) for each in zip(*left, strict=True))
    return [Value(axes, any(operand.data for operand in operands))] * len(arrays)


@rule('argmax', 'argmin')
def arg_reduce(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """The result counts places along the axis."""
    (operand,) = operands
    for place in set(equation.params['axes']):
        record.protect(operand.axes[place].ids, 'counts its channels')
    return [_no_zeros(_without(operand, set(equation.params['axes'])))]


@rule('reduce_window_max', 'reduce_window_min', 'reduce_window_sum', 'reduce_window')
def reduce_window(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Pooling: an axis keeps its ids where the window is one element wide."""
    count = len(equation.outvars)
    windows = equation.params['window_dimensions']
    results = []
    for operand, result in zip(operands[:count], equation.outvars, strict=True):
        axes = []
        for axis, size, window in zip(operand.axes, result.aval.shape, windows, strict=True):
            axes.append(axis if window == 1 and size == axis.size else _joined(record, axis, size))
        results.append(Value(tuple(axes), operand.data))
    # Only the named windows are known to keep zero.
    return [_no_zeros(each) for each in results] if equation.primitive.name == 'reduce_window' else results


@rule('cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')
def cumulative(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """All axes but one keep their ids."""
    (operand,) = operands
    axes = list(operand.axes)
    axes[equation.params['axis']] = _joined(record, axes[equation.params['axis']])
    result = Value(tuple(axes), operand.data)
    return [_no_zeros(result) if equation.primitive.name == 'cumlogsumexp' else result]


@rule('sort')
def sort(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Several arrays sorted together: all axes but one lie side by side."""
    axes = [record.combine(list(each)) for each in zip(*(operand.axes for operand in operands), strict=True)]
    axes[equation.params['dimension']] = _joined(record, axes[equation.params['dimension']])
    return [Value(tuple(axes), any(operand.data for operand in operands))] * len(operands)


@rule('top_k', 'approx_top_k')
def top_k(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Values and places of the largest elements along one axis."""
    (operand,) = operands
    along = equation.params.get('axis', equation.params.get('reduction_dimension', -1)) % len(operand.axes)
    axes = list(operand.axes)
    axes[along] = _joined(record, axes[along], equation.outvars[0].aval.shape[along])
    return [_no_zeros(Value(tuple(axes), operand.data))] * 2


@rule('fft')
def fft(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Mixes along the last axes, one for each of the lengths."""
    (operand,) = operands
    first = len(operand.axes) - len(equation.params['fft_lengths'])
    sizes = equation.outvars[0].aval.shape[first:]
    mixed = [_joined(record, axis, size) for axis, size in zip(operand.axes[first:], sizes, strict=True)]
    return [Value((*operand.axes[:first], *mixed), operand.data)]


def _without(operand: Value, gone: set[int]) -> Value:
    return Value(tuple(axis for place, axis in enumerate(operand.axes) if place not in gone), operand.data)


def _no_zeros(value: Value) -> Value:
    return Value(tuple(axis.with_zeros(None) for axis in value.axes), value.data)


def _joined(record: Record, axis: Axis, size: int | None = None) -> Axis:
    record.protect(axis.ids, _JOINS)
    return Axis(axis.size if size is None else size)
