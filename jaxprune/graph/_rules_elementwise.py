"""Rules for primitives that work element by element, broadcasting axes of size 1 and scalars."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.graph._record import Record
from jaxprune.graph._registry import RULES, rule
from jaxprune.graph._values import NEVER, Axis, Rows, Value, all_zeros

_KEEP_ZERO = (
    'abs asin asinh atan atanh cbrt ceil conj copy copy_p erf erf_inv expm1 floor imag log1p '
    'neg real reduce_precision round sign sin sinh sqrt square stop_gradient tan tanh name '
    'optimization_barrier sharding_constraint pvary device_put'
)
_OTHER = (
    'acos atan2 bessel_i0e bessel_i1e clz complex cos cosh eq erfc exp exp2 ge gt '
    'is_finite le logistic lt mulhi ne nextafter not '
    'population_count one_minus_square shift_left shift_right_arithmetic shift_right_logical'
)
_SAME_FILL = {'stop_gradient', 'copy', 'copy_p', 'name', 'reduce_precision'}

Neutral = Callable[[float, int], bool]
"""`(number, place of the operand) -> whether the result is zero where the number and zeros are combined`."""


def elementwise(record: Record, equation: Any, operands: Sequence[Value], zeros: Any = None) -> list[Value]:
    """Elements at the same place belong together; `zeros(place)` is the condition for zero along an axis."""
    data = any(operand.data for operand in operands)
    if not data:
        # A kernel goes by its own ids, not by those of a scale.
        operands = sorted(operands, key=lambda operand: -sum(axis.ids is not None for axis in operand.axes))
    ranked = [operand.axes for operand in operands if operand.axes]
    if not ranked:
        return [Value((), data)]
    axes = [
        record.combine(list(each), None if zeros is None else zeros(place))
        for place, each in enumerate(zip(*ranked, strict=True))
    ]
    return [Value(tuple(axes), data)]


rule(*_OTHER.split())(elementwise)


@rule(*_KEEP_ZERO.split())
def unary(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Functions with f(0) = 0, result by result."""
    if equation.primitive.name in _SAME_FILL:
        return operands
    return [operand if operand.fill is None else dataclasses.replace(operand, fill=None) for operand in operands]


@rule('convert_element_type')
def convert(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Whole numbers may wrap around, and fractions are cut off: then the number is not known."""
    (operand,), dtype = operands, equation.params['new_dtype']
    if operand.fill is None or jnp.issubdtype(dtype, jnp.inexact) or operand.fill in (0, 1):
        return operands
    return [dataclasses.replace(operand, fill=None)]


@rule('integer_pow')
def integer_pow(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Zero stays zero under a positive power only."""
    positive = equation.params['y'] > 0
    return unary(record, equation, operands) if positive else singular(record, equation, operands)


def _sums(neutral: Neutral) -> Any:
    """A rule for functions that are zero where all operands are zero, or numbers of the right sign."""

    def apply(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
        counted = [
            operand
            for place, operand in enumerate(operands)
            if operand.fill is None or not neutral(operand.fill, place)
        ]
        return elementwise(record, equation, operands, lambda place: _all(counted, place))

    return apply


rule('add', 'add_any', 'sub', 'or', 'xor')(_sums(lambda number, _: number == 0))
rule('max')(_sums(lambda number, _: number <= 0))
rule('min')(_sums(lambda number, _: number >= 0))
# Operands are the lower bound, the array, the upper bound.
rule('clamp')(_sums(lambda number, place: number <= 0 if place == 0 else number >= 0))


@rule('select_n')
def select(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """One of several values, element by element: zero where all of them are."""
    counted = [operand for operand in operands[1:] if operand.fill != 0]
    return elementwise(record, equation, operands, lambda place: _all(counted, place))


@rule('mul', 'and')
def product(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """A product is zero where a factor is; of two parameters the one with more axes of its own counts."""
    factors = sorted(operands, key=_own_axes, reverse=True)
    if any(operand.data for operand in operands):
        factors = operands
    return elementwise(record, equation, operands, lambda place: _any(factors, place))


@rule('div', 'rem')
def div(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """A quotient (or what is left) is zero where the numerator is, unless the denominator may vanish with it."""
    numerator, denominator = operands
    _singular(record, denominator)

    def zeros(place: int) -> Rows | None:
        vanishes = bool(denominator.axes) and denominator.axes[place].zeros is not None
        return None if vanishes else _any([numerator], place)

    return elementwise(record, equation, operands, zeros)


@rule('rsqrt', 'log', 'log2', 'pow', 'digamma', 'lgamma')
def singular(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Not finite at zero (a power may be)."""
    _singular(record, operands[0])
    return elementwise(record, equation, operands)


@rule('acosh', 'polygamma', 'zeta', 'igamma', 'igammac', 'igamma_grad_a', 'regularized_incomplete_beta')
def singular_anywhere(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Not finite where some operand is zero."""
    for operand in operands:
        _singular(record, operand)
    return elementwise(record, equation, operands)


ELEMENTWISE = tuple(name for name, each in RULES.items() if each.__module__ == __name__)
"""Names of all primitives that work element by element: those with a rule in this file."""


def _singular(record: Record, value: Value) -> None:
    record.singular.extend(axis.zeros for axis in value.axes if axis.zeros is not None)


def _own_axes(value: Value) -> int:
    return sum(axis.zeros is not None for axis in value.axes)


def _along(values: Sequence[Value], place: int) -> list[Axis]:
    """The axes of all values at a place, scalars as axes of their own."""
    return [value.axes[place] if value.axes else Axis(1) for value in values]


def _all(values: Sequence[Value], place: int) -> Rows | None:
    axes = _along(values, place)
    longest = max((axis.size for axis in axes), default=1)
    return all_zeros(axes) if all(axis.size == longest for axis in axes) else None


def _any(values: Sequence[Value], place: int) -> Rows | None:
    """The simplest condition for zero that one of the values offers."""
    axes = _along(values, place)
    longest = max(axis.size for axis in axes)
    rows = [axis.zeros for axis in axes if axis.zeros is not None and axis.size == longest]
    return min(rows, key=lambda each: (bool(np.any(each == NEVER)), len(each)), default=None)
