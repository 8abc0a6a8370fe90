"""The channel counts that PyTorch modules note beside their tensors."""

import math
from collections.abc import Mapping
from typing import Any

from jaxprune.models import spec as specs
from weights_convert._modules import Module

_DETECTION = ('Detect', 'IDetect', 'IAuxDetect')

Shapes = Mapping[str, tuple[int, ...]]


def set_channels(root: Module, spec: specs.ArchSpec, shapes: Shapes) -> None:
    """The channel counts that modules note, and the numbers of parameters of the layers."""
    groups = {node.pytorch_name: node.groups for node in spec.layers if isinstance(node, specs.Conv)}
    for module in root.walk():
        for name, count in _channels(module, spec, shapes, groups).items():
            if name in module.attributes:
                attributes_of(module)[name] = count
    for layer in root.child('model').children.values():
        if 'np' in layer.attributes:
            attributes_of(layer)['np'] = sum(_parameters(module, shapes) for module in layer.walk())


def _channels(module: Module, spec: specs.ArchSpec, shapes: Shapes, groups: Mapping[str, int]) -> dict[str, int]:
    out, read, *_ = (*shapes.get(f'{module.path}.weight', ()), 0, 0)
    if module.kind == 'nn.Conv2d' and out:
        parts = groups.get(module.path) or groups.get(module.path.rpartition('.')[0]) or 1
        return {'in_channels': read * parts, 'out_channels': out, 'groups': parts}
    if module.kind in ('nn.BatchNorm2d', 'nn.SyncBatchNorm') and out:
        return {'num_features': out}
    if module.kind in ('ImplicitA', 'ImplicitM') and f'{module.path}.implicit' in shapes:
        return {'channel': shapes[f'{module.path}.implicit'][1]}
    if module.kind == 'RepConv':
        kernels = [shapes.get(f'{module.path}.{name}.weight') for name in ('rbr_dense.0', 'rbr_reparam')]
        out, read, *_ = next(filter(None, kernels), (0, 0))
        return {'in_channels': read, 'out_channels': out} if out else {}
    return {'nc': len(spec.classes), 'no': len(spec.classes) + 5} if module.kind in _DETECTION else {}


def _parameters(module: Module, shapes: Shapes) -> int:
    parameters = module.attributes.get('_parameters')
    parameters = parameters if isinstance(parameters, dict) else {}
    names = [name for name in parameters if name in module.tensors]
    return sum(math.prod(shapes.get(f'{module.path}.{name}', module.tensors[name].shape)) for name in names)


def attributes_of(module: Module) -> dict[str, Any]:
    """What the module's object holds, to be changed."""
    return module.attributes  # type: ignore[return-value]
