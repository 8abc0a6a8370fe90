"""An ONNX graph from a spec: one small function per operation of the spec.

Everything stays NCHW, so no transpose is needed. Padding is always written out: automatic padding puts the odd
pixel of a stride-2 convolution on the other side than the original does.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxprune.errors import UserError
from jaxprune.export._libraries import require
from jaxprune.models.spec import IMAGE, Add, ArchSpec, Concat, Conv, Head, MaxPool, Node, Reorg, Upsample

INPUT = 'images'
_FAR = 2**31 - 1  # an end that lies behind every axis


@dataclasses.dataclass(frozen=True)
class GraphBuilder:
    """Collects nodes and weights; `values` names the tensor that each node of the spec has become."""

    params: Mapping[str, Any]
    nodes: list[Any] = dataclasses.field(default_factory=list)
    initializers: dict[str, Any] = dataclasses.field(default_factory=dict)
    values: dict[str, str] = dataclasses.field(default_factory=lambda: {IMAGE: INPUT})

    def constant(self, name: str, array: np.ndarray) -> str:
        """Stores `array` as raw bytes under `name`; a name that stands already is used again."""
        if name not in self.initializers:
            tensor = np.ascontiguousarray(array)
            self.initializers[name] = require('onnx.numpy_helper').from_array(tensor, name)
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Appends one node with one output, which it returns."""
        self.nodes.append(require('onnx.helper').make_node(op, inputs, [output], name=output, **attributes))
        return output


def add_nodes(builder: GraphBuilder, spec: ArchSpec) -> None:
    """Appends the whole network; the heads' values are called `head_0`, `head_1`, ... [N, A·(5+C), h, w]."""
    heads = {name: f'head_{level}' for level, name in enumerate(spec.outputs)}
    for node in spec.nodes:
        emit = EMITTERS.get(type(node))
        if emit is None or getattr(node, 'implicit', False) or getattr(node, 'epsilon', None) is not None:
            raise UserError(f'layer {node.pytorch_name!r} is not fused: export the form `fused` of the model')
        inputs = [builder.values[name] for name in node.inputs]
        builder.values[node.name] = emit(builder, node, inputs, heads.get(node.name, node.name))


def _conv(builder: GraphBuilder, node: Conv, inputs: list[str], output: str) -> str:
    linear = output if node.activation == 'identity' else f'{output}_conv'
    _convolve(
        builder, node, inputs, linear,
        kernel_shape=node.kernel, strides=node.stride, pads=(*node.padding, *node.padding),
        dilations=node.dilation, group=node.groups,
    )  # fmt: skip
    return linear if linear == output else _activate(builder, node.activation, linear, output)


def _head(builder: GraphBuilder, node: Head, inputs: list[str], output: str) -> str:
    return _convolve(builder, node, inputs, output, kernel_shape=(1, 1))


def _convolve(builder: GraphBuilder, node: Conv | Head, inputs: list[str], output: str, **attributes: Any) -> str:
    stored = builder.params[node.name]['conv']
    kernel = np.asarray(stored['kernel'], np.float32).transpose(3, 2, 0, 1)  # HWIO -> OIHW
    weights = [
        builder.constant(f'{node.pytorch_name}.weight', kernel),
        builder.constant(f'{node.pytorch_name}.bias', np.asarray(stored['bias'], np.float32)),
    ]
    return builder.add('Conv', [*inputs, *weights], output, **attributes)


def _max_pool(builder: GraphBuilder, node: MaxPool, inputs: list[str], output: str) -> str:
    pads = (*node.padding, *node.padding)
    return builder.add('MaxPool', inputs, output, kernel_shape=node.kernel, strides=node.stride, pads=pads)


def _upsample(builder: GraphBuilder, node: Upsample, inputs: list[str], output: str) -> str:
    scales = np.array([1, 1, node.factor, node.factor], np.float32)
    return builder.add(
        'Resize', [*inputs, '', builder.constant(f'scales_{node.factor}', scales)], output,
        mode='nearest', coordinate_transformation_mode='asymmetric', nearest_mode='floor',
    )  # fmt: skip


def _concat(builder: GraphBuilder, node: Concat, inputs: list[str], output: str) -> str:
    return builder.add('Concat', inputs, output, axis=1)


def _sum(builder: GraphBuilder, node: Add, inputs: list[str], output: str) -> str:
    return builder.add('Add' if len(inputs) == 2 else 'Sum', inputs, output)


def _reorg(builder: GraphBuilder, node: Reorg, inputs: list[str], output: str) -> str:
    """Rows and columns from 0 or 1 on, in steps of 2."""

    def pair(*numbers: int) -> str:
        return builder.constant(f'pair_{numbers[0]}_{numbers[1]}', np.array(numbers, np.int64))

    bounds = [pair(_FAR, _FAR), pair(2, 3), pair(2, 2)]  # ends, axes, steps
    parts = [
        builder.add('Slice', [*inputs, pair(row, column), *bounds], f'{output}_{row}_{column}')
        for column in (0, 1)
        for row in (0, 1)
    ]
    return builder.add('Concat', parts, output, axis=1)


def _activate(builder: GraphBuilder, activation: str, value: str, output: str) -> str:
    name, _, slope = activation.partition(':')
    match name:
        case 'relu':
            return builder.add('Relu', [value], output)
        case 'relu6':
            limits = [builder.constant(f'limit_{limit}', np.array(limit, np.float32)) for limit in (0, 6)]
            return builder.add('Clip', [value, *limits], output)
        case 'leaky_relu':
            return builder.add('LeakyRelu', [value], output, alpha=float(slope or 0.01))
        case 'silu':
            gate = builder.add('Sigmoid', [value], f'{output}_gate')
        case 'hardswish':
            # HardSwish itself came with opset 14; these two nodes are its definition.
            gate = builder.add('HardSigmoid', [value], f'{output}_gate', alpha=1 / 6, beta=0.5)
        case _:
            raise UserError(f'activation {activation!r} has no ONNX counterpart here')
    return builder.add('Mul', [value, gate], output)


EMITTERS: dict[type[Node], Callable[[GraphBuilder, Any, list[str], str], str]] = {
    Conv: _conv,
    Head: _head,
    MaxPool: _max_pool,
    Upsample: _upsample,
    Concat: _concat,
    Add: _sum,
    Reorg: _reorg,
}
