"""The parts of a function as compiled programs, which can be run one by one."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax.extend import core
from jaxtyping import Array

from jaxprune.sensitivity._chain import Chain, Part, Place, cut
from jaxprune.sensitivity._forms import evaluate

Values: TypeAlias = Mapping[Place, Any]
Program: TypeAlias = Callable[..., Sequence[Array]]


@dataclasses.dataclass(frozen=True)
class Stages:
    """A chain with a program for each of its parts."""

    chain: Chain
    programs: tuple[Program, ...]

    def run(self, variables: Any, inputs: Any, *, keep: Iterable[Place] | None = None) -> dict[Place, Any]:
        """Values by place: all of them, or those of `keep` and the results; others are freed after their last use."""
        leaves = dict(zip(self.chain.leaves, jax.tree.leaves(variables), strict=True))
        given = dict(zip(self.chain.inputs, jax.tree.leaves(inputs), strict=True))
        kept = self.chain.shapes if keep is None else {*keep, *self.chain.results}
        return self._run({**self.chain.constants, **leaves, **given}, range(len(self.programs)), kept)

    def run_again(self, values: Values, leaves: Mapping[int, Any], numbers: Sequence[int]) -> dict[Place, Any]:
        """Values where some leaves of the variables are others: the parts `numbers` (of `reached`) run again.

        Of what they compute, only what the function returns is left.
        """
        changed = {**values, **{self.chain.leaves[index]: leaf for index, leaf in leaves.items()}}
        return self._run(changed, numbers, self.chain.results)

    def result(self, values: Values) -> Any:
        """What the function returns."""
        found = [each.val if isinstance(each, core.Literal) else values[each] for each in self.chain.outputs]
        return jax.tree.unflatten(self.chain.structure, found)

    def _run(self, values: dict[Place, Any], numbers: Sequence[int], kept: Iterable[Place]) -> dict[Place, Any]:
        for number, gone in zip(numbers, self.chain.freed(numbers, kept), strict=True):
            part = self.chain.parts[number]
            results = self.programs[number](*(values[place] for place in part.reads))
            values |= zip(part.writes, results, strict=True)
            for place in gone:
                del values[place]
        return values


class Compiler:
    """Compiles parts; equal programs, also of different functions and input shapes, are compiled once."""

    def __init__(self) -> None:
        self._programs: dict[str, Any] = {}

    def __len__(self) -> int:
        """How many programs were compiled."""
        return len(self._programs)

    def stages(self, function: Callable[[Any, Any], Any], variables: Any, inputs: Any) -> Stages:
        """Traces `function(variables, inputs)` and compiles its parts; nothing is computed."""
        chain = cut(function, variables, inputs)
        shapes = dict(chain.shapes)
        return Stages(chain, tuple(self._compile(part, shapes) for part in chain.parts))

    def _compile(self, part: Part, shapes: dict[Place, jax.ShapeDtypeStruct]) -> Program:
        """The program; where it reads lies as `shapes` says, and so does from then on what it writes."""
        evaluate_part = jax.jit(
            functools.partial(_evaluate, part), keep_unused=True
        )  # else equal texts may read others
        lowered = evaluate_part.lower(*(shapes[place] for place in part.reads))
        # The text does not say which host function is called: such programs are not shared.
        text = f'{id(part)}' if _calls_host(part) else lowered.as_text()
        if text not in self._programs:
            self._programs[text] = lowered.compile()
        program = self._programs[text]
        for place, sharding in zip(part.writes, program.output_shardings, strict=True):
            shapes[place] = shapes[place].update(sharding=sharding)
        return program


def _calls_host(part: Part) -> bool:
    return 'callback' in str([step.equation for step in part.steps])


def _evaluate(part: Part, *arguments: Array) -> list[Array]:
    values: dict[Place, Any] = dict(zip(part.reads, arguments, strict=True))
    for step in part.steps:
        operands = [read.val if isinstance(read, core.Literal) else values[read] for read in step.reads]
        values |= zip(step.writes, evaluate(step.equation, operands), strict=True)
    return [values[place] for place in part.writes]
