"""Whether a plan's sliced model computes what its masked one does, without running either."""

from collections.abc import Callable
from typing import Any

from jaxprune import graph
from jaxprune.errors import UserError
from jaxprune.pruning._plan import Plan


def verify(apply: Callable[..., Any], variables: Any, plan: Plan, *inputs: Any) -> None:
    """Compares the function's program with its program at the plan's widths, equation by equation.

    The tracer has done so at some other widths. A function may still branch on a width that only this plan has (`if
    x.shape[-1] == 64`): that is found here.

    Args:
      apply: as given to `trace`.
      variables: as given to `trace`; only shapes count.
      plan: bound to the graph.
      *inputs: as given to `trace`.

    Raises:
      UserError: for a difference, naming the primitive and the line.
    """
    if plan.graph is None:
        raise UserError('the plan is not bound to a graph: use plan.on(graph)')
    found = graph.differences(
        apply, variables, plan.graph, {layer.name: layer.removed for layer in plan.layers}, *inputs
    )
    if found:
        raise UserError(
            f'at the widths of this plan the function is another one: {found[0]}; keep other numbers of channels, '
            'leave the layers out, or take widths from arrays in the code'
        )
