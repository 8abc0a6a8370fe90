"""Rules for functions that come with derivatives of their own, which they keep."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxprune.replaying._registry import Step, rule
from jaxprune.replaying._values import Masks, NotReplayableError, Value, arrays_of, masks_of, spread, with_mask, wrap


@rule('custom_jvp_call')
def custom_jvp(step: Step, operands: list[Value]) -> list[Value]:
    """The user's tangents are a program of their own, which is replayed as well."""
    params, given = step.params, masks_of(operands)
    kept: list[Masks] = []

    def note(results: Sequence[Value]) -> list[Any]:
        kept[:] = masks_of(results)
        return arrays_of(results)

    @jax.custom_jvp
    def function(*arrays: Any) -> list[Any]:
        return note(step.call(params['call_jaxpr'], wrap(arrays, given)))

    def tangents_of(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        first = params['num_consts']
        zeros = [type(each) is SymbolicZero for each in tangents[first:]]
        jaxpr, consts, no_tangent = params['jvp_jaxpr_fun'].call_wrapped(*zeros)
        values = wrap([*primals, *tangents], [*given, *given])
        moving = [value for value in values[len(given) + first :] if type(value.array) is not SymbolicZero]
        results = step.call(jaxpr, [*values[first : len(given)], *moving], consts)
        arrays, found = note(results[: len(no_tangent)]), iter(results[len(no_tangent) :])
        with step.explained():
            return arrays, [
                SymbolicZero(jax.typeof(array).to_tangent_aval()) if zero else next(found).fit_all(masks).array
                for array, masks, zero in zip(arrays, kept, no_tangent, strict=True)
            ]

    function.defjvp(tangents_of, symbolic_zeros=params['symbolic_zeros'])
    return wrap(function(*arrays_of(operands)), kept)


@rule('custom_vjp_call')
def custom_vjp(step: Step, operands: list[Value]) -> list[Value]:
    """The user's forward and backward functions are programs of their own, which are replayed as well."""
    params, given, first = step.params, masks_of(operands), step.params['num_consts']
    kept: list[Masks] = []
    held: list[Masks] = []

    def note(results: Sequence[Value]) -> list[Any]:
        kept[:] = masks_of(results)
        return arrays_of(results)

    @jax.custom_vjp
    def function(*arrays: Any) -> list[Any]:
        return note(step.call(params['call_jaxpr'], wrap(arrays, given)))

    def forward(*primals: Any) -> tuple[list[Any], list[Any]]:
        if any(primal.perturbed for primal in primals[:first]):
            with step.explained():
                raise NotReplayableError('a derivative by what its function closes over is asked for')
        values = wrap([primal.value for primal in primals], given)
        jaxpr, consts = params['fwd_jaxpr_thunk'].call_wrapped(*(primal.perturbed for primal in primals[first:]))
        residuals, results = _residuals(step, step.call(jaxpr, values[first:], consts), values)
        held[:] = masks_of(residuals)
        return note(results), arrays_of(residuals)

    def backward(residuals: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        with step.explained():
            return _backward(step, wrap(residuals, held), wrap(cotangents, kept), operands)

    function.defvjp(forward, backward, symbolic_zeros=True)
    return wrap(function(*arrays_of(operands)), kept)


def _residuals(step: Step, results: list[Value], values: list[Value]) -> tuple[list[Value], list[Value]]:
    """What the forward function saves, some of which are its own arguments, and what it returns."""
    _, structure, passed_on = step.params['out_trees']()
    own = structure.num_leaves - sum(place is not None for place in passed_on)
    saved = iter(results[:own])
    return [next(saved) if place is None else values[place] for place in passed_on], results[own:]


def _backward(step: Step, residuals: list[Value], cotangents: list[Value], operands: list[Value]) -> tuple[Any, ...]:
    """Cotangents of the operands, by the user's function as traced at the original sizes."""
    symbolic = step.params['symbolic_zeros']
    values = [*residuals, *(each if symbolic else _instantiate(each) for each in cotangents)]
    moving = [value for value in values if type(value.array) is not SymbolicZero]
    there: list[bool] = []

    def run(*arrays: Any) -> list[Any]:
        found = iter(arrays)
        given = [_wide_zero(value) if type(value.array) is SymbolicZero else next(found) for value in values]
        results = step.params['bwd'].call_wrapped(*given)
        results = results[0] if isinstance(results, tuple) else results  # JAX 0.11.1 and later: logs beside them
        there[:] = [isinstance(result, jax.Array) or hasattr(result, '__array__') for result in results]
        return [result for result, stays in zip(results, there, strict=True) if stays]

    closed = jax.make_jaxpr(run)(*(_original(value) for value in moving))
    results = iter(step.call(closed, moving))
    own = operands[step.params['num_consts'] :]
    found = [_shrink(next(results), operand) if stays else None for stays, operand in zip(there, own, strict=True)]
    return (*itertools.repeat(None, step.params['num_consts']), *found)


def _shrink(cotangent: Value, operand: Value) -> Any:
    """The cotangent on the places that its operand holds; zero where the function did not look."""
    for axis, mask in enumerate(operand.kept):
        own = cotangent.kept[axis]
        if own is not None and mask is None:
            array = spread(cotangent.array, axis, own)
            cotangent = Value(array, with_mask(cotangent.kept, axis, None))
        else:
            cotangent = cotangent.fit(axis, mask)
    return cotangent.array


def _instantiate(value: Value) -> Value:
    if type(value.array) is not SymbolicZero:
        return value
    return Value(jnp.zeros(value.array.shape, value.array.dtype), value.kept)


def _wide_zero(value: Value) -> SymbolicZero:
    return SymbolicZero(value.array.aval.update(shape=value.sizes))


def _original(value: Value) -> Any:
    return jax.ShapeDtypeStruct(value.sizes, value.array.dtype)
