"""Architectures as data, and the one module that computes them."""

from jaxprune.models.connectivity import connectivity
from jaxprune.models.cost import Cost, LayerCost, count, spec_cost
from jaxprune.models.detector import Detector, Variables, check_size, decoded, forward, heads, predict, shapes
from jaxprune.models.forms import to_form, with_activation, with_form
from jaxprune.models.registry import architectures, build_spec, create
from jaxprune.models.spec import FORMS, ArchSpec

__all__ = [
    'FORMS',
    'ArchSpec',
    'Cost',
    'Detector',
    'LayerCost',
    'Variables',
    'architectures',
    'build_spec',
    'check_size',
    'connectivity',
    'count',
    'create',
    'decoded',
    'forward',
    'heads',
    'predict',
    'shapes',
    'spec_cost',
    'to_form',
    'with_activation',
    'with_form',
]
