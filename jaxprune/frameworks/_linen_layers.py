"""For every layer of Flax Linen, the fields that state widths, from the shapes of its parameters.

Most layers take their shapes from their parameters; fields matter where a layer uses them beside its parameters.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxprune.errors import UserError

Shape = tuple[int, ...]
Find = Callable[..., Shape | None]
"""Names below the module -> shape of that parameter, None where it is unknown.

The keyword `like` is the shape by the fields as they are, None for sizes that they do not state: it tells apart the
axes that a transform such as `nn.scan` adds to what is stored. Where it cannot, the shape is unknown.
"""
Rule = Callable[[Any, Find, Shape | None], dict[str, Any]]


def fields(module: nn.Module, find: Find, inputs: Shape | None) -> dict[str, Any]:
    """Fields of a layer and their values for its parameters' shapes; empty for modules of other classes.

    Args:
      module: bound.
      find: the shapes of its parameters.
      inputs: shape of the first array that it is called with, None before a call.
    """
    for classes, rule in _rules():
        if isinstance(module, classes):
            return rule(module, find, inputs)
    return {}


def _last(inputs: Shape | None) -> int | None:
    return inputs[-1] if inputs else None


def _kernel_size(module: Any) -> Shape:
    return (module.kernel_size,) if isinstance(module.kernel_size, int) else tuple(module.kernel_size)


def _dense(module: nn.Dense, find: Find, inputs: Shape | None) -> dict[str, Any]:
    kernel = find('kernel', like=(_last(inputs), module.features))
    return {} if kernel is None else {'features': kernel[-1]}


def _dense_general(module: nn.DenseGeneral, find: Find, inputs: Shape | None) -> dict[str, Any]:
    kernel = find('kernel')
    if kernel is None:
        return {}
    if isinstance(module.features, int):
        return {'features': kernel[-1]}
    return {'features': kernel[-len(module.features) :]}


def _einsum(module: nn.Einsum, find: Find, inputs: Shape | None) -> dict[str, Any]:
    kernel = find('kernel', like=tuple(module.shape))
    return {} if kernel is None else {'shape': kernel}


def _conv(module: Any, find: Find, inputs: Shape | None) -> dict[str, Any]:
    groups, sizes = module.feature_group_count, (_last(inputs), module.features)
    if groups > 1:
        sizes = (1, _last(inputs)) if groups == module.features else (None, module.features)
    kernel = find('kernel', like=None if isinstance(module, nn.ConvLocal) else (*_kernel_size(module), *sizes))
    if kernel is None:
        return {}
    if groups > 1 and inputs is not None:
        groups = max(inputs[-1] // kernel[-2], 1)
    elif groups == module.features:
        groups = kernel[-1]
    return {'features': kernel[-1], 'feature_group_count': groups}


def _conv_transpose(module: nn.ConvTranspose, find: Find, inputs: Shape | None) -> dict[str, Any]:
    sizes = (_last(inputs), module.features)
    kernel = find('kernel', like=(*_kernel_size(module), *(reversed(sizes) if module.transpose_kernel else sizes)))
    return {} if kernel is None else {'features': kernel[-2 if module.transpose_kernel else -1]}


def _embed(module: nn.Embed, find: Find, inputs: Shape | None) -> dict[str, Any]:
    table = find('embedding', like=(module.num_embeddings, module.features))
    return {} if table is None else {'num_embeddings': table[-2], 'features': table[-1]}


def _group_norm(module: nn.GroupNorm, find: Find, inputs: Shape | None) -> dict[str, Any]:
    shape = inputs or find('scale', like=(None,)) or find('bias', like=(None,))
    if shape is None or module.num_groups is None:
        return {}
    channels = shape[-1]
    if channels < module.num_groups:  # each channel is a group of its own
        return {'num_groups': channels}
    if channels % module.num_groups:
        raise UserError(
            f'{module.name or type(module).__name__}: {channels} channels do not divide into the {module.num_groups} '
            f'groups of the source: keep a multiple of {module.num_groups}, or state group_size instead'
        )
    return {}


def _attention(module: Any, find: Find, inputs: Shape | None) -> dict[str, Any]:
    query, out = find('query', 'kernel'), find('out', 'kernel')
    if query is None or out is None:
        return {}
    return {'num_heads': query[-2], 'qkv_features': query[-2] * query[-1], 'out_features': out[-1]}


def _cell(kernel: str, gates: int, module: Any, find: Find, inputs: Shape | None) -> dict[str, Any]:
    hidden = find(kernel, 'kernel')
    return {} if hidden is None else {'features': hidden[-1] // gates}


@functools.cache
def _rules() -> tuple[tuple[Any, Rule], ...]:
    return (
        (nn.Dense, _dense),
        (nn.DenseGeneral, _dense_general),
        (nn.Einsum, _einsum),
        ((nn.Conv, nn.ConvLocal), _conv),
        (nn.ConvTranspose, _conv_transpose),
        (nn.Embed, _embed),
        (nn.GroupNorm, _group_norm),
        (nn.MultiHeadDotProductAttention, _attention),
        ((nn.LSTMCell, nn.OptimizedLSTMCell), functools.partial(_cell, 'hi', 1)),
        ((nn.GRUCell, nn.MGUCell), functools.partial(_cell, 'hn', 1)),
        (nn.SimpleCell, functools.partial(_cell, 'h', 1)),
        (nn.ConvLSTMCell, functools.partial(_cell, 'hh', 4)),
    )
