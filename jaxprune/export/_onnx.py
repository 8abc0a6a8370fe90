"""ONNX: the model file that onnxruntime, TensorRT and OpenVINO read, built node by node from a spec."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxprune.errors import UserError
from jaxprune.export._decode import OUTPUT, add_decode, predictions
from jaxprune.export._graph import INPUT, GraphBuilder, add_nodes
from jaxprune.export._libraries import require
from jaxprune.files import write_bytes
from jaxprune.models.detector import check_size
from jaxprune.models.spec import ArchSpec

OPSETS = (13, 17, 18)
Shape = list[int | str]


def export_onnx(
    spec: ArchSpec,
    variables: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int],
    batch: int | None = 1,
    decoded: bool = False,
    opset: int = 17,
) -> pathlib.Path:
    """Writes a detector as an ONNX file that has passed ONNX's own full check.

    The input `images` is [N, 3, H, W] float32, RGB in 0..1. The outputs are the raw heads `head_0`, `head_1`, ...
    [N, anchors·(5+classes), h, w] (before the sigmoid, channels anchor by anchor) or, with `decoded`, the one output
    `output` [N, predictions, 5+classes] with cx cy w h in pixels, objectness and class probabilities.

    Args:
      spec: of a model in the form `fused`.
      variables: its variables (arrays of any kind that NumPy can read).
      path: of the file; it appears whole or not at all.
      image_size: pixels, one number or (rows, columns).
      batch: images per call; None leaves that axis open.
      decoded: decode inside the graph. Leave it out where the file will be quantised: one scale for pixels and
        probabilities ruins both.
      opset: ONNX operator set, one of `OPSETS`.

    Returns:
      The path.

    Raises:
      UserError: the form, the size, the batch or the opset cannot be exported, the file cannot be written, or the
        package `onnx` is missing.
    """
    model = build_onnx(spec, variables, image_size=image_size, batch=batch, decoded=decoded, opset=opset)
    return write_bytes(path, model.SerializeToString())


def build_onnx(
    spec: ArchSpec,
    variables: Mapping[str, Any],
    *,
    image_size: int | tuple[int, int],
    batch: int | None = 1,
    decoded: bool = False,
    opset: int = 17,
) -> Any:
    """The checked `onnx.ModelProto` that `export_onnx` writes; the arguments are the same."""
    size = _check_arguments(spec, image_size, batch, opset)
    builder = GraphBuilder(params=variables['params'])
    add_nodes(builder, spec)
    if decoded:
        add_decode(builder, spec, size)
    model = _model(builder, _shapes(spec, size, batch or 'batch', decoded), opset)
    require('onnx.helper').set_model_props(model, _metadata(spec, size))
    inferred = require('onnx.shape_inference').infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    require('onnx.checker').check_model(inferred, full_check=True)
    return inferred


def _check_arguments(
    spec: ArchSpec, image_size: int | tuple[int, int], batch: int | None, opset: int
) -> tuple[int, int]:
    if spec.form != 'fused':
        raise UserError(f'model {spec.name!r} has the form {spec.form!r}: convert it to the form `fused` to export it')
    if opset not in OPSETS:
        raise UserError(f'opset {opset} is not supported: use one of {", ".join(map(str, OPSETS))}')
    if batch is not None and batch < 1:
        raise UserError(f'a batch of {batch} images cannot be exported: use 1 or more, or leave the axis open')
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_size(spec, *size)
    return size


def _model(builder: GraphBuilder, shapes: Mapping[str, Shape], opset: int) -> Any:
    """The model around the collected nodes; `shapes` are those of its input and of its outputs, by name."""
    helper, float32 = require('onnx.helper'), require('onnx').TensorProto.FLOAT
    values = {name: helper.make_tensor_value_info(name, float32, shape) for name, shape in shapes.items()}
    inputs = [values.pop(INPUT)]
    weights = list(builder.initializers.values())
    graph = helper.make_graph(builder.nodes, 'detector', inputs, list(values.values()), weights)
    opsets = [helper.make_opsetid('', opset)]
    version = helper.find_min_ir_version_for(opsets)  # the oldest file format, which the most programs read
    return helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name='jaxprune')


def _shapes(spec: ArchSpec, size: tuple[int, int], batch: int | str, decoded: bool) -> dict[str, Shape]:
    values = 5 + len(spec.classes)
    image: dict[str, Shape] = {INPUT: [batch, 3, *size]}
    if decoded:
        return image | {OUTPUT: [batch, predictions(spec, size), values]}
    levels = enumerate(zip(spec.anchors, spec.strides, strict=True))
    return image | {
        f'head_{level}': [batch, len(anchors) * values, size[0] // stride, size[1] // stride]
        for level, (anchors, stride) in levels
    }


def _metadata(spec: ArchSpec, size: tuple[int, int]) -> dict[str, str]:
    """What a program needs to use the outputs; every value is JSON."""
    plain = {
        'architecture': spec.name,
        'names': spec.classes,
        'anchors': spec.anchors,
        'strides': spec.strides,
        'image_size': size,
    }
    return {key: json.dumps(value) for key, value in plain.items()}
