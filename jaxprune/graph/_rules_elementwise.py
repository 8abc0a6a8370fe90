"""Rules for primitives that work element by element, broadcasting axes of size 1 and scalars."""

from typing import Any

from jaxprune.graph._record import Record
from jaxprune.graph._registry import rule
from jaxprune.graph._values import Value

_KEEP_ZERO = (
    'abs asin asinh atan atanh cbrt ceil conj convert_element_type copy copy_p erf erf_inv expm1 floor imag log1p '
    'neg real reduce_precision round sign sin sinh sqrt square stop_gradient tan tanh name '
    'optimization_barrier sharding_constraint pvary device_put'
)
_OTHER = (
    'acos acosh add add_any and atan2 bessel_i0e bessel_i1e clamp clz complex cos cosh digamma eq erfc exp exp2 ge gt '
    'igamma igamma_grad_a igammac is_finite le lgamma log logistic lt max min ne nextafter not or polygamma '
    'population_count pow regularized_incomplete_beta rem rsqrt select_n shift_left shift_right_arithmetic '
    'shift_right_logical sub xor zeta'
)


def elementwise(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Elements at the same place belong together."""
    data = any(operand.data for operand in operands)
    ranked = [operand.axes for operand in operands if operand.axes]
    if len(ranked) == 1:
        return [Value(tuple(axis.with_origin(None) for axis in ranked[0]), data)]
    return [Value(tuple(record.combine(list(axes)) for axes in zip(*ranked, strict=True)), data)]


rule(*_OTHER.split())(elementwise)


@rule(*_KEEP_ZERO.split())
def unary(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Functions with f(0) = 0, result by result."""
    return operands


@rule('integer_pow')
def integer_pow(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Zero stays zero under a positive power only."""
    return operands if equation.params['y'] > 0 else elementwise(record, equation, operands)


@rule('mul')
def mul(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """A product is zero where a factor is; of two parameters the one with more axes of its own counts."""
    (result,) = elementwise(record, equation, operands)
    factors = sorted(operands, key=_own_axes, reverse=True)
    return [_keep_origin(result, *factors)]


@rule('div')
def div(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """A quotient is zero where the numerator is, unless the denominator may vanish with it."""
    (result,) = elementwise(record, equation, operands)
    numerator, denominator = operands
    if any(not axis.uniform and axis.ids is not None for axis in denominator.axes):
        return [result]
    return [_keep_origin(result, numerator)]


def _own_axes(value: Value) -> int:
    return sum(axis.origin is not None for axis in value.axes)


def _keep_origin(result: Value, *operands: Value) -> Value:
    if result.data:
        return result
    axes = []
    for place, axis in enumerate(result.axes):
        candidates = [operand.axes[place] for operand in operands if len(operand.axes) == len(result.axes)]
        origins = [each.origin for each in candidates if each.origin is not None and each.size == axis.size]
        axes.append(axis.with_origin(origins[0] if origins else None))
    return Value(tuple(axes), result.data)
