"""A traced function as a chain of small parts, so that what did not change need not be computed again.

The function's jaxpr is cut before every expensive equation (a convolution, a matrix product, a loop, ...). What is
cheap goes with the part that its operands come from, so that XLA can fuse it; what joins several parts begins a new
one. Nothing is computed or compiled here.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.extend import core

EXPENSIVE = frozenset({'conv_general_dilated', 'dot_general', 'ragged_dot_general', 'scan', 'while', 'cond', 'fft',
    'sort', 'top_k', 'cumsum', 'reduce_window', 'reduce_window_max', 'reduce_window_sum'})  # fmt: skip
_CALLS = frozenset({'jit', 'pjit', 'closed_call', 'core_call', 'remat', 'remat2', 'checkpoint', 'custom_jvp_call',
    'custom_vjp_call', 'custom_vjp_call_jaxpr'})  # fmt: skip

Place: TypeAlias = int
"""Index of a value that the function computes or is given."""


@dataclasses.dataclass(frozen=True)
class _Step:
    """An equation outside of any call: reads are places, or literals as they stand."""

    equation: Any
    reads: tuple[Place | core.Literal, ...]
    writes: tuple[Place, ...]

    @property
    def places(self) -> Iterator[Place]:
        """What it reads, without literals."""
        return (read for read in self.reads if not isinstance(read, core.Literal))


@dataclasses.dataclass(frozen=True)
class Part:
    """Steps that are computed together, the places that they read, and those that others need of them."""

    steps: tuple[_Step, ...]
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]


@dataclasses.dataclass(frozen=True)
class Chain:
    """A function of `(variables, inputs)` for inputs of one shape.

    Attributes:
      parts: in the order in which they can be computed.
      leaves: places of the leaves of the variables, in their order.
      inputs: places of the leaves of the inputs.
      constants: arrays that the function brings along.
      outputs: places of the leaves of what it returns, or literals.
      structure: tree structure of what it returns.
      shapes: shape and dtype of every value.
    """

    parts: tuple[Part, ...]
    leaves: tuple[Place, ...]
    inputs: tuple[Place, ...]
    constants: Mapping[Place, Any]
    outputs: tuple[Place | core.Literal, ...]
    structure: Any
    shapes: Mapping[Place, jax.ShapeDtypeStruct]

    @property
    def results(self) -> set[Place]:
        """Places of what the function returns."""
        return {place for place in self.outputs if not isinstance(place, core.Literal)}

    def reached(self, leaves: Iterable[int]) -> tuple[int, ...]:
        """Numbers of the parts that depend on leaves of the variables, given by their index."""
        places = {self.leaves[index] for index in leaves}
        numbers = []
        for number, part in enumerate(self.parts):
            if not places.isdisjoint(part.reads):
                places.update(part.writes)
                numbers.append(number)
        return tuple(numbers)

    def needed(self, numbers: Iterable[int]) -> set[Place]:
        """The places that these parts read and do not write."""
        parts = [self.parts[number] for number in numbers]
        return {place for part in parts for place in part.reads} - {place for part in parts for place in part.writes}

    def freed(self, numbers: Sequence[int], kept: Iterable[Place]) -> list[list[Place]]:
        """For each of these parts, computed in this order, the values made by them that nothing needs after it."""
        parts = [self.parts[number] for number in numbers]
        last = {place: turn for turn, part in enumerate(parts) for place in (*part.reads, *part.writes)}
        gone: list[list[Place]] = [[] for _ in parts]
        for place in {place for part in parts for place in part.writes} - set(kept):
            gone[last[place]].append(place)
        return gone


def cut(function: Callable[[Any, Any], Any], variables: Any, inputs: Any) -> Chain:
    """Traces `function(variables, inputs)`, of which only shapes are read."""
    shapes = jax.tree.map(abstract, (variables, inputs))
    closed, returned = jax.make_jaxpr(function, return_shape=True)(*shapes)
    flat = _flatten(closed)
    count = len(jax.tree.leaves(shapes[0]))
    given = tuple(range(len(closed.jaxpr.invars)))
    return Chain(
        parts=tuple(_cut(flat, given[count:])),
        leaves=given[:count],
        inputs=given[count:],
        constants=flat.constants,
        outputs=flat.outputs,
        structure=jax.tree.structure(returned),
        shapes=flat.shapes | dict(zip(given, jax.tree.leaves(shapes), strict=True)),
    )


@dataclasses.dataclass(frozen=True)
class _Flat:
    """A jaxpr whose calls are dissolved."""

    steps: tuple[_Step, ...]
    constants: dict[Place, Any]
    outputs: tuple[Place | core.Literal, ...]
    shapes: dict[Place, jax.ShapeDtypeStruct]


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and place of an array."""
    dtype = jax.dtypes.canonicalize_dtype(getattr(leaf, 'dtype', type(leaf)))
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=getattr(leaf, 'sharding', None))


def _flatten(closed: core.ClosedJaxpr) -> _Flat:
    """Places are numbered: first the arguments, then everything as it is computed."""
    steps: list[_Step] = []
    constants: dict[Place, Any] = {}
    shapes: dict[Place, jax.ShapeDtypeStruct] = {}

    def new(variable: Any) -> Place:
        shapes[len(shapes)] = jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)
        return len(shapes) - 1

    def walk(jaxpr: Any, values: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        known = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable, value in zip(jaxpr.constvars, values, strict=True):
            known[variable] = new(variable)
            constants[known[variable]] = value
        for equation in jaxpr.eqns:
            reads = [each if isinstance(each, core.Literal) else known[each] for each in equation.invars]
            body = _body(equation)
            if body is None:
                results: Sequence[Any] = [new(each) for each in equation.outvars]
                steps.append(_Step(equation, tuple(reads), tuple(results)))
            else:
                results = walk(getattr(body, 'jaxpr', body), getattr(body, 'consts', ()), reads)
            known |= zip(equation.outvars, results, strict=True)
        return [each if isinstance(each, core.Literal) else known[each] for each in jaxpr.outvars]

    outputs = walk(closed.jaxpr, closed.consts, [new(each) for each in closed.jaxpr.invars])
    return _Flat(tuple(steps), constants, tuple(outputs), shapes)


def _body(equation: Any) -> Any:
    """The jaxpr that an equation calls once with its operands, if that is what it does."""
    if equation.primitive.name not in _CALLS:
        return None
    return next(
        (equation.params[name] for name in ('jaxpr', 'call_jaxpr', 'fun_jaxpr') if name in equation.params), None
    )


def _cut(flat: _Flat, inputs: Sequence[Place]) -> list[Part]:
    """The parts; steps that depend on variables alone stand in every part that needs them."""
    owner = {place: -1 - number for number, place in enumerate(inputs)}
    groups: list[list[_Step]] = []
    maker: dict[Place, _Step] = {}
    for step in flat.steps:
        sources = {owner[place] for place in step.places if place in owner}
        if not sources:
            maker |= dict.fromkeys(step.writes, step)
            continue
        number = min(sources)
        if step.equation.primitive.name in EXPENSIVE or len(sources) > 1 or number < 0:
            groups.append([])
            number = len(groups) - 1
        groups[number].append(step)
        owner |= dict.fromkeys(step.writes, number)
    return _parts(flat, groups, maker)


def _parts(flat: _Flat, groups: list[list[_Step]], maker: Mapping[Place, _Step]) -> list[Part]:
    results = [place for place in flat.outputs if not isinstance(place, core.Literal)]
    alone = [place for place in dict.fromkeys(results) if place in maker]
    whole = [(_with_static(group, maker), group) for group in groups]
    if alone:  # a result that depends on the variables alone
        whole.append((_with_static([], maker, alone), [maker[place] for place in alone]))
    reads = [_outside(steps) for steps, _ in whole]
    needed = {place for each in reads for place in each} | set(results)
    return [
        Part(steps, read, tuple(place for step in own for place in step.writes if place in needed))
        for (steps, own), read in zip(whole, reads, strict=True)
    ]


def _with_static(
    group: Sequence[_Step], maker: Mapping[Place, _Step], wanted: Iterable[Place] = ()
) -> tuple[_Step, ...]:
    """The steps, after those that compute what they read from variables alone."""
    static: dict[int, _Step] = {}
    waiting = [*wanted, *(place for step in group for place in step.places)]
    while waiting:
        step = maker.get(waiting.pop())
        if step is not None and step.writes[0] not in static:
            static[step.writes[0]] = step
            waiting += step.places
    return (*(static[place] for place in sorted(static)), *group)


def _outside(steps: Sequence[_Step]) -> tuple[Place, ...]:
    made = {place for step in steps for place in step.writes}
    return tuple(dict.fromkeys(place for step in steps for place in step.places if place not in made))
