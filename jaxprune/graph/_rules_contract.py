"""Rules for convolutions and matrix products."""

from typing import Any

import numpy as np

from jaxprune.graph._record import Record
from jaxprune.graph._registry import rule, unknown
from jaxprune.graph._values import Axis, Value, fixed


@rule('conv_general_dilated')
def convolution(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Any layout, stride, padding and dilation; 1-D to 3-D; dense or depthwise."""
    image, kernel = operands
    numbers, groups = equation.params['dimension_numbers'], equation.params['feature_group_count']
    inputs, outputs = image.axes[numbers.lhs_spec[1]], kernel.axes[numbers.rhs_spec[0]]
    if equation.params['batch_group_count'] != 1:
        return unknown(record, equation, operands)
    if groups == 1:
        record.contract(inputs, kernel.axes[numbers.rhs_spec[1]])
        features = record.apply_kernel(outputs)
    elif groups == inputs.size:
        features = record.apply_depthwise(inputs.take(np.arange(outputs.size) * groups // outputs.size), outputs)
    else:
        features = record.apply_grouped(inputs, kernel.axes[numbers.rhs_spec[1]], outputs)
    for axis in [image.axes[place] for place in numbers.lhs_spec[2:]]:
        record.protect(axis.ids, 'slides over its channels')
    result = list(fixed(equation.outvars[0].aval.shape, data=image.data or kernel.data).axes)
    result[numbers.out_spec[0]] = image.axes[numbers.lhs_spec[0]].with_origin(None)
    result[numbers.out_spec[1]] = features
    return [Value(tuple(result), image.data or kernel.data)]


@rule('dot_general')
def dot_general(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Contracted axes are read, free axes of a kernel produce, batch axes lie side by side."""
    (contracted, batched) = equation.params['dimension_numbers']
    left, right = operands
    for first, second in zip(*contracted, strict=True):
        record.contract(left.axes[first], right.axes[second])
    batch = [record.combine([left.axes[i], right.axes[j]]) for i, j in zip(*batched, strict=True)]
    free = [
        axis
        for value, other, used, shared in zip(operands, reversed(operands), contracted, batched, strict=True)
        for axis in _free_axes(record, value, other, {*used, *shared})
    ]
    return [Value((*batch, *free), left.data or right.data)]


def _free_axes(record: Record, value: Value, other: Value, taken: set[int]) -> list[Axis]:
    """Only a kernel that meets something else than another kernel makes new channels."""
    axes = [axis for place, axis in enumerate(value.axes) if place not in taken]
    is_kernel = any(axis.origin is not None for axis in value.axes)
    meets_kernel = any(axis.origin is not None for axis in other.axes)
    return [record.apply_kernel(axis) if is_kernel and not meets_kernel else axis.with_origin(None) for axis in axes]
