"""From a checkpoint file to a spec and variables."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.models import spec as specs
from jaxprune.models.detector import shapes
from weights_convert import _names
from weights_convert._entries import find
from weights_convert._errors import ConversionError
from weights_convert._modules import network
from weights_convert._plain import Object
from weights_convert._state_dict import network_names, state_dict_spec
from weights_convert._storage import Checkpoint, open_checkpoint
from weights_convert._tensors import TensorRef
from weights_convert._tree import tree_spec, tree_tensors

_DECODING = {'anchor_grid': 'anchors of the spec'}
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
      path: a `.pt` file, zip or legacy format, that holds the whole model or its `state_dict`.
      name: of the architecture; by default that of the configuration file named in the checkpoint, else of the file.
        For a `state_dict`, the name of a known architecture says which one it is; by default the tensors' names do.

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
    entry = find(checkpoint.value)
    if isinstance(entry, Object):
        root = network(entry, file_size=checkpoint.size)
        spec, tensors = tree_spec(root, checkpoint.read, name=stem), tree_tensors(root)
        spec = dataclasses.replace(spec, name=name or spec.name)
    else:
        tensors = network_names(entry)
        spec = state_dict_spec(tensors, checkpoint.read, name=name)
    links = {link.tensor: link for link in _names.links(spec)}
    _check(spec, links, tensors)
    flat = {
        link.path: checkpoint.read(tensors[link.tensor], functools.partial(_names.to_flax, layout=link.layout))
        for link in links.values()
    }
    return Converted(spec, trees.unflatten(flat), _report(tensors, links), checkpoint.unexpected_calls)


def _check(spec: specs.ArchSpec, links: Mapping[str, _names.Link], tensors: Mapping[str, TensorRef]) -> None:
    """Compares the tensors with what the architecture needs, both ways, before any is read."""
    widths = spec.widths()
    for node in spec.nodes:
        if isinstance(node, specs.Add) and len({widths[name] for name in node.inputs}) != 1:
            found = ', '.join(str(widths[name]) for name in node.inputs)
            raise ConversionError(f'{node.pytorch_name} adds layers of different widths ({found})')
    try:
        needed = shapes(spec)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConversionError(f'its layers do not fit together: {str(error).splitlines()[0]}') from error
    for name, link in links.items():
        _names.check_axes(name, tensors[name].shape, link.layout)
        if not jnp.issubdtype(tensors[name].dtype, jnp.floating):
            raise ConversionError(
                f'{name!r} is of type {tensors[name].dtype.name}; quantised models cannot be converted'
            )
    given = {link.path: _Shape(_names.flax_shape(tensors[name].shape, link.layout)) for name, link in links.items()}
    differences = trees.diff(needed, trees.unflatten(given))
    if differences:
        more = f' and {len(differences) - _SHOWN} more' if len(differences) > _SHOWN else ''
        raise ConversionError(f'its tensors do not fit its layers: {"; ".join(differences[:_SHOWN])}{more}')


@dataclasses.dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]


def _report(tensors: Mapping[str, TensorRef], links: Mapping[str, _names.Link]) -> tuple[TensorReport, ...]:
    return tuple(
        TensorReport(
            name,
            ref.shape,
            ref.dtype.name,
            '/'.join(links[name].path) if name in links else _DECODING.get(name.rpartition('.')[2], 'not needed'),
        )
        for name, ref in tensors.items()
    )
