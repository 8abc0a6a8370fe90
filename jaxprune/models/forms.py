"""The three forms of a model as pure functions: training → deploy → fused, with equal outputs.

`deploy` drops the auxiliary heads with what only they read, and folds ImplicitA and ImplicitM into the heads'
convolutions; `fused` also folds batch normalisation and the branches of RepConv, so that only convolutions with bias
remain. Folding is done in float64.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxprune.errors import UserError
from jaxprune.models import layers
from jaxprune.models import spec as specs
from jaxprune.models.detector import Detector, Variables


def with_form(spec: specs.ArchSpec, form: str) -> specs.ArchSpec:
    """The spec in another form; forms only go from `training` over `deploy` to `fused`."""
    if specs.FORMS.index(form) < specs.FORMS.index(spec.form):
        raise UserError(f'a model in form {spec.form!r} cannot be turned back into form {form!r}')
    if form == spec.form:
        return spec
    convert = {'deploy': _deploy_node, 'fused': _fused_node}[form]
    nodes = tuple(convert(node) for node in specs.needed(spec.nodes, spec.outputs))
    return dataclasses.replace(spec, form=form, nodes=nodes, auxiliary=())


def with_activation(spec: specs.ArchSpec, activation: str) -> specs.ArchSpec:
    """The spec with another activation in place of every one that is not the identity; it needs training again.

    Raises:
      UserError: for an activation that no layer has.
    """
    layers.activation(activation)
    nodes = tuple(
        dataclasses.replace(node, activation=activation)  # type: ignore[call-arg]
        if getattr(node, 'activation', 'identity') != 'identity'
        else node
        for node in spec.nodes
    )
    return dataclasses.replace(spec, nodes=nodes)


def to_form(model: Detector, variables: Variables, form: str) -> tuple[Detector, Variables]:
    """The same function in another form.

    Args:
      model: in any form.
      variables: its variables.
      form: `training`, `deploy` or `fused`; not one that comes before the model's own.

    Returns:
      A model of that form, and its variables.

    Raises:
      UserError: for a form that comes before the model's own.
    """
    spec = with_form(model.spec, form)
    if form == model.spec.form:
        return model, variables
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    layers_before = {layer.name: layer for layer in model.spec.layers}
    for after in spec.layers:
        before = layers_before[after.name]
        own = variables['params'][before.name]
        running = variables.get('batch_stats', {}).get(before.name, {})
        if before == after:
            params[before.name], stats[before.name] = own, running
        else:
            params[before.name] = _to_float32(_FOLD[type(before)](before, own, running))
    stats = {name: value for name, value in stats.items() if value}
    return Detector(spec), {'params': params, **({'batch_stats': stats} if stats else {})}


def _deploy_node(node: specs.Node) -> specs.Node:
    return dataclasses.replace(node, implicit=False) if isinstance(node, specs.Head) else node


def _fused_node(node: specs.Node) -> specs.Node:
    match node:
        case specs.Conv():
            return dataclasses.replace(node, epsilon=None)
        case specs.RepConv():
            dense = layers.branches(node)[0]
            return dataclasses.replace(
                dense,
                name=node.name,
                pytorch_name=node.pytorch_name,
                epsilon=None,
                activation=node.activation,
                pytorch_conv='rbr_reparam',
            )
    return _deploy_node(node)


def _fold_head(node: specs.Head, own: Any, _: Any) -> dict[str, Any]:
    kernel, bias = _float64(own['conv']['kernel']), _float64(own['conv']['bias'])
    add, multiply = _float64(own['implicit_add']), _float64(own['implicit_multiply'])
    return {'conv': {'kernel': kernel * multiply, 'bias': (bias + add @ kernel[0, 0]) * multiply}}


def _fold_conv(node: specs.Conv, own: Any, running: Any) -> dict[str, Any]:
    scale, bias = _affine(node.epsilon or 0.0, own['bn'], running['bn'])
    return {'conv': {'kernel': _float64(own['conv']['kernel']) * scale, 'bias': bias}}


def _fold_repconv(node: specs.RepConv, own: Any, running: Any) -> dict[str, Any]:
    dense, pointwise = (
        _fold_conv(branch, own[branch.name], running[branch.name])['conv'] for branch in layers.branches(node)
    )
    kernel, bias = dense['kernel'], dense['bias'] + pointwise['bias']
    kernel[1, 1] += pointwise['kernel'][0, 0]
    if node.identity:
        scale, shift = _affine(node.epsilon, own['identity'], running['identity'])
        kernel[1, 1] += np.diag(scale)
        bias = bias + shift
    return {'conv': {'kernel': kernel, 'bias': bias}}


_FOLD: dict[type, Callable[..., dict[str, Any]]] = {
    specs.Head: _fold_head,
    specs.Conv: _fold_conv,
    specs.RepConv: _fold_repconv,
}


def _affine(epsilon: float, own: Any, running: Any) -> tuple[np.ndarray, np.ndarray]:
    """Batch normalisation in inference as `x * scale + bias`."""
    scale = _float64(own['scale']) / np.sqrt(_float64(running['var']) + epsilon)
    return scale, _float64(own['bias']) - _float64(running['mean']) * scale


def _float64(leaf: Any) -> np.ndarray:
    return np.asarray(leaf, np.float64)


def _to_float32(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _to_float32(value) if isinstance(value, dict) else value.astype(np.float32) for key, value in tree.items()
    }
