"""Rules for primitives that call a jaxpr on their operands."""

from typing import Any

from jaxprune.graph._record import Record
from jaxprune.graph._registry import rule, unknown, walk
from jaxprune.graph._values import Value

_BODIES = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')


@rule('jit', 'pjit', 'closed_call', 'core_call', 'call', 'remat', 'remat2', 'checkpoint', 'custom_lin')
@rule('custom_jvp_call', 'custom_vjp_call', 'custom_vjp_call_jaxpr')
def call(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Walks through the body with the operands as its arguments."""
    body = next((equation.params[key] for key in _BODIES if key in equation.params), None)
    jaxpr = getattr(body, 'jaxpr', body)
    if jaxpr is None or len(jaxpr.invars) != len(operands):
        return unknown(record, equation, operands)
    return walk(record, jaxpr, operands)
