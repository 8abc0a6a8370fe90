"""The parameters and statistics of a model under their PyTorch names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprune import trees
from jaxprune.models import spec as specs
from jaxprune.models.detector import shapes
from weights_convert import _names
from weights_convert._errors import ConversionError

_SHOWN = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """One leaf of the variables, and how it is laid out in PyTorch."""

    link: _names.Link
    leaf: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """In PyTorch."""
        return _names.pytorch_shape(tuple(self.leaf.shape), self.link.layout)

    def values(self) -> np.ndarray:
        """In PyTorch's layout."""
        return _names.to_pytorch(np.asarray(self.leaf), self.link.layout)


def weights(spec: specs.ArchSpec, variables: Mapping[str, Any]) -> dict[str, Weight]:
    """All parameters and running statistics by name, in the order of the links.

    Raises:
      ConversionError: variables that do not fit the spec.
    """
    try:
        differences = trees.diff(shapes(spec), variables)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConversionError(f'the spec does not fit together: {str(error).splitlines()[0]}') from error
    if differences:
        more = f' and {len(differences) - _SHOWN} more' if len(differences) > _SHOWN else ''
        raise ConversionError(f'the variables do not fit the spec: {"; ".join(differences[:_SHOWN])}{more}')
    return {link.tensor: Weight(link, trees.get(variables, link.path)) for link in _names.links(spec)}


def detection_module(spec: specs.ArchSpec) -> str:
    """PyTorch name of the module that holds the heads."""
    head = next(node for node in spec.layers if node.name == spec.outputs[0])
    return head.pytorch_name.rpartition('.m.')[0]
