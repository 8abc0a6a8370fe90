"""For every layer of Flax NNX, the attributes that state widths, from the shapes of its variables.

Axes in front of those that a layer makes itself (a stack of layers by `nnx.vmap`) are left out.
"""

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx
from flax.core import FrozenDict

from jaxprune.errors import UserError
from jaxprune.frameworks._kinds import groups_after, shape_of

Rule = Callable[[Any], dict[str, Any]]
Shape = tuple[int, ...]


def attributes(module: nnx.Module) -> dict[str, Any]:
    """Attributes of a layer and their values for its variables' shapes; empty for modules of other classes."""
    for classes, rule in _rules():
        if isinstance(module, classes):
            return rule(module)
    return {}


def _shape(variable: Any) -> Shape:
    """The shape of what a variable holds; of a missing one, that of nothing."""
    return shape_of(variable.get_raw_value() if isinstance(variable, nnx.Variable) else variable) or ()


def _linear(module: nnx.Linear) -> dict[str, Any]:
    *_, inputs, outputs = _shape(module.kernel)
    return {'in_features': inputs, 'out_features': outputs}


def _linear_general(module: nnx.LinearGeneral) -> dict[str, Any]:
    batch, inputs, outputs = len(module.batch_axis), len(module.in_features), len(module.out_features)
    shape = _shape(module.kernel)[-batch - inputs - outputs :]
    sizes: Any = FrozenDict(zip(module.batch_axis, shape[:batch], strict=True))
    return {'batch_axis': sizes, 'in_features': shape[batch : batch + inputs], 'out_features': shape[batch + inputs :]}


def _einsum(module: nnx.Einsum) -> dict[str, Any]:
    found = {'kernel_shape': _shape(module.kernel)[-len(module.kernel_shape) :]}
    if module.bias is not None and module.bias_shape:
        found['bias_shape'] = _shape(module.bias)[-len(module.bias_shape) :]
    return found


def _conv(module: nnx.Conv) -> dict[str, Any]:
    shape = _shape(module.kernel)[-len(module.kernel_shape) :]
    groups = groups_after(module.feature_group_count, module.kernel_shape, shape)
    return {
        'kernel_shape': shape,
        'in_features': shape[-2] * groups,
        'out_features': shape[-1],
        'feature_group_count': groups,
    }


def _conv_transpose(module: nnx.ConvTranspose) -> dict[str, Any]:
    shape = _shape(module.kernel)[-len(module.kernel_shape) :]
    inputs, outputs = reversed(shape[-2:]) if module.transpose_kernel else shape[-2:]
    return {'kernel_shape': shape, 'in_features': inputs, 'out_features': outputs}


def _embed(module: nnx.Embed) -> dict[str, Any]:
    *_, entries, features = _shape(module.embedding)
    return {'num_embeddings': entries, 'features': features}


def _channels(module: Any) -> int | None:
    holders = (getattr(module, name, None) for name in ('scale', 'bias', 'mean'))
    return next((_shape(holder)[-1] for holder in holders if holder is not None), None)


def _norm(module: Any) -> dict[str, Any]:
    channels = _channels(module)
    return {} if channels is None else {'num_features': channels}


def _group_norm(module: nnx.GroupNorm) -> dict[str, Any]:
    channels = _channels(module)
    if channels is None:
        return {}
    groups, size = module.num_groups, module.group_size
    groups = channels if size == 1 else groups
    if channels % groups:
        raise UserError(
            f'GroupNorm: {channels} channels do not divide into the {groups} groups that it had: '
            f'keep a multiple of {groups}'
        )
    return {'num_groups': groups, 'group_size': channels // groups}


def _attention(module: nnx.MultiHeadAttention) -> dict[str, Any]:
    inputs, heads, size = _shape(module.query.kernel)[-3:]
    kv_inputs, kv_heads, _ = _shape(module.key.kernel)[-3:]
    return {
        'num_heads': heads,
        'head_dim': size,
        'qkv_features': heads * size,
        'in_features': inputs,
        'in_kv_features': kv_inputs,
        'num_kv_heads': kv_heads,
        'out_features': _shape(module.out.kernel)[-1],
    }


def _cell(inputs: str, hidden: str, module: Any) -> dict[str, Any]:
    sizes = (_shape(getattr(module, name).kernel)[-2] for name in (inputs, hidden))
    return dict(zip(('in_features', 'hidden_features'), sizes, strict=True))


def _lora(module: nnx.LoRA) -> dict[str, Any]:
    return {'in_features': _shape(module.lora_a)[-2], 'out_features': _shape(module.lora_b)[-1]}


@functools.cache
def _rules() -> tuple[tuple[Any, Rule], ...]:
    return (
        (nnx.Linear, _linear),
        (nnx.LinearGeneral, _linear_general),
        (nnx.Einsum, _einsum),
        (nnx.Conv, _conv),
        (nnx.ConvTranspose, _conv_transpose),
        (nnx.Embed, _embed),
        ((nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.InstanceNorm), _norm),
        (nnx.GroupNorm, _group_norm),
        (nnx.MultiHeadAttention, _attention),
        (nnx.LSTMCell, functools.partial(_cell, 'ii', 'hi')),
        ((nnx.OptimizedLSTMCell, nnx.SimpleCell, nnx.GRUCell), functools.partial(_cell, 'dense_i', 'dense_h')),
        (nnx.LoRA, _lora),
    )
