"""Whether a checkpoint is that of a model, which may have other numbers of channels."""

import dataclasses
from typing import Any

import numpy as np

from jaxprune.models import spec as specs
from weights_convert import _names
from weights_convert._differences import two_sided
from weights_convert._errors import ConversionError
from weights_convert._modules import Module
from weights_convert._tree import tree_tensors
from weights_convert._weights import detection_module

_COUNTERS = ('num_batches_tracked', 'anchors', 'anchor_grid')


def check_same(original: specs.ArchSpec, spec: specs.ArchSpec, root: Module) -> None:
    """Raises `ConversionError` where more differs than numbers of channels, classes and activations.

    Args:
      original: what the checkpoint holds.
      spec: what is to be written.
      root: the checkpoint's network.
    """
    _check_tensors(original, spec)
    for node, other in zip(spec.nodes, original.nodes, strict=False):
        if _fixed(node) != _fixed(other):
            raise ConversionError(
                f'{other.pytorch_name} is another layer than the model has: {_difference(other, node)}'
            )
        _check_groups(node, other)
    if (spec.outputs, spec.auxiliary, len(spec.nodes)) != (original.outputs, original.auxiliary, len(original.nodes)):
        raise ConversionError('it is not the checkpoint of this model: other layers or heads')
    if spec.strides != original.strides or not _close(spec.anchors, original.anchors):
        raise ConversionError('its anchors or strides are not those of the model')
    if spec.widths() != original.widths():
        _check_rest(spec, root)


def _check_tensors(original: specs.ArchSpec, spec: specs.ArchSpec) -> None:
    needed, found = ({link.tensor: None for link in _names.links(each)} for each in (spec, original))
    missing, unexpected = [name for name in needed if name not in found], [name for name in found if name not in needed]
    if original.form != spec.form:
        raise ConversionError(
            f'it is in the form {original.form}, the model in the form {spec.form}; write the model in the form of the '
            f'checkpoint that it is written like ({two_sided(missing, unexpected)})'
        )
    if missing or unexpected:
        raise ConversionError(f'it is not the checkpoint of this model: {two_sided(missing, unexpected)}')


def _close(one: Any, other: Any) -> bool:
    """Up to the rounding of half precision."""
    return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=1e-3)


def _fixed(node: specs.Node) -> dict[str, Any]:
    """All of a node that a checkpoint's modules fix: not its name here, nor its channels and activation."""
    return {'op': node.op, **dataclasses.asdict(node), 'channels': None, 'groups': None, 'activation': None}


def _difference(other: specs.Node, node: specs.Node) -> str:
    theirs, ours = _fixed(other), _fixed(node)
    key = next(key for key in (*theirs, *ours) if theirs.get(key) != ours.get(key))
    return f'its {key} is {theirs.get(key)!s:.60}, not {ours.get(key)!s:.60}'


def _check_groups(node: specs.Node, other: specs.Node) -> None:
    """Only a depthwise convolution has as many groups as it has channels, however many those are."""
    groups, others = getattr(node, 'groups', 1), getattr(other, 'groups', 1)
    if groups != others and (groups, others) != (getattr(node, 'channels', 1), getattr(other, 'channels', 1)):
        raise ConversionError(f'{other.pytorch_name} has {others} groups, in the model {groups}')


def _check_rest(spec: specs.ArchSpec, root: Module) -> None:
    """Layers that the model no longer has, such as those of folded auxiliary heads, cannot follow its channels."""
    needed = {link.tensor for link in _names.links(spec)}
    detect = detection_module(spec)
    for name in tree_tensors(root):
        if name not in needed and name.rpartition('.')[2] not in _COUNTERS and not name.startswith(f'{detect}.'):
            raise ConversionError(
                f'it still has layers of auxiliary heads ({name}), which the model lacks and which cannot follow its '
                'pruning; prune the training form'
            )
