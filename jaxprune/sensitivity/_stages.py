"""A traced function as a chain of small programs, so that what did not change need not be computed again.

The function's jaxpr is cut before every expensive equation (a convolution, a matrix product, a loop, ...). What is
cheap goes with the stage that its operands come from, so that XLA can fuse it; what joins several stages begins a new
one. A stage is compiled once for all stages with the same program: layers of equal shapes share one.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.extend import core
from jaxtyping import Array

from jaxprune.sensitivity._forms import evaluate

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
class Stage:
    """One program of the chain: places that it reads and writes, and the compiled program."""

    reads: tuple[Place, ...]
    writes: tuple[Place, ...]
    run: Callable[..., Sequence[Array]]


Values: TypeAlias = Mapping[Place, Any]


@dataclasses.dataclass(frozen=True)
class Stages:
    """A function of `(variables, inputs)` for inputs of one shape.

    Attributes:
      stages: in the order in which they can be computed.
      leaves: places of the leaves of the variables, in their order.
      inputs: places of the leaves of the inputs.
      constants: arrays that the function brings along.
      outputs: places of the leaves of what it returns, or literals.
      structure: tree structure of what it returns.
    """

    stages: tuple[Stage, ...]
    leaves: tuple[Place, ...]
    inputs: tuple[Place, ...]
    constants: Values
    outputs: tuple[Place | core.Literal, ...]
    structure: Any

    def run(self, variables: Any, inputs: Any, *, keep: Iterable[Place] | None = None) -> dict[Place, Any]:
        """Values by place: all of them, or those of `keep` and the outputs; others are freed after their last use."""
        given = dict(zip(self.inputs, jax.tree.leaves(inputs), strict=True))
        values = {**self.constants, **self._leaves(variables), **given}
        freed = [()] * len(self.stages) if keep is None else self._freed({*keep, *self._results()})
        for stage, gone in zip(self.stages, freed, strict=True):
            values |= zip(stage.writes, stage.run(*(values[place] for place in stage.reads)), strict=True)
            for place in gone:
                del values[place]
        return values

    def run_again(self, values: Values, leaves: Mapping[int, Any], numbers: Iterable[int]) -> dict[Place, Any]:
        """Values where some leaves of the variables are others: the stages `numbers` (of `reached`) run again."""
        changed = {**values, **{self.leaves[index]: leaf for index, leaf in leaves.items()}}
        for stage in (self.stages[number] for number in numbers):
            changed |= zip(stage.writes, stage.run(*(changed[place] for place in stage.reads)), strict=True)
        return changed

    def result(self, values: Values) -> Any:
        """What the function returns."""
        found = [each.val if isinstance(each, core.Literal) else values[each] for each in self.outputs]
        return jax.tree.unflatten(self.structure, found)

    def reached(self, leaves: Iterable[int]) -> tuple[int, ...]:
        """Numbers of the stages that depend on leaves of the variables, given by their index."""
        places = {self.leaves[index] for index in leaves}
        numbers = []
        for number, stage in enumerate(self.stages):
            if not places.isdisjoint(stage.reads):
                places.update(stage.writes)
                numbers.append(number)
        return tuple(numbers)

    def read_by(self, numbers: Iterable[int]) -> set[Place]:
        """The places that these stages read."""
        return {place for number in numbers for place in self.stages[number].reads}

    def _leaves(self, variables: Any) -> dict[Place, Any]:
        return dict(zip(self.leaves, jax.tree.leaves(variables), strict=True))

    def _results(self) -> set[Place]:
        return {place for place in self.outputs if not isinstance(place, core.Literal)}

    def _freed(self, kept: set[Place]) -> list[list[Place]]:
        """Per stage, the places that nothing after it reads."""
        last = {place: number for number, stage in enumerate(self.stages) for place in (*stage.reads, *stage.writes)}
        made = {place for stage in self.stages for place in stage.writes}
        freed: list[list[Place]] = [[] for _ in self.stages]
        for place in made - kept:
            freed[last[place]].append(place)
        return freed


class Compiler:
    """Compiles stages; equal programs, also of different functions and input shapes, are compiled once."""

    def __init__(self) -> None:
        self._programs: dict[str, Any] = {}

    def __len__(self) -> int:
        """How many programs were compiled."""
        return len(self._programs)

    def stages(self, function: Callable[[Any, Any], Any], variables: Any, inputs: Any) -> Stages:
        """Traces `function(variables, inputs)` and compiles its stages; nothing is computed."""
        shapes = jax.tree.map(_abstract, (variables, inputs))
        closed, returned = jax.make_jaxpr(function, return_shape=True)(*shapes)
        flat = _flatten(closed)
        count = len(jax.tree.leaves(shapes[0]))
        given = tuple(range(len(closed.jaxpr.invars)))
        shardings = dict(zip(given, (leaf.sharding for leaf in jax.tree.leaves(shapes)), strict=True))
        return Stages(
            stages=tuple(self._compile(flat, part, shardings) for part in _cut(flat, given[count:])),
            leaves=given[:count],
            inputs=given[count:],
            constants=flat.constants,
            outputs=flat.outputs,
            structure=jax.tree.structure(returned),
        )

    def _compile(self, flat: '_Flat', part: '_Part', shardings: dict[Place, Any]) -> Stage:
        """The stage; where it reads lies as `shardings` says, and so does from then on what it writes."""
        evaluate = jax.jit(functools.partial(_evaluate, part))
        reads = [jax.ShapeDtypeStruct(*flat.shapes[place], sharding=shardings.get(place)) for place in part.reads]
        lowered = evaluate.lower(*reads)
        text = lowered.as_text()
        if text not in self._programs:
            self._programs[text] = lowered.compile()
        program = self._programs[text]
        shardings |= zip(part.writes, program.output_shardings, strict=True)
        return Stage(part.reads, part.writes, program)


@dataclasses.dataclass(frozen=True)
class _Flat:
    """A jaxpr whose calls are dissolved."""

    steps: tuple[_Step, ...]
    constants: dict[Place, Any]
    outputs: tuple[Place | core.Literal, ...]
    shapes: dict[Place, tuple[tuple[int, ...], Any]]


@dataclasses.dataclass(frozen=True)
class _Part:
    """What becomes a stage: steps, and the places that they read and others need."""

    steps: tuple[_Step, ...]
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(getattr(leaf, 'dtype', type(leaf)))
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=getattr(leaf, 'sharding', None))


def _flatten(closed: core.ClosedJaxpr) -> _Flat:
    """Places are numbered: first the arguments, then everything as it is computed."""
    steps: list[_Step] = []
    constants: dict[Place, Any] = {}
    shapes: dict[Place, tuple[tuple[int, ...], Any]] = {}

    def new(variable: Any) -> Place:
        shapes[len(shapes)] = (variable.aval.shape, variable.aval.dtype)
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


def _cut(flat: _Flat, inputs: Sequence[Place]) -> list[_Part]:
    """The stages; steps that depend on variables alone stand in every stage that needs them."""
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


def _parts(flat: _Flat, groups: list[list[_Step]], maker: Mapping[Place, _Step]) -> list[_Part]:
    results = [place for place in flat.outputs if not isinstance(place, core.Literal)]
    alone = [place for place in dict.fromkeys(results) if place in maker]
    whole = [(_with_static(group, maker), group) for group in groups]
    if alone:  # a result that depends on the variables alone
        whole.append((_with_static([], maker, alone), [maker[place] for place in alone]))
    reads = [_outside(steps) for steps, _ in whole]
    needed = {place for each in reads for place in each} | set(results)
    return [
        _Part(steps, read, tuple(place for step in own for place in step.writes if place in needed))
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


def _evaluate(part: _Part, *arguments: Array) -> list[Array]:
    values: dict[Place, Any] = dict(zip(part.reads, arguments, strict=True))
    for step in part.steps:
        operands = [read.val if isinstance(read, core.Literal) else values[read] for read in step.reads]
        values |= zip(step.writes, evaluate(step.equation, operands), strict=True)
    return [values[place] for place in part.writes]
