"""One rule per primitive, and the evaluation of a program by them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from jax.extend import core, source_info_util

from jaxprune.errors import UserError
from jaxprune.graph import describe
from jaxprune.replaying._values import Kept, NotReplayableError, Value, whole


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An equation that is about to be evaluated.

    Attributes:
      equation: of the original program.
      callers: equations in whose bodies it stands, outermost first.
    """

    equation: Any
    callers: tuple[Any, ...] = ()

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the primitive."""
        return self.equation.params

    def bind(self, values: Sequence[Value], **changed: Any) -> list[Any]:
        """The arrays that the primitive makes of what the values hold, with some parameters changed."""
        primitive = self.equation.primitive
        params = primitive.get_bind_params(dict(self.params, **changed))
        results = primitive.bind(*(value.array for value in values), **params)
        return list(results) if primitive.multiple_results else [results]

    def bind_one(self, values: Sequence[Value], kept: Iterable[Kept | None], **changed: Any) -> list[Value]:
        """The one result of `bind` as a value."""
        return [Value(self.bind(values, **changed)[0], tuple(kept))]

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Within it, what cannot be replayed is a `UserError` that names the equation."""
        try:
            yield
        except NotReplayableError as error:
            raise UserError(
                f'the pruned model cannot be replayed at {describe(self.equation, self.callers)}: {error}; '
                'keep these channels, or write this step in another way'
            ) from None

    def call(self, body: Any, values: Sequence[Value], consts: Sequence[Any] | None = None) -> list[Value]:
        """Results of a program that is a parameter of the equation."""
        consts = getattr(body, 'consts', ()) if consts is None else consts
        return evaluate(getattr(body, 'jaxpr', body), consts, values, (*self.callers, self.equation))


Rule = Callable[[Step, list[Value]], list[Value]]
"""`(step, operands) -> results`: the same primitive on smaller arrays.

The results hold, wherever they hold anything, what the original equation computes if every place that its operands
lack is one that nobody reads, or, where a sum or a product with a kernel joins the places of an axis, zero.
"""

RULES: dict[str, Rule] = {}
ALWAYS: set[str] = set()
"""Primitives whose rule is asked even where nothing is gone."""


def rule(*names: str, always: bool = False) -> Callable[[Rule], Rule]:
    """Registers a rule for the primitives called `names`."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f'primitive {name!r} has two rules')
            RULES[name] = function
        ALWAYS.update(names if always else ())
        return function

    return register


def evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Value], callers: tuple[Any, ...] = ()
) -> list[Value]:
    """The results of a program for these values in place of its input variables.

    Raises:
      UserError: naming the primitive and the user's line, where an equation has no counterpart on smaller arrays.
    """
    known = dict(zip(jaxpr.invars, arguments, strict=True))
    known |= {variable: whole(value) for variable, value in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Value:
        return whole(atom.val) if isinstance(atom, core.Literal) else known[atom]

    outer = source_info_util.current_name_stack()
    for equation in jaxpr.eqns:
        info = equation.source_info
        operands = [read(atom) for atom in equation.invars]
        with source_info_util.user_context(info.traceback, name_stack=outer + info.name_stack), equation.ctx.manager:
            results = _apply(Step(equation, callers), operands)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(step: Step, operands: list[Value]) -> list[Value]:
    name = step.equation.primitive.name
    if name not in ALWAYS and not any(operand.partial for operand in operands):
        return [whole(array) for array in step.bind(operands)]
    with step.explained():
        return RULES.get(name, _unknown)(step, operands)


def _unknown(step: Step, operands: list[Value]) -> list[Value]:
    sizes = [list(operand.sizes) for operand in operands if operand.partial]
    raise NotReplayableError(f'no rule is known for this primitive, which reads pruned channels (of {sizes})')
