"""Rules for primitives that call a jaxpr on their operands, once or in a loop."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxprune.graph._record import Record
from jaxprune.graph._registry import bodies, rule, scan_counts, unknown, walk_body
from jaxprune.graph._values import Axis, Value, all_zeros, merge_rows

_ROUNDS = 8


@rule('jit', 'pjit', 'closed_call', 'core_call', 'call', 'remat', 'remat2', 'checkpoint', 'custom_lin')
@rule('composite', 'custom_jvp_call', 'custom_vjp_call', 'custom_vjp_call_jaxpr')
def call(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Walks through the body with the operands as its arguments."""
    found = list(bodies(equation))
    if len(found) != 1 or len(getattr(found[0][1], 'jaxpr', found[0][1]).invars) != len(operands):
        return unknown(record, equation, operands)
    return walk_body(record, equation, 0, operands)


@rule('cond')
def cond(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """All branches; what they return lies side by side."""
    record.protect_value(operands[0], 'branches on it')
    results, work = [], []
    for number, _ in bodies(equation):
        start = len(record.work)
        results.append(walk_body(record, equation, number, operands[1:]))
        work.append(record.work[start:])
        del record.work[start:]
    # One of them runs: the dearest counts.
    record.work += max(work, key=lambda terms: sum(term.total for term in terms), default=[])
    return [_beside(record, each) for each in zip(*results, strict=True)]


@rule('while')
def while_loop(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """The carry has the same channels before and after; the body is counted once among the costs."""
    first = equation.params['cond_nconsts']
    second = first + equation.params['body_nconsts']

    def body(carry: Sequence[Value]) -> list[Value]:
        return walk_body(record, equation, 0, [*operands[first:second], *carry])

    carry, _ = _settle(record, operands[second:], body)
    (goes_on,) = walk_body(record, equation, 1, [*operands[:first], *carry])
    record.protect_value(goes_on, 'loops on it')
    return carry


@rule('scan')
def scan(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """The carry has the same channels before and after; other arrays are taken and given slice by slice."""
    constants, carried = scan_counts(equation.params)
    for each in operands[constants + carried :]:
        record.protect(each.axes[0].ids, 'goes through its channels one by one')
    slices = [Value(each.axes[1:], each.data) for each in operands[constants + carried :]]

    def body(carry: Sequence[Value]) -> list[Value]:
        with record.repeated(equation.params['length']):
            return walk_body(record, equation, 0, [*operands[:constants], *carry, *slices])

    carry, results = _settle(record, operands[constants : constants + carried], body)
    length = Axis(equation.params['length'])
    return [*carry, *(Value((length, *each.axes), each.data) for each in results)]


def _settle(
    record: Record, start: Sequence[Value], body: Callable[[Sequence[Value]], list[Value]]
) -> tuple[list[Value], list[Value]]:
    """The carry of a loop that its body leaves as it is, and what else the body returns."""
    carry = list(start)
    for _ in range(_ROUNDS):
        mark = record.mark()
        results = body(carry)
        after = [_merge(before, result) for before, result in zip(carry, results[: len(carry)], strict=True)]
        if all(_alike(first, second) for first, second in zip(carry, after, strict=True)):
            break
        record.forget(mark)
        carry = after
    else:
        results = body(carry)
        for value in carry:
            record.protect_value(value, 'changes its channels from turn to turn')
    settled = [_beside(record, pair) for pair in zip(carry, results[: len(carry)], strict=True)]
    return settled, results[len(carry) :]


def _merge(before: Value, after: Value) -> Value:
    axes = []
    for first, second in zip(before.axes, after.axes, strict=True):
        ids = second.ids if first.ids is None and first.uniform else first.ids
        zeros = second.zeros if before.fill == 0 else all_zeros([first, second])
        sources = merge_rows([first.sources, second.sources])
        uniform = first.uniform and second.uniform
        axes.append(Axis(first.size, ids, uniform, sources, zeros if ids is not None else None))
    return Value(tuple(axes), before.data or after.data, before.fill if before.fill == after.fill else None)


def _alike(first: Value, second: Value) -> bool:
    pairs = [
        pair
        for one, two in zip(first.axes, second.axes, strict=True)
        for pair in ((one.ids, two.ids), (one.sources, two.sources), (one.zeros, two.zeros))
    ]
    same = all(
        (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs
    )
    uniform = [axis.uniform for axis in first.axes] == [axis.uniform for axis in second.axes]
    return same and uniform and first.data == second.data and first.fill == second.fill


def _beside(record: Record, values: Sequence[Value]) -> Value:
    """What several values of one shape have in common."""
    ranked = zip(*(value.axes for value in values), strict=True)
    axes = [record.combine(list(each), all_zeros(each)) for each in ranked]
    return dataclasses.replace(values[0], axes=tuple(axes), data=any(value.data for value in values), fill=None)
