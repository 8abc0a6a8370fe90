"""Connectivity of any JAX model, found by following element ids through its jaxpr; knows no model, computes nothing."""

from jaxprune.graph._activations import activations
from jaxprune.graph._blocks import reshape_blocks
from jaxprune.graph._cost import Cost
from jaxprune.graph._record import describe
from jaxprune.graph._registry import scan_counts
from jaxprune.graph._rules_elementwise import ELEMENTWISE
from jaxprune.graph._svg import to_svg
from jaxprune.graph._trace import differences, trace
from jaxprune.graph._types import Edge, Graph, Group, LayerInfo, Slot

__all__ = [
    'ELEMENTWISE',
    'Cost',
    'Edge',
    'Graph',
    'Group',
    'LayerInfo',
    'Slot',
    'activations',
    'describe',
    'differences',
    'reshape_blocks',
    'scan_counts',
    'to_svg',
    'trace',
]
