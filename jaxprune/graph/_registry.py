"""One rule per primitive, and the walk that applies them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxprune.graph._record import Record, Step
from jaxprune.graph._values import Value, fixed

Rule = Callable[[Record, Any, list[Value]], list[Value]]
"""`(record, equation, operands) -> results`.

A rule may give a result's axis ids only if, after these are removed from all operands, the same primitive computes the
same result without them, and the elements that remain do not depend on those removed. For every id that
it lets go it calls `record.protect`.
"""

RULES: dict[str, Rule] = {}

_BODIES = ('jaxpr', 'call_jaxpr', 'fun_jaxpr', 'cond_jaxpr', 'body_jaxpr')


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for the primitives called `names`."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f'primitive {name!r} has two rules')
            RULES[name] = function
        return function

    return register


def unknown(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """What holds for any primitive: everything that it reads stays."""
    for operand in operands:
        record.protect_value(operand, 'cannot be followed')
    data = any(operand.data for operand in operands)
    return [fixed(getattr(result.aval, 'shape', ()), data=data) for result in equation.outvars]


def bodies(equation: Any) -> Iterator[tuple[int, Any]]:
    """The jaxprs that an equation runs through, each with a number."""
    found = [value for key, value in sorted(equation.params.items()) if key in _BODIES]
    for number, body in enumerate([*found, *equation.params.get('branches', ())]):
        if hasattr(body, 'eqns') or hasattr(body, 'jaxpr'):
            yield number, body


def scan_counts(parameters: Mapping[str, Any]) -> tuple[int, int]:
    """How many operands of a `scan` are constants, and how many its carry has, from its parameters."""
    if 'num_consts' in parameters:
        return parameters['num_consts'], parameters['num_carry']
    constants, carry, _ = (len(list(part)) for part in parameters['ft_in'].unpack())  # from JAX 0.11 on
    return constants, carry


def walk_body(record: Record, equation: Any, number: int, operands: Sequence[Value]) -> list[Value]:
    """The results of the body of this number."""
    body = dict(bodies(equation))[number]
    outer, record.place = record.place, (*record.place, number)
    results = walk(record, getattr(body, 'jaxpr', body), getattr(body, 'consts', ()), operands)
    record.place = outer
    return results


def walk(record: Record, jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
    """The results of a jaxpr for these arguments, in place of its input variables."""
    known = dict(zip(jaxpr.invars, arguments, strict=True))
    held = [_constant(value) for value in constants]
    known |= dict(zip(jaxpr.constvars, held, strict=True))
    if held:
        record.steps.append(Step(None, (), held, record.callers, record.place, constants))

    def read(atom: Any) -> Value:
        return _constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

    outer = record.equation, record.place, record.callers
    if record.equation is not None:
        record.callers = (*record.callers, record.equation)
    for number, equation in enumerate(jaxpr.eqns):
        record.equation, record.place = equation, (*outer[1], number)
        operands = [read(atom) for atom in equation.invars]
        results = RULES.get(equation.primitive.name, unknown)(record, equation, operands)
        record.steps.append(Step(equation, operands, results, record.callers, record.place))
        known.update(zip(equation.outvars, results, strict=True))
    record.equation, record.place, record.callers = outer
    return [read(atom) for atom in jaxpr.outvars]


def _constant(value: Any) -> Value:
    shape = np.shape(value)
    number = not shape and jnp.issubdtype(jnp.result_type(value), jnp.number) and not np.iscomplexobj(value)
    return fixed(shape, data=False, fill=float(value) if number else None)
