"""Rules for convolutions and matrix products."""

import math
from typing import Any, Literal

import numpy as np

from jaxprune.graph._record import Record
from jaxprune.graph._registry import rule, unknown
from jaxprune.graph._values import Axis, Value, fixed


@rule('conv_general_dilated')
def convolution(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Any layout, stride, padding and dilation; 1-D to 3-D; dense, depthwise or in groups."""
    image, kernel = operands
    numbers, groups = equation.params['dimension_numbers'], equation.params['feature_group_count']
    if equation.params['batch_group_count'] != 1:
        return unknown(record, equation, operands)
    inputs = image.axes[numbers.lhs_spec[1]]
    record.reads(0, numbers.lhs_spec[1], image)
    outputs, read = (kernel.axes[place] for place in numbers.rhs_spec[:2])
    if groups == 1:
        record.contract(inputs, read, _kernel(image, kernel))
        features = _produce(record, kernel, outputs)
    elif groups == inputs.size:
        features = record.apply_depthwise(inputs.take(np.arange(outputs.size) * groups // outputs.size), outputs)
    else:
        features = record.apply_grouped(inputs, read, outputs, groups)
    for axis in [image.axes[place] for place in numbers.lhs_spec[2:]]:
        record.protect(axis.ids, 'slides over its channels')
    for axis in [kernel.axes[place] for place in numbers.rhs_spec[2:]]:
        record.protect(axis.ids, 'slides over its channels')
    result = list(fixed(equation.outvars[0].aval.shape, data=image.data or kernel.data).axes)
    result[numbers.out_spec[0]] = image.axes[numbers.lhs_spec[0]]
    result[numbers.out_spec[1]] = features
    record.count('activations', result)
    window = [Axis(kernel.axes[place].size) for place in numbers.rhs_spec[2:]]
    # Of the places of a transposed convolution's window, only those that do not meet inserted zeros count.
    share = 1 / math.prod(equation.params['lhs_dilation'])
    record.count('macs', [*result, *window, *([] if groups == inputs.size else [read])], share)
    return [Value(tuple(result), image.data or kernel.data)]


@rule('dot_general')
def dot_general(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Contracted axes are read, free axes of a kernel produce, batch axes lie side by side."""
    (contracted, batched) = equation.params['dimension_numbers']
    left, right = operands
    for first, second in zip(*contracted, strict=True):
        record.contract(left.axes[first], right.axes[second], _kernel(left, right))
        record.reads(0, first, left)
        record.reads(1, second, right)
    batch = [_batch_axis(record, left.axes[i], right.axes[j]) for i, j in zip(*batched, strict=True)]
    free = [
        _produce(record, value, axis) if not other.is_kernel else axis
        for value, other, used, shared in zip(operands, reversed(operands), contracted, batched, strict=True)
        for place, axis in enumerate(value.axes)
        if place not in {*used, *shared}
    ]
    result = Value((*batch, *free), left.data or right.data)
    record.count('activations', result.axes)
    record.count('macs', [*result.axes, *(left.axes[place] for place in contracted[0])])
    return [result]


def _kernel(first: Value, second: Value) -> Literal['first', 'second'] | None:
    """Which of two factors reads the other."""
    if first.is_kernel == second.is_kernel:
        return None
    return 'first' if first.is_kernel else 'second'


def _produce(record: Record, value: Value, axis: Axis) -> Axis:
    """Only a kernel that meets something else than another kernel makes new channels."""
    return record.apply_kernel(axis) if value.is_kernel else axis


def _batch_axis(record: Record, left: Axis, right: Axis) -> Axis:
    zeros = left.zeros if left.zeros is not None and left.size == right.size else right.zeros
    return record.combine([left, right], zeros)
