"""From a checkpoint file to a spec and variables."""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.models import spec as specs
from jaxprune.models.detector import shapes
from weights_convert import _names
from weights_convert._errors import ConversionError
from weights_convert._layers import Translation, translate
from weights_convert._modules import Module, network
from weights_convert._plain import show
from weights_convert._storage import Checkpoint, open_checkpoint
from weights_convert._tensors import TensorRef, tensor

_DECODING = {'anchor_grid': 'anchors of the spec'}
_CONFIGURATION = re.compile(r'([\w-]{1,80})\.yaml$', re.ASCII)
_SHOWN = 3  # differences that an error names


@dataclasses.dataclass(frozen=True)
class TensorReport:
    """One tensor of the checkpoint's network: where it went, or why it is not needed."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    destination: str


@dataclasses.dataclass(frozen=True)
class Converted:
    """A checkpoint as spec and variables.

    Attributes:
      spec: the architecture.
      variables: `params` and, where there is batch normalisation, `batch_stats`; float32 arrays in host memory.
      report: every tensor of the network in the file.
      unexpected_calls: functions that the file asks for and no checkpoint needs; none was called.
    """

    spec: specs.ArchSpec
    variables: dict[str, Any]
    report: tuple[TensorReport, ...]
    unexpected_calls: tuple[str, ...]


def convert_checkpoint(path: str | pathlib.Path, *, name: str | None = None) -> Converted:
    """Reads a checkpoint of the PyTorch YOLOv7, without PyTorch and without executing anything in it.

    Args:
      path: a `.pt` file, zip or legacy format, that holds the whole model.
      name: of the architecture; by default that of the configuration file named in the checkpoint, else of the file.

    Returns:
      The model, and what became of every tensor.

    Raises:
      ConversionError: one line that names the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    try:
        with open_checkpoint(path) as checkpoint:
            return _convert(checkpoint, name, path.stem)
    except (UserError, OSError) as error:
        raise ConversionError(f'{path}: {error}') from error


def _convert(checkpoint: Checkpoint, name: str | None, stem: str) -> Converted:
    root = network(checkpoint.value)
    translation = _translate(root)
    spec = _spec(root, translation, checkpoint, name or _configuration(root) or stem)
    tensors = {f'{module.path}.{key}': ref for module in root.walk() for key, ref in module.tensors.items()}
    flat = {
        link.path: _names.to_flax(checkpoint.read(_tensor(tensors, link)), link.layout) for link in translation.links
    }
    variables = trees.unflatten(flat)
    _check(spec, variables)
    return Converted(spec, variables, _report(tensors, translation), checkpoint.unexpected_calls)


def _translate(root: Module) -> Translation:
    """Follows the layers; each says by index (`f`) which ones it reads, below zero counted back from itself."""
    translation = Translation()
    outputs: list[str | None] = []
    for module in root.child('model').children.values():
        sources = module.attributes.get('f')
        sources = sources if isinstance(sources, list | tuple) else [sources]
        inputs = [_input(outputs, module, source) for source in sources]
        outputs.append(translate(translation, module, tuple(inputs)))
    return translation


def _input(outputs: list[str | None], module: Module, source: Any) -> str:
    index = len(outputs) + source if isinstance(source, int) and source < 0 else source
    if not outputs and source == -1:
        return specs.IMAGE
    if type(index) is not int or not 0 <= index < len(outputs) or outputs[index] is None:
        raise ConversionError(f'{module.place} reads layer {show(source)}, which is not one before it')
    return outputs[index]  # type: ignore[return-value]


def _spec(root: Module, translation: Translation, checkpoint: Checkpoint, name: str) -> specs.ArchSpec:
    if translation.detect is None:
        raise ConversionError('there is no detection module (Detect, IDetect) in it')
    anchors, strides = _anchors(translation.detect, checkpoint), _strides(translation.detect, checkpoint)
    channels = {node.channels for node in translation.nodes if isinstance(node, specs.Head)}
    values, rest = divmod(min(channels), len(anchors[0]))
    if not len(anchors) == len(strides) == len(translation.outputs) or len(channels) != 1 or rest or values < 6:
        raise ConversionError(f'{translation.detect.place}: levels of anchors, strides and heads do not fit together')
    return specs.ArchSpec(
        name=name,
        form=_form(translation),
        classes=_class_names(root, values - 5),
        anchors=anchors,
        strides=strides,
        nodes=tuple(translation.nodes),
        outputs=tuple(translation.outputs),
    )


def _form(translation: Translation) -> str:
    if any(isinstance(node, specs.Head) and node.implicit for node in translation.nodes):
        return 'training'
    normalised = any(getattr(node, 'epsilon', None) is not None for node in translation.nodes)
    return 'deploy' if normalised else 'fused'


def _anchors(detect: Module, checkpoint: Checkpoint) -> tuple[tuple[tuple[float, float], ...], ...]:
    """`anchor_grid` [levels, 1, anchors, 1, 1, 2], in pixels (`anchors` is in cells, which half precision rounds)."""
    grid = checkpoint.read(detect.tensor('anchor_grid', 6))
    if grid.shape[-1] != 2 or grid.size != grid.shape[0] * grid.shape[2] * 2 or not np.all(grid > 0):
        raise ConversionError(f'{detect.place}: anchor_grid of shape {grid.shape} does not hold widths and heights')
    return tuple(tuple((w, h) for w, h in level) for level in grid.reshape(grid.shape[0], -1, 2).tolist())


def _strides(detect: Module, checkpoint: Checkpoint) -> tuple[int, ...]:
    ref = tensor(detect.attributes.get('stride'))
    if ref is None or len(ref.shape) != 1:
        raise ConversionError(f"{detect.place}: attribute 'stride' is not a tensor with a number per level")
    strides = checkpoint.read(ref)
    if not np.all(np.isin(strides, np.arange(1, 1025))):
        raise ConversionError(f'{detect.place}: strides are not whole numbers of pixels')
    return tuple(int(stride) for stride in strides)


def _class_names(root: Module, classes: int) -> tuple[str, ...]:
    """The names by class index, as the original looks them up; a class without one is called by its number."""
    names = root.attributes.get('names')
    table = names if isinstance(names, dict) else dict(enumerate(names if isinstance(names, list | tuple) else ()))
    found = [table.get(index) for index in range(classes)]
    return tuple(name if isinstance(name, str) else str(index) for index, name in enumerate(found))


def _configuration(root: Module) -> str | None:
    """Name of the configuration file that the network was built from."""
    file = root.attributes.get('yaml_file')
    return match[1] if isinstance(file, str) and (match := _CONFIGURATION.search(file)) else None


def _tensor(tensors: dict[str, TensorRef], link: _names.Link) -> TensorRef:
    if link.tensor not in tensors:
        raise ConversionError(f'tensor {link.tensor!r} is missing, for {"/".join(link.path)}')
    ref = tensors[link.tensor]
    if len(ref.shape) != _names.RANKS[link.layout]:
        raise ConversionError(
            f'tensor {link.tensor!r} has shape {ref.shape}, expected {_names.RANKS[link.layout]} axes'
        )
    return ref


def _check(spec: specs.ArchSpec, variables: dict[str, Any]) -> None:
    """Compares what was read with what the architecture needs, both ways."""
    try:
        needed = shapes(spec)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConversionError(f'its layers do not fit together: {str(error).splitlines()[0]}') from error
    differences = trees.diff(needed, variables)
    if differences:
        more = f' and {len(differences) - _SHOWN} more' if len(differences) > _SHOWN else ''
        raise ConversionError(f'its tensors do not fit its layers: {"; ".join(differences[:_SHOWN])}{more}')


def _report(tensors: dict[str, TensorRef], translation: Translation) -> tuple[TensorReport, ...]:
    destinations = {link.tensor: '/'.join(link.path) for link in translation.links}
    return tuple(
        TensorReport(name, ref.shape, ref.dtype.name, destinations.get(name) or _unused(name))
        for name, ref in tensors.items()
    )


def _unused(name: str) -> str:
    return _DECODING.get(name.rpartition('.')[2], 'not needed')
