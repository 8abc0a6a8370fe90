"""Whether a plan's sliced model computes what its masked one does, without running either."""

from jaxprune import graph
from jaxprune.errors import UserError
from jaxprune.pruning._apply import bound_graph
from jaxprune.pruning._plan import Plan


def verify(plan: Plan) -> None:
    """Compares the function's program with its program at the plan's widths, equation by equation.

    The tracer has done so at some other widths. A function may still branch on a width that only this plan has (`if
    x.shape[-1] == 64`): that is found here. It costs about a trace of the function.

    Args:
      plan: bound to the graph that the function was traced to.

    Raises:
      UserError: for a difference, naming the primitive and the line; if the plan is not bound, or the graph was traced
        with `prove=False`.
    """
    found = graph.differences(bound_graph(plan), {layer.name: layer.removed for layer in plan.layers})
    if found:
        raise UserError(
            f'at the widths of this plan the function is another one: {found[0]}; keep other numbers of channels, '
            'leave the layers out, take widths from arrays in the code, or use jaxprune.replay (with verify=False)'
        )


def verified(plan: Plan, wanted: bool) -> Plan:
    """The plan; if wanted, and if the graph was traced to prove anything, after `verify`."""
    if wanted and plan.layers and bound_graph(plan).walk is not None:
        verify(plan)
    return plan
