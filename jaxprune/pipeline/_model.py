"""What `new`, `info`, `graph` and `export` do."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune import checkpoint, export, graph, models
from jaxprune.files import Path, write_text


def new(
    architecture: str,
    output: Path,
    *,
    classes: int | Sequence[str] = 80,
    form: str = 'training',
    seed: int = 0,
    width_multiple: float = 1.0,
    activation: str | None = None,
) -> dict[str, Any]:
    """Writes a model with random weights; returns `summary` of it."""
    checkpoint.check_output(output)
    model, variables = models.create(
        architecture, classes=classes, form=form, seed=seed, width_multiple=width_multiple, activation=activation
    )
    checkpoint.save(model, variables, output)
    return summary(model, variables, output)


def summary(model: models.Detector, variables: models.Variables, path: Path) -> dict[str, Any]:
    """What a command says of the model that it wrote."""
    cost = models.count(model, variables, image_size=_square(model.spec))
    return {
        'path': str(path),
        'name': model.spec.name,
        'form': model.spec.form,
        'classes': list(model.spec.classes),
        'layers': len(model.spec.layers),
        'parameters': cost.parameters,
        'parameters_published': cost.parameters_published,
    }


def _square(spec: models.ArchSpec, side: int = 640) -> int:
    return -(-side // spec.max_stride) * spec.max_stride


def info(path: Path, *, image_size: int | tuple[int, int] = 640) -> dict[str, Any]:
    """Parameters and GFLOPs of a model, in all and per layer."""
    model, variables = checkpoint.load(path)
    return dataclasses.asdict(models.count(model, variables, image_size))


def connections(path: Path, *, output: Path | None = None) -> dict[str, Any]:
    """Layers in published order and the edges between them; with `output`, also as a drawing."""
    model, _ = checkpoint.load(path)
    found = models.connectivity(model.spec)
    pytorch_names = {node.name: node.pytorch_name for node in model.spec.layers}
    plain = found.to_json()
    for layer in plain['layers']:
        layer['pytorch_name'] = pytorch_names[layer['name']]
    if output is not None:
        write_text(output, graph.to_svg(found, pytorch_names))
    return plain


def export_model(
    path: Path,
    output: Path,
    *,
    image_size: int | tuple[int, int] = 640,
    batch: int | None = 1,
    decoded: bool = False,
    opset: int = 17,
) -> dict[str, Any]:
    """Writes an ONNX file and compares it with the model on random images.

    Returns:
      `path`, `opset` and, per output, the largest error relative to the output's largest value (`None` for all of them
      where onnxruntime is not installed).
    """
    model, variables = models.to_form(*checkpoint.load(path), 'fused')
    export.export_onnx(model.spec, variables, output, image_size=image_size, batch=batch, decoded=decoded, opset=opset)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = np.random.default_rng(0).random((batch or 1, height, width, 3), np.float32)
    errors = None
    if importlib.util.find_spec('onnxruntime'):
        parity = export.check_onnx(output, model.spec, variables, images)
        errors = {error.name: error.relative for error in parity.outputs}
    return {'path': str(output), 'opset': opset, 'errors': errors}
