"""Puts other weights and channel counts into a checkpoint that is there as plain data."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxprune.models import spec as specs
from weights_convert import _configuration
from weights_convert._activations import set_activations
from weights_convert._channels import attributes_of, set_channels
from weights_convert._contents import Contents, window
from weights_convert._entries import ENTRIES, find
from weights_convert._errors import ConversionError
from weights_convert._modules import Module, dictionary, network
from weights_convert._plain import Object
from weights_convert._same import check_same
from weights_convert._storage import Checkpoint
from weights_convert._tensors import TensorRef, tensor
from weights_convert._tree import tree_spec
from weights_convert._weights import Weight

_FINISHED = ('ema', 'optimizer', 'updates', 'training_results', 'wandb_id')  # what a finished run no longer has
_PARAMETERS = ('torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state')
_FROM_TYPE = 'torch._tensor._rebuild_from_type_v2'


def replaced(
    checkpoint: Checkpoint, spec: specs.ArchSpec, new: Mapping[str, Weight], contents: Contents, dtype: str
) -> tuple[Any, bool]:
    """The checkpoint's value with other weights; changed in place.

    Args:
      checkpoint: an open one.
      spec: of the network to be written.
      new: its weights by name.
      contents: where the new tensors are noted.
      dtype: of their elements.

    Returns:
      The value, and whether the configuration in it describes the network.

    Raises:
      ConversionError: it holds no module tree, or not that of this architecture.
    """
    entry = find(checkpoint.value)
    if not isinstance(entry, Object):
        raise ConversionError('it holds only tensors (a state_dict); a checkpoint with the whole model is needed')
    root = network(entry, file_size=checkpoint.size)
    original = tree_spec(root, checkpoint.read, name=spec.name)
    check_same(original, spec, root)
    objects = dict(_objects(entry, ''))
    writer = _Tensors(checkpoint, new, contents, dtype)
    for module in root.walk():
        writer.replace(module, objects[module.path])
    set_channels(root, spec, {name: weight.shape for name, weight in new.items()})
    same_activations = not set_activations(original, spec, objects)
    described = _set_classes_and_configuration(root, original, spec) and same_activations
    return _finished(checkpoint.value, entry), described


def _objects(value: Object, path: str) -> Iterator[tuple[str, Object]]:
    """The network and all modules in it, by their names."""
    yield path, value
    for name, child in dictionary(value, '_modules').items():
        if isinstance(child, Object):
            yield from _objects(child, f'{path}.{name}' if path else name)


class _Tensors:
    """Replaces tensors where they are described, so that all who refer to one see the same."""

    def __init__(self, checkpoint: Checkpoint, new: Mapping[str, Weight], contents: Contents, dtype: str) -> None:
        self._checkpoint, self._new, self._contents, self._dtype = checkpoint, new, contents, dtype
        self._done: dict[int, str] = {}

    def replace(self, module: Module, value: Object) -> None:
        """All parameters and buffers of one module, which `value` stands for."""
        for own in (dictionary(value, '_buffers'), dictionary(value, '_parameters')):
            for name, entry in own.items():
                if tensor(entry) is not None:
                    _freeze(entry)
                    full = f'{module.path}.{name}' if module.path else name
                    self._replace(full, _description(entry), module.tensors[name])

    def _replace(self, name: str, description: Object, ref: TensorRef) -> None:
        weight, earlier = self._new.get(name), self._done.get(id(description))
        if earlier is not None:
            self._check_shared(name, earlier)
        elif weight is not None:
            self._put(name, description, weight.shape, weight.values)
        elif ref.dtype.kind in 'fV':  # bfloat16 is a V
            self._put(name, description, ref.shape, functools.partial(self._checkpoint.read, ref))

    def _put(self, name: str, description: Object, shape: tuple[int, ...], values: Callable[[], np.ndarray]) -> None:
        self._done[id(description)] = name
        place = window(self._contents.add(name, shape, self._dtype, values), shape)
        if description.class_name == _FROM_TYPE:
            function, kind, arguments, *rest = description.arguments
            description.arguments = (function, kind, (*place, *arguments[4:]), *rest)
        else:
            description.arguments = (*place, *description.arguments[4:])

    def _check_shared(self, name: str, earlier: str) -> None:
        one, other = self._new.get(name), self._new.get(earlier)
        if one is not None and other is not None and not np.array_equal(one.values(), other.values()):
            raise ConversionError(f'{name} and {earlier} are one tensor in it, and have different values in the model')


def _freeze(value: Object) -> None:
    """A parameter asks for no gradient in a finished checkpoint; training scripts turn that on again."""
    if value.class_name in _PARAMETERS:
        value.arguments = (value.arguments[0], False, *value.arguments[2:])


def _description(value: Object) -> Object:
    """The object that names the storage, shape and strides, within a parameter or not."""
    while True:
        name, arguments = value.class_name, value.arguments
        if name == _FROM_TYPE:
            if 'parameter' not in arguments[0].name:
                return value
            arguments = arguments[2]
        elif 'parameter' not in name:
            return value
        value = arguments[0]


def _set_classes_and_configuration(root: Module, original: specs.ArchSpec, spec: specs.ArchSpec) -> bool:
    attributes = attributes_of(root)
    if spec.classes != original.classes:
        by_index = isinstance(attributes.get('names'), dict)
        attributes['names'] = dict(enumerate(spec.classes)) if by_index else list(spec.classes)
        attributes.update({'nc': len(spec.classes)} if 'nc' in attributes else {})
    configuration = _configuration.rewritten(attributes.get('yaml'), root, spec)
    if configuration is not None and (spec.widths() != original.widths()):
        attributes['yaml'] = configuration
    return configuration is not None


def _finished(value: Any, entry: Object) -> dict[Any, Any]:
    """The dictionary of a checkpoint around a network, as that of a run that is over."""
    top = value if isinstance(value, dict) else {}
    for name in ENTRIES:
        if isinstance(top.get(name), Object | dict):
            top[name] = None
    top.update({'epoch': -1, 'model': entry, **dict.fromkeys(_FINISHED)})
    return top
