"""Rules for primitives that work element by element, and for those that pass several arrays on, each as it is."""

from jaxprune.replaying._registry import Step, rule
from jaxprune.replaying._values import NotReplayableError, Value, align

_NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj
convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
igamma_grad_a igammac imag integer_pow is_finite layout_constraint le lgamma log log1p log2 logistic lt max min mul
mulhi name ne neg nextafter not one_minus_square or polygamma population_count pow pvary real reduce_precision
regularized_incomplete_beta rem reshard round rsqrt select_n sharding_constraint shift_left shift_right_arithmetic
shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
"""


@rule(*_NAMES.split())
def elementwise(step: Step, operands: list[Value]) -> list[Value]:
    """All operands hold the same places, and so does the result."""
    values, masks = align(operands)
    return step.bind_one(values, masks)


@rule('optimization_barrier', 'device_put', 'debug_callback', 'debug_print')
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
