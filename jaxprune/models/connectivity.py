"""The connectivity graph of a spec, derived by tracing the module that computes it."""

import functools

from jaxprune import graph
from jaxprune.models import spec as specs
from jaxprune.models.detector import Detector, shapes, smallest_image


@functools.lru_cache(maxsize=64)
def connectivity(spec: specs.ArchSpec) -> graph.Graph:
    """Which layer's channels are read where; layers stand in the spec's order, under their own names."""
    return graph.trace(
        functools.partial(Detector(spec).apply, auxiliary=True),
        shapes(spec),
        smallest_image(spec),
        layers=[(node.name, (node.name,)) for node in spec.layers],
        prove=False,  # at other widths it is another spec that is computed
    )
