"""PyTorch's activation modules, and what a spec calls them."""

from typing import Any

from jaxprune.models import spec as specs
from weights_convert._errors import ConversionError
from weights_convert._modules import Module
from weights_convert._plain import Global, Object

_HOME = 'torch.nn.modules.activation'
_CLASSES = {'silu': 'SiLU', 'relu': 'ReLU', 'relu6': 'ReLU6', 'hardswish': 'Hardswish', 'leaky_relu': 'LeakyReLU'}
_NAMES = {
    **{f'nn.{kind}': name for name, kind in _CLASSES.items() if name != 'leaky_relu'},
    'nn.Identity': 'identity',
    'SiLU': 'silu',
    'Hardswish': 'hardswish',
}


def activation_name(module: Module) -> str:
    """What a spec calls the activation that a module computes."""
    if module.kind == 'nn.LeakyReLU':
        return f'leaky_relu:{module.number("negative_slope")}'
    if module.kind not in _NAMES:
        supported = ', '.join(['nn.LeakyReLU', *_NAMES])
        raise ConversionError(f'{module.place}: this activation is not supported; supported are {supported}')
    return _NAMES[module.kind]


def set_activations(original: specs.ArchSpec, spec: specs.ArchSpec, objects: dict[str, Object]) -> bool:
    """Turns the activations of a network, given by the names of its modules, into those of the spec.

    Returns:
      Whether any was another one.
    """
    changed = False
    for node, other in zip(spec.nodes, original.nodes, strict=True):
        before, after = (getattr(each, 'activation', None) for each in (other, node))
        if before != after:
            _become(objects[f'{node.pytorch_name}.act'], str(after))
            changed = True
    return changed


def _become(module: Object, activation: str) -> None:
    kind, _, slope = activation.partition(':')
    if kind not in _CLASSES or module.opcode != 'NEWOBJ':
        raise ConversionError(f'the activation {activation!r} cannot be written in place of {module.class_name}')
    module.class_name = f'{_HOME}.{_CLASSES[kind]}'
    module.maker = Global(module.class_name, _HOME)
    settings: dict[str, Any] = {'inplace': False}
    settings |= {'negative_slope': float(slope or 0.01)} if kind == 'leaky_relu' else {}
    settings |= {'min_val': 0.0, 'max_val': 6.0} if kind == 'relu6' else {}
    module.attributes.update(settings)
