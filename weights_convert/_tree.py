"""From the module tree of a checkpoint to a spec: names, wiring and settings are all in it."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxprune.models import spec as specs
from weights_convert import _blocks, _heads, _layers, _names
from weights_convert._differences import two_sided
from weights_convert._errors import ConversionError
from weights_convert._modules import Module
from weights_convert._plain import show
from weights_convert._tensors import TensorRef, tensor
from weights_convert._translation import Translation

Read = Callable[[TensorRef], np.ndarray]

_TRANSLATORS = {**_layers.TRANSLATORS, **_blocks.TRANSLATORS, **_heads.TRANSLATORS}
_CONFIGURATION = re.compile(r'([\w-]{1,80})\.yaml$', re.ASCII)


def tree_spec(root: Module, read: Read, *, name: str) -> specs.ArchSpec:
    """The architecture of a network.

    Args:
      root: the network, whose `model` holds the layers.
      read: gives the values of a tensor.
      name: of the architecture, where the network does not name its configuration file.

    Raises:
      ConversionError: a module or setting that is not supported, wiring that makes no sense, or tensors that the
        modules should not have.
    """
    for module in root.walk():
        _check_code(module)
    translation = _translate(root)
    if translation.detect is None:
        raise ConversionError('there is no detection module (Detect, IDetect, IAuxDetect) in it')
    detect, outputs, nodes = translation.detect, tuple(translation.outputs), tuple(translation.nodes)
    if detect.kind == 'IAuxDetect' and not translation.auxiliary:
        nodes = specs.needed(nodes, outputs)
    anchors, strides = anchors_of(read(detect.tensor('anchor_grid', 6)), detect.place), _strides(detect, read)
    channels = {node.channels for node in nodes if isinstance(node, specs.Head)}
    values, rest = divmod(min(channels), len(anchors[0]))
    if not len(anchors) == len(strides) == len(outputs) or len(channels) != 1 or rest or values < 6:
        raise ConversionError(f'{detect.place}: levels of anchors, strides and heads do not fit together')
    spec = specs.ArchSpec(
        name=_configuration(root) or name,
        form=_form(nodes),
        classes=_class_names(root, values - 5),
        anchors=anchors,
        strides=strides,
        nodes=nodes,
        outputs=outputs,
        auxiliary=tuple(translation.auxiliary),
    )
    kept = {node.name for node in nodes}
    dropped = [node.pytorch_name for node in translation.nodes if node.name not in kept]
    _check_names(spec, root, detect, dropped)
    return spec


def _check_code(module: Module) -> None:
    """Raises `ConversionError` for a module that does not compute what its class does: hooks, another forward."""
    if module.attributes.get('_forward_hooks') or module.attributes.get('_forward_pre_hooks'):
        raise ConversionError(f'{module.place} has forward hooks, which are code; remove them and save it again')
    if 'forward' in module.attributes and (not module.is_fused or 'bn' in module.children):
        raise ConversionError(f'{module.place} has a forward of its own, which is code; save it with that of its class')


def tree_tensors(root: Module) -> dict[str, TensorRef]:
    """All parameters and buffers by name."""
    return {
        f'{module.path}.{key}' if module.path else key: ref
        for module in root.walk()
        for key, ref in module.tensors.items()
    }


def _translate(root: Module) -> Translation:
    """Follows the layers; each says by index (`f`) which ones it reads, below zero counted back from itself."""
    translation = Translation(_TRANSLATORS)
    outputs: list[str | None] = []
    for module in root.child('model').children.values():
        sources = module.attributes.get('f')
        sources = sources if isinstance(sources, list | tuple) else [sources]
        inputs = [_input(outputs, module, source) for source in sources]
        outputs.append(translation.translate(module, tuple(inputs)))
    return translation


def _input(outputs: list[str | None], module: Module, source: Any) -> str:
    index = len(outputs) + source if isinstance(source, int) and source < 0 else source
    if not outputs and source == -1:
        return specs.IMAGE
    if type(index) is not int or not 0 <= index < len(outputs) or outputs[index] is None:
        raise ConversionError(f'{module.place} reads layer {show(source)}, which is not one before it')
    return outputs[index]  # type: ignore[return-value]


def _form(nodes: tuple[specs.Node, ...]) -> str:
    if any(isinstance(node, specs.Head) and node.implicit for node in nodes):
        return 'training'
    return 'deploy' if any(getattr(node, 'epsilon', None) is not None for node in nodes) else 'fused'


def anchors_of(grid: np.ndarray, place: str) -> tuple[tuple[tuple[float, float], ...], ...]:
    """`anchor_grid` [levels, 1, anchors, 1, 1, 2], in pixels (`anchors` is in cells, which half precision rounds)."""
    fits = grid.shape[-1] == 2 and grid.size == grid.shape[0] * grid.shape[2] * 2
    if not fits or not np.all((grid > 0) & np.isfinite(grid)):
        raise ConversionError(f'{place}: anchor_grid of shape {grid.shape} does not hold widths and heights')
    return tuple(tuple((w, h) for w, h in level) for level in grid.reshape(grid.shape[0], -1, 2).tolist())


def _strides(detect: Module, read: Read) -> tuple[int, ...]:
    ref = tensor(detect.attributes.get('stride'))
    if ref is None or len(ref.shape) != 1:
        raise ConversionError(f"{detect.place}: attribute 'stride' is not a tensor with a number per level")
    strides = read(ref)
    if not np.all(np.isin(strides, np.arange(1, 1025))):
        raise ConversionError(f'{detect.place}: strides are not whole numbers of pixels')
    return tuple(int(stride) for stride in strides)


def _class_names(root: Module, classes: int) -> tuple[str, ...]:
    """The names by class index, as the original looks them up; a class without one is called by its number.

    Characters that cannot be shown, which would spoil every list of them, are left out.
    """
    names = root.attributes.get('names')
    table: Mapping[Any, Any] = (
        names if isinstance(names, dict) else dict(enumerate(names if isinstance(names, list | tuple) else ()))
    )
    found = [table.get(index) for index in range(classes)]
    shown = (''.join(filter(str.isprintable, name)) if isinstance(name, str) else '' for name in found)
    return tuple(name or str(index) for index, name in enumerate(shown))


def _configuration(root: Module) -> str | None:
    """Name of the configuration file that the network was built from."""
    file = root.attributes.get('yaml_file')
    return match[1] if isinstance(file, str) and (match := _CONFIGURATION.search(file)) else None


def _check_names(spec: specs.ArchSpec, root: Module, detect: Module, dropped: list[str]) -> None:
    """Compares the tensors of the layers with those that the spec needs, both ways."""
    needed = dict.fromkeys(link.tensor for link in _names.links(spec))
    found = tree_tensors(root)
    ignored = tuple(f'{path}.' for path in (detect.path, *dropped))
    missing = [name for name in needed if name not in found]
    unexpected = [
        name
        for name in found
        if name not in needed
        and name.startswith('model.')
        and not name.startswith(ignored)
        and not name.endswith('.num_batches_tracked')
    ]
    if missing or unexpected:
        raise ConversionError(f'its tensors do not fit its layers: {two_sided(missing, unexpected)}')
