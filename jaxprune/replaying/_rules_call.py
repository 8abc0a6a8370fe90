"""Rules for primitives that call a program on their operands, once or in a loop."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from jaxprune.graph import scan_counts
from jaxprune.replaying._registry import Step, rule
from jaxprune.replaying._values import Masks, NotReplayableError, Value, arrays_of, common, count, masks_of, wrap

_BODIES = ('jaxpr', 'call_jaxpr')
Body = Callable[[Sequence[Value]], list[Value]]


@rule('jit', 'pjit', 'closed_call', 'core_call', 'call', 'composite')
def call(step: Step, operands: list[Value]) -> list[Value]:
    """The body in place of the call."""
    return step.call(next(step.params[key] for key in _BODIES if key in step.params), operands)


@rule('remat', 'remat2', 'checkpoint')
def remat(step: Step, operands: list[Value]) -> list[Value]:
    """Stays a part of the program that is computed again for derivatives."""
    kept: list[Masks] = []

    def body(*arrays: Any) -> list[Any]:
        results = step.call(step.params['jaxpr'], _rewrap(arrays, operands))
        kept[:] = masks_of(results)
        return arrays_of(results)

    policy, prevent_cse = step.params['policy'], step.params['prevent_cse']
    return wrap(jax.checkpoint(body, policy=policy, prevent_cse=prevent_cse)(*arrays_of(operands)), kept)


@rule('cond')
def cond(step: Step, operands: list[Value]) -> list[Value]:
    """All branches hold the same places in the end."""
    index, *rest = operands
    bodies = [lambda values, branch=branch: step.call(branch, values) for branch in step.params['branches']]
    results = [_outline(body, rest) for body in bodies]
    kept = [_merge(masks) for masks in zip(*results, strict=True)]

    def fitted(body: Body) -> Callable[..., list[Any]]:
        return lambda *arrays: arrays_of(_fit(body(_rewrap(arrays, rest)), kept))

    return wrap(jax.lax.switch(index.array, [fitted(body) for body in bodies], *arrays_of(rest)), kept)


@rule('while')
def while_loop(step: Step, operands: list[Value]) -> list[Value]:
    """What the body passes on holds the same places before and after."""
    first = step.params['cond_nconsts']
    second = first + step.params['body_nconsts']
    test, constants, start = operands[:first], operands[first:second], operands[second:]

    def body(carry: Sequence[Value]) -> list[Value]:
        return step.call(step.params['body_jaxpr'], [*constants, *carry])

    kept, _ = _settle(body, start, [])

    def goes_on(arrays: Iterable[Any]) -> Any:
        return step.call(step.params['cond_jaxpr'], [*test, *wrap(arrays, kept)])[0].array

    def turn(arrays: Iterable[Any]) -> list[Any]:
        return arrays_of(_fit(body(wrap(arrays, kept)), kept))

    return wrap(jax.lax.while_loop(goes_on, turn, arrays_of(_fit(start, kept))), kept)


@rule('scan')
def scan(step: Step, operands: list[Value]) -> list[Value]:
    """The same; other arrays are taken and given slice by slice."""
    params, (first, carried) = step.params, scan_counts(step.params)
    constants, start, rows = operands[:first], operands[first : first + carried], operands[first + carried :]
    if any(each.kept[0] is not None for each in rows):
        raise NotReplayableError('it goes through channels one by one, of which some are gone')

    def body(values: Sequence[Value]) -> list[Value]:
        return step.call(params['jaxpr'], [*constants, *values])

    slices = [(each.kept[1:], each.array.shape[1:], each.array.dtype) for each in rows]
    inner = [(masks, jax.ShapeDtypeStruct(shape, dtype)) for masks, shape, dtype in slices]
    kept, results = _settle(body, start, [Value(struct, masks) for masks, struct in inner])

    def turn(carry: Sequence[Any], arrays: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        values = body([*wrap(carry, kept), *wrap(arrays, [masks for masks, *_ in slices])])
        return arrays_of(_fit(values[: len(start)], kept)), arrays_of(values[len(start) :])

    options = {key: params[key] for key in ('length', 'reverse', 'unroll')}
    carry, stacked = jax.lax.scan(turn, arrays_of(_fit(start, kept)), arrays_of(rows), **options)
    return [*wrap(carry, kept), *wrap(stacked, [(None, *masks) for masks in results])]


def _settle(body: Body, start: Sequence[Value], others: Sequence[Value]) -> tuple[list[Masks], list[Masks]]:
    """The places that the carry of a loop holds in every turn, and those of what else its body returns."""
    kept = masks_of(start)
    while True:
        carry = [_struct(value, masks) for value, masks in zip(start, kept, strict=True)]
        results = _outline(body, [*carry, *others])
        after = [_merge(pair) for pair in zip(kept, results[: len(start)], strict=True)]
        if all(_known(one) == _known(two) for one, two in zip(kept, after, strict=True)):
            return kept, results[len(start) :]
        kept = after


def _outline(body: Body, values: Sequence[Value]) -> list[Masks]:
    """What the results hold; nothing is computed."""
    kept: list[Masks] = []

    def run(*arrays: Any) -> list[Any]:
        results = body(_rewrap(arrays, values))
        kept.extend(masks_of(results))
        return arrays_of(results)

    jax.eval_shape(run, *arrays_of(values))
    return kept


def _struct(value: Value, masks: Masks) -> Value:
    """Stands for a value of which these places are held."""
    shape = tuple(count(mask, size) for mask, size in zip(masks, value.sizes, strict=True))
    return Value(jax.ShapeDtypeStruct(shape, value.array.dtype), masks)


def _merge(masks: Sequence[Masks]) -> Masks:
    return tuple(common(each) for each in zip(*masks, strict=True))


def _known(masks: Masks) -> list[bool]:
    return [mask is not None for mask in masks]


def _fit(values: Sequence[Value], kept: Sequence[Masks]) -> list[Value]:
    return [value.fit_all(masks) for value, masks in zip(values, kept, strict=True)]


def _rewrap(arrays: Sequence[Any], values: Sequence[Value]) -> list[Value]:
    """The values with other arrays that hold the same places."""
    return [Value(array, value.kept, value.uniform) for array, value in zip(arrays, values, strict=True)]
