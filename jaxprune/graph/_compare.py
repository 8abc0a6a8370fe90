"""Whether a function at other widths runs the same program: equation by equation, shapes and numbers."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend import core
from jax.lax import GatherScatterMode
from jaxtyping import Bool

from jaxprune.graph._record import Place, Step, describe
from jaxprune.graph._registry import bodies
from jaxprune.graph._values import Axis, Ids, Value

# Parameters that follow from the shapes of operands and results, or are looked at more closely.
_SIZES = (
    *('new_sizes', 'shape', 'slice_sizes', 'sizes', 'feature_group_count', 'sharding', 'out_sharding', 'name'),
    *('start_indices', 'limit_indices', 'strides', 'padding_config'),
)
_LOOPS = ('scan', 'while', 'cond')

Kept = Bool[np.ndarray, 'ids']


@dataclasses.dataclass(frozen=True)
class Finding:
    """Where the second program is not what follows from the first.

    Attributes:
      reason: naming the equation.
      soft: whether only a number differs.
      place: of the equation; None where it is not known.
    """

    reason: str
    soft: bool
    place: Place | None = None


class Comparison:
    """Looks for differences between a walk and the same function's program with only some of the ids.

    A result of another shape hides all that follows from it. A number that differs (a scale by the width) is a
    finding where it meets ids, or where it decides on what is computed, or is part of the output.
    """

    def __init__(self, steps: Sequence[Step], programs: Sequence[core.ClosedJaxpr], kept: Kept, groups: Ids) -> None:
        """`steps`: of the walk through the first of the two programs; `kept` and `groups`: per id."""
        # An equation comes before those of its body, so that what it passes on is known there.
        self._steps = sorted(steps, key=lambda step: step.place)
        self._whole, self._small = (_Program(program) for program in programs)
        self._kept = kept
        self._groups = groups
        self._wrong: set[int] = set()
        self._changed: set[int] = set()

    def findings(self, outputs: Sequence[Value]) -> list[Finding]:
        """All differences; `outputs` are those of the whole program."""
        found: list[Finding] = []
        for step in self._steps:
            found += self._constant(step) if step.equation is None else self._check(step)
        places = {step.place for step in self._steps if step.equation is not None}
        walked = {place[:-1] for place in places}
        if extra := [place for place in self._small.equations if place not in places and place[:-1] in walked]:
            equation = self._small.equations[min(extra)]
            found.append(Finding(f'{describe(equation)} is there at other widths only', soft=False))
        found += [
            Finding('the function returns other values at other widths', soft=False)
            for body in walked
            if not _equal(self._whole.returned[body], self._small.returned.get(body))
        ][:1]
        if any(id(value) in self._changed for value in outputs):
            found.append(Finding('the output uses a number that depends on its width', soft=True))
        found += self._passed_on()
        if any(map(_resized, outputs, self._small.shapes)):
            found.append(Finding('the output has a length that depends on its width', soft=False))
        return found

    def _constant(self, step: Step) -> list[Finding]:
        others = self._small.constants.get(step.place, ())
        if len(others) != len(step.constants):
            return [Finding('the function closes over other arrays at other widths', soft=False)]
        pairs = zip(step.results, step.constants, others, strict=True)
        self._changed |= {id(value) for value, first, second in pairs if not _equal(first, second)}
        return []

    def _check(self, step: Step) -> list[Finding]:
        if any(id(operand) in self._wrong for operand in step.operands):
            self._wrong |= {id(result) for result in step.results}
            return []
        ids = self._known(step.operands)
        where = describe(step.equation, step.callers)
        other = self._small.equations.get(step.place)
        if other is None or other.primitive is not step.equation.primitive:
            self._wrong |= {id(result) for result in step.results}
            return [Finding(f'{where} is another operation at other widths', soft=False, place=step.place)]
        if not self._follows(step, other):
            self._wrong |= {id(result) for result in step.results}
            return [Finding(f'{where} does not follow its width', soft=False, place=step.place)]
        return self._numbers(step, other, ids)

    def _numbers(self, step: Step, other: Any, ids: Ids) -> list[Finding]:
        triples = list(zip(step.operands, step.equation.invars, other.invars, strict=True))
        changed = [
            operand
            for operand, first, second in (triples[number] for number in _used(step))
            if id(operand) in self._changed
            or _stretched(step, other, operand, second)
            or not _equal(*(getattr(atom, 'val', None) for atom in (first, second)))
        ]
        self._changed |= {id(operand) for operand in changed}
        decides = changed and step.equation.primitive.name in _LOOPS
        if any(bodies(step.equation)) and not decides:
            return []
        if decides or (changed and len(ids)):
            return [_number_finding(step)]
        if changed:
            self._changed |= {id(result) for result in step.results}
        return []

    def _passed_on(self) -> list[Finding]:
        """Loops and conditions whose bodies return numbers that differ."""
        steps = {step.place: step for step in self._steps if step.equation is not None}
        loops = [step for step in steps.values() if step.equation.primitive.name in _LOOPS]
        return [_number_finding(step) for step in loops if any(self._returns_changed(step, steps))]

    def _returns_changed(self, step: Step, steps: Mapping[Place, Step]) -> Iterator[bool]:
        for part, _ in bodies(step.equation):
            body = (*step.place, part)
            # What a body returns is one of its own arguments, a literal, or made by one of its equations.
            made = [each for each in self._whole.returned.get(body, ()) if isinstance(each, tuple)]
            for number, result in (each for each in made if each[0] != 'literal'):
                yield id(steps[(*body, number)].results[result]) in self._changed

    def _follows(self, step: Step, other: Any) -> bool:
        """Whether the other equation does the same to what is kept."""
        first = step.equation
        if self._whole.wiring[step.place] != self._small.wiring[step.place]:
            return False
        if len(first.outvars) != len(other.outvars):
            return False
        keys = [key for key in first.params if key not in _SIZES]
        if any(bodies(first)):
            # Bodies are compared themselves; functions beside them (derivatives) are made anew for every shape.
            keys = [key for key, value in first.params.items() if isinstance(value, bool | int)]
        if not all(_equal(first.params[key], other.params.get(key)) for key in keys):
            return False
        shapes = [getattr(result.aval, 'shape', ()) for result in other.outvars]
        fits = all(self._fits(value, shape) for value, shape in zip(step.results, shapes, strict=True))
        check = _PLACES.get(first.primitive.name)
        return fits and (check is None or check(self._kept, step.operands[0], first.params, other.params))

    def _known(self, values: Iterable[Value]) -> Ids:
        """Ids of channels."""
        found = np.concatenate([value.known() for value in values] or [np.empty(0, int)])
        found = np.unique(found[found >= 0])
        return found[self._groups[found] >= 0]

    def _fits(self, value: Value, shape: Sequence[int]) -> bool:
        if len(value.axes) != len(shape):
            return False
        return all(
            _stays(axis, self._kept).sum() == size or _any_size(axis)
            for axis, size in zip(value.axes, shape, strict=True)
        )


def _any_size(axis: Axis) -> bool:
    return axis.ids is None and (axis.uniform or axis.runs > 1)


def _stays(axis: Axis, kept: Kept) -> Bool[np.ndarray, 'size']:
    return np.ones(axis.size, bool) if axis.ids is None else (axis.ids < 0) | kept[axis.ids]


def _same_slice(kept: Kept, operand: Value, first: Any, second: Any) -> bool:
    """The same elements among those that are kept."""
    rank = len(operand.axes)
    spans = [
        [params['start_indices'], params['limit_indices'], params['strides'] or (1,) * rank]
        for params in (first, second)
    ]
    for axis, whole, small in zip(operand.axes, zip(*spans[0], strict=True), zip(*spans[1], strict=True), strict=True):
        stays = _stays(axis, kept)
        places = np.cumsum(stays) - 1
        taken = np.arange(*whole)
        if not _any_size(axis) and not np.array_equal(places[taken[stays[taken]]], np.arange(*small)):
            return False
    return True


def _same_padding(kept: Kept, operand: Value, first: Any, second: Any) -> bool:
    """As much before and between the elements; the shape says how much behind them."""
    pairs = zip(first['padding_config'], second['padding_config'], strict=True)
    return all((a[0], a[2]) == (b[0], b[2]) for a, b in pairs)


_PLACES: dict[str, Callable[[Kept, Value, Any, Any], bool]] = {'slice': _same_slice, 'pad': _same_padding}


class _Program:
    """A program by places.

    Attributes:
      equations: also those of bodies.
      constants: of the program and of all bodies, by the place of the body.
      wiring: for each equation, where its operands come from.
      returned: for the program and all bodies, where their results come from, and literals among them.
      shapes: of the results.
    """

    def __init__(self, program: core.ClosedJaxpr) -> None:
        self.equations: dict[Place, Any] = {}
        self.constants: dict[Place, Sequence[Any]] = {}
        self.wiring: dict[Place, Sequence[Any]] = {}
        self.returned: dict[Place, Sequence[Any]] = {}
        self.shapes = [getattr(aval, 'shape', ()) for aval in program.out_avals]
        self._visit(program, ())

    def _visit(self, body: Any, place: Place) -> None:
        jaxpr = getattr(body, 'jaxpr', body)
        self.constants[place] = getattr(body, 'consts', ())
        sources: dict[Any, Any] = {var: number for number, var in enumerate([*jaxpr.constvars, *jaxpr.invars])}
        for number, equation in enumerate(jaxpr.eqns):
            inner = (*place, number)
            self.equations[inner] = equation
            self.wiring[inner] = [None if isinstance(atom, core.Literal) else sources[atom] for atom in equation.invars]
            sources |= {var: (number, result) for result, var in enumerate(equation.outvars)}
            for part, each in bodies(equation):
                self._visit(each, (*inner, part))
        self.returned[place] = [
            ('literal', atom.val) if isinstance(atom, core.Literal) else sources[atom] for atom in jaxpr.outvars
        ]


def _resized(value: Value, shape: Sequence[int]) -> bool:
    """Whether an axis along which all is alike has another length."""
    pairs = zip(value.axes, shape, strict=False)
    return any(_any_size(axis) and axis.size != size for axis, size in pairs)


def _stretched(step: Step, other: Any, operand: Value, atom: Any) -> bool:
    """Whether the equation adds up equal numbers along an axis that has another length."""
    sizes = getattr(atom.aval, 'shape', ())
    places = _summed_axes(step, 0 if operand is step.operands[0] else 1)
    return any(_any_size(operand.axes[place]) and operand.axes[place].size != sizes[place] for place in places)


def _summed_axes(step: Step, number: int) -> Sequence[int]:
    """Axes of an operand whose length counts: those that the equation sums along, and not over the other's channels."""
    name, parameters = step.equation.primitive.name, step.equation.params
    if name in ('reduce_sum', 'reduce_prod', 'reduce_xor'):
        return list(parameters['axes'])
    if name in ('dot_general', 'conv_general_dilated'):
        pairs = list(zip(*parameters['dimension_numbers'][0], strict=True)) if name == 'dot_general' else []
        if name != 'dot_general':
            pairs = [(parameters['dimension_numbers'].lhs_spec[1], parameters['dimension_numbers'].rhs_spec[1])]
        left, right = step.operands[:2]
        return [pair[number] for pair in pairs if left.axes[pair[0]].ids is None and right.axes[pair[1]].ids is None]
    if name in ('cumsum', 'cumprod', 'cumlogsumexp', 'sort', 'reduce_window_sum') or name.startswith('scatter'):
        return range(len(step.operands[number].axes))
    if name == 'gather' and number == 0 and parameters['mode'] == GatherScatterMode.FILL_OR_DROP:
        # Places beyond the end are filled.
        sizes = zip(parameters['slice_sizes'], step.operands[0].axes, strict=True)
        return [place for place, (size, axis) in enumerate(sizes) if size < axis.size]
    return []


def _used(step: Step) -> Sequence[int]:
    """Numbers of the operands that count: where an axis is taken as a whole, it does not matter from where on."""
    count, name = len(step.operands), step.equation.primitive.name
    if name not in ('dynamic_slice', 'dynamic_update_slice'):
        return range(count)
    axes, rank = step.operands[0].axes, len(step.operands[0].axes)
    first = 1 if name == 'dynamic_slice' else 2
    part = step.results[0].axes if first == 1 else step.operands[1].axes
    whole = [first + place for place in range(rank) if part[place].size == axes[place].size]
    return [number for number in range(count) if number not in whole]


def _number_finding(step: Step) -> Finding:
    where = describe(step.equation, step.callers)
    return Finding(f'{where} uses a number that depends on its width', soft=True, place=step.place)


def _equal(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first) and math.isnan(second):
        return True
    if hasattr(first, 'shape') and hasattr(second, 'shape') and hasattr(first, 'dtype'):
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        both = np.asarray(first), np.asarray(second)
        return bool(np.array_equal(*both, equal_nan=both[0].dtype.kind in 'fc'))
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)
