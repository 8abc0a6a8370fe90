"""For every layer of Equinox, the static fields that state widths, from the shapes of its arrays.

Axes in front of those that a layer makes itself (a stack of layers by `eqx.filter_vmap`) are left out. A layer without
arrays (such as RotaryPositionalEmbedding, or a norm without scale and bias) says nothing of its width and stays.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx

from jaxprune.errors import UserError
from jaxprune.frameworks._kinds import groups_after, shape_of

Rule = Callable[[Any], dict[str, Any]]


def fields(module: eqx.Module) -> dict[str, Any]:
    """Static fields of a layer and their values for its arrays' shapes; empty for modules of other classes."""
    for classes, rule in _rules():
        if isinstance(module, classes):
            return rule(module)
    return {}


def _linear(module: eqx.nn.Linear) -> dict[str, Any]:
    shape = shape_of(module.weight)
    if shape is None:
        return {}
    sizes = {'in_features': shape[-1], 'out_features': shape[-2]}
    return {name: size for name, size in sizes.items() if getattr(module, name) != 'scalar'}


def _conv(module: Any) -> dict[str, Any]:
    shape = shape_of(module.weight)
    if shape is None:
        return {}
    outputs, inputs = shape[-2 - module.num_spatial_dims : -module.num_spatial_dims]
    before = (module.in_channels // module.groups, module.out_channels)
    groups = groups_after(module.groups, before, (inputs, outputs))
    return {'in_channels': inputs * groups, 'out_channels': outputs, 'groups': groups}


def _norm(module: Any) -> dict[str, Any]:
    shape = shape_of(module.weight) or shape_of(module.bias)
    return {} if shape is None else {'shape': shape[-len(module.shape) :]}


def _group_norm(module: eqx.nn.GroupNorm) -> dict[str, Any]:
    shape = shape_of(module.weight)
    if shape is None or module.channels is None:
        return {}
    channels, groups, size = shape[-1], module.groups, module.channels // module.groups
    groups = channels if size == 1 else groups
    if channels % groups:
        raise UserError(
            f'GroupNorm: {channels} channels do not divide into the {groups} groups that it had: '
            f'keep a multiple of {groups}'
        )
    return {'channels': channels, 'groups': groups}


def _batch_norm(module: eqx.nn.BatchNorm) -> dict[str, Any]:
    shape = shape_of(module.weight)
    return {} if shape is None else {'input_size': shape[-1]}


def _attention(module: eqx.nn.MultiheadAttention) -> dict[str, Any]:
    projections = (module.query_proj, module.key_proj, module.value_proj, module.output_proj)
    shapes = [shape_of(projection.weight) for projection in projections]
    if None in shapes:
        return {}
    query, key, value, output = (shape[-2:] for shape in shapes if shape)
    heads = module.num_heads
    if query[0] % heads or value[0] % heads:  # whole heads went
        heads = query[0] // module.qk_size
    return {
        'num_heads': heads,
        'query_size': query[1],
        'key_size': key[1],
        'value_size': value[1],
        'output_size': output[0],
        'qk_size': query[0] // heads,
        'vo_size': value[0] // heads,
    }


def _cell(module: Any) -> dict[str, Any]:
    inputs, hidden = shape_of(module.weight_ih), shape_of(module.weight_hh)
    return {'input_size': inputs[-1], 'hidden_size': hidden[-1]} if inputs and hidden else {}


def _embedding(module: eqx.nn.Embedding) -> dict[str, Any]:
    shape = shape_of(module.weight)
    return {} if shape is None else {'num_embeddings': shape[-2], 'embedding_size': shape[-1]}


def _mlp(module: eqx.nn.MLP) -> dict[str, Any]:
    first, last = (_linear(layer) for layer in (module.layers[0], module.layers[-1]))
    sizes = {'in_size': first.get('in_features'), 'out_size': last.get('out_features')}
    if module.depth:
        sizes['width_size'] = first.get('out_features')
    return {name: size for name, size in sizes.items() if size is not None}


@functools.cache
def _rules() -> tuple[tuple[Any, Rule], ...]:
    layers = eqx.nn
    return (
        (layers.Linear, _linear),
        ((layers.Conv, layers.ConvTranspose), _conv),
        ((layers.LayerNorm, layers.RMSNorm), _norm),
        (layers.GroupNorm, _group_norm),
        (layers.BatchNorm, _batch_norm),
        (layers.MultiheadAttention, _attention),
        ((layers.GRUCell, layers.LSTMCell), _cell),
        (layers.Embedding, _embedding),
        (layers.MLP, _mlp),
    )
