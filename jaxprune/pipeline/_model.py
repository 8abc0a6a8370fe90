"""What `new`, `convert`, `info`, `graph` and `export` do."""

import dataclasses
import importlib.util
import pathlib
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
) -> dict[str, Any]:
    """Writes a model with random weights; returns `summary` of it."""
    model, variables = models.create(architecture, classes=classes, form=form, seed=seed, width_multiple=width_multiple)
    checkpoint.save(model, variables, output)
    return summary(model, variables, output)


def convert(source: Path, output: Path, *, form: str | None = None, name: str | None = None) -> dict[str, Any]:
    """Converts a PyTorch checkpoint, or a model directory to another form; returns `summary` of the result.

    Raises:
      UserError: where the source cannot be read, holds a module that is not supported, or cannot take the form.
    """
    path = pathlib.Path(source)
    if checkpoint.is_model(path):
        model, variables = checkpoint.load(path)
        metadata = checkpoint.load_metadata(path)
    else:
        model, variables = _read_pytorch(path, name)
        metadata = {'converted_from': path.name}
    model, variables = models.to_form(model, variables, form or model.spec.form)
    if name is not None:
        model = models.Detector(dataclasses.replace(model.spec, name=name))
    checkpoint.save(model, variables, output, metadata=metadata)
    return summary(model, variables, output)


def _read_pytorch(path: pathlib.Path, name: str | None) -> tuple[models.Detector, models.Variables]:
    import weights_convert

    converted = weights_convert.convert_checkpoint(path, **({'name': name} if name else {}))
    return models.Detector(converted.spec), converted.variables


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
