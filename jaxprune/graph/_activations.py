"""The values of every group's channels, as the first layer that reads them meets them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float

from jaxprune.graph._leaves import Leaves
from jaxprune.graph._program import arrays_in, trace_program
from jaxprune.graph._record import Place, Record, Site
from jaxprune.graph._registry import bodies, walk
from jaxprune.graph._types import Graph
from jaxprune.graph._values import NONE, Ids

_LOOPS = ('scan', 'while', 'cond')

Values = dict[tuple[Place, int], Array]
"""Place of an equation and number of an operand -> that operand."""


def activations(
    apply: Callable[..., Any], variables: Any, *inputs: Any, graph: Graph
) -> dict[str, Float[Array, '... channels']]:
    """Runs a model and returns what the first reader of every group reads; pure, and can be compiled.

    Args:
      apply: as given to the tracer.
      variables: arrays of the shapes that the graph was traced for.
      *inputs: arrays, of any batch size.
      graph: connectivity of the model.

    Returns:
      Name of the group -> values `[..., channels]`, the other axes in their order; where a channel has k > 1 places
      on the axis, they are an axis before the channels. Groups that are read inside loops only are left out.
    """
    program = trace_program(apply, variables, inputs)
    record = Record(program.leaves, choices=graph.walk.choices if graph.walk else {})
    walk(record, program.jaxpr.jaxpr, program.jaxpr.consts, program.values())
    group_of_id, rank_of_id = _numbers(program.leaves, graph)
    sites: dict[int, Site] = {}
    for site in record.sites:
        outside = not any(caller.primitive.name in _LOOPS for caller in site.callers)
        for index in np.unique(group_of_id[site.ids[site.ids >= 0]]) if outside else ():
            sites.setdefault(int(index), site)
    sites.pop(NONE, None)
    reading = _Reading({(site.place, site.operand) for site in sites.values()})
    reading.run(program.jaxpr, arrays_in((variables, inputs)))
    return {
        graph.groups[index].name: _channels(
            reading.values[site.place, site.operand], site, group_of_id == index, rank_of_id
        )
        for index, site in sorted(sites.items())
    }


def _numbers(leaves: Leaves, graph: Graph) -> tuple[Ids, Ids]:
    """Per id, its group and the channel of the group that it belongs to."""
    group_of_id = np.full(len(leaves.axis_of), NONE)
    rank_of_id = group_of_id.copy()
    for group in graph.groups:
        for slot in group.slots:
            ids = leaves.axis_ids(slot.path, slot.axis)[slot.indices]
            group_of_id[ids] = group.index
            rank_of_id[ids] = np.arange(group.channels)[:, None]
    return group_of_id, rank_of_id


def _channels(value: Array, site: Site, belongs: Ids, rank_of_id: Ids) -> Array:
    places = np.flatnonzero((site.ids >= 0) & belongs[site.ids])
    ranks = rank_of_id[site.ids[places]]
    rows = places[np.lexsort((places, ranks))].reshape(len(np.unique(ranks)), -1)
    last = jnp.moveaxis(value, site.axis, -1)
    return last[..., rows[:, 0]] if rows.shape[1] == 1 else last[..., rows.T]


class _Reading:
    """Evaluates a program and keeps some operands of its equations."""

    def __init__(self, wanted: set[tuple[Place, int]]) -> None:
        self._wanted = wanted
        self.values: Values = {}

    def run(self, body: Any, arguments: Sequence[Any], place: Place = ()) -> list[Any]:
        jaxpr, constants = getattr(body, 'jaxpr', body), getattr(body, 'consts', ())
        known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else known[atom]

        for number, equation in enumerate(jaxpr.eqns):
            operands = [read(atom) for atom in equation.invars]
            results = self._evaluate(equation, operands, (*place, number))
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _evaluate(self, equation: Any, operands: Sequence[Any], place: Place) -> Sequence[Any]:
        self.values |= {(place, number): value for number, value in enumerate(operands)} if self._here(place) else {}
        if any(each[: len(place)] == place and len(each) > len(place) for each, _ in self._wanted):
            (part, body), *_ = bodies(equation)
            return self.run(body, operands, (*place, part))
        results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
        return results if equation.primitive.multiple_results else [results]

    def _here(self, place: Place) -> bool:
        return any(each == place for each, _ in self._wanted)
