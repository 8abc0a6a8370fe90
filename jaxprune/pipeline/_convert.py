"""What `convert` does: from and to PyTorch files, from one form or activation to another."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxprune import checkpoint, downloads, models
from jaxprune.errors import UserError
from jaxprune.files import Path
from jaxprune.pipeline._model import summary

_PYTORCH = ('.pt', '.pth')
_OTHERS = ('.onnx', '.safetensors', '.tflite', '.ckpt', '.npz', '.zip')


def convert(
    source: Path,
    output: Path,
    *,
    form: str | None = None,
    activation: str | None = None,
    name: str | None = None,
    like: Path | None = None,
    dtype: str = 'float32',
) -> dict[str, Any]:
    """Converts a model.

    Args:
      source: a PyTorch file, a model directory, or the name of a released checkpoint, which is downloaded.
      output: model directory to write, or a PyTorch file where it ends in `.pt` or `.pth`.
      form: of the result; as the source's where it is None.
      activation: in place of that of every layer.
      name: of the architecture.
      like: the PyTorch checkpoint that the model came from, or the name of a released one. With it, a PyTorch file is a
        whole checkpoint like that one; without it, a state_dict.
      dtype: of a PyTorch file, `float32` or `float16`.

    Returns:
      `summary` of the result; `tensors`: what became of every tensor of a PyTorch source; with `like`, `configured`:
      whether the configuration inside describes the network written.

    Raises:
      UserError: where the source cannot be read, holds a module that is not supported, or cannot take the form; or
        where the result cannot be written.
    """
    to_pytorch = pathlib.Path(output).suffix.lower() in _PYTORCH
    if to_pytorch:
        _check_file(output, [source] if like is None else [source, like])
    else:
        _check_directory(output, like, dtype)
    model, variables, metadata, tensors = _read(source, name)
    try:
        model, variables = models.to_form(model, variables, form or model.spec.form)
    except UserError as error:
        raise UserError(f'{source}: {error}') from error
    spec = model.spec if activation is None else models.with_activation(model.spec, activation)
    spec = spec if name is None else dataclasses.replace(spec, name=name)
    result = {**summary(models.Detector(spec), variables, output), 'tensors': tensors}
    if to_pytorch:
        return result | _write_pytorch(spec, variables, output, like, dtype)
    checkpoint.save(models.Detector(spec), variables, output, metadata=metadata)
    return result


def _check_file(output: Path, sources: Sequence[Path]) -> None:
    """Raises `UserError` where a PyTorch file would replace one that is read, or a directory."""
    path = pathlib.Path(output)
    if path.is_dir():
        raise UserError(f'{output}: is a directory; choose another output')
    if any(path.exists() and pathlib.Path(source).exists() and path.samefile(source) for source in sources):
        raise UserError(f'{output}: would replace the original; choose another output')


def _check_directory(output: Path, like: Path | None, dtype: str) -> None:
    """Raises `UserError` for options that only a PyTorch file has, and where no directory can be written."""
    if pathlib.Path(output).suffix.lower() in _OTHERS:
        raise UserError(
            f'{output}: convert writes model directories and PyTorch files (.pt); for ONNX, see jaxprune export'
        )
    if like is not None or dtype != 'float32':
        option = '--half' if like is None else '--like'
        raise UserError(f'{output}: {option} is for PyTorch files; choose an output that ends in .pt')
    checkpoint.check_output(output)


def _read(
    source: Path, name: str | None
) -> tuple[models.Detector, models.Variables, dict[str, Any], list[dict[str, Any]]]:
    """Model, variables, metadata, and what became of every tensor of a PyTorch file."""
    import weights_convert

    if checkpoint.is_model(source):
        return *checkpoint.load(source), checkpoint.load_metadata(source), []
    path = _local(source)
    converted = weights_convert.convert_checkpoint(path, name=name)
    tensors = [dataclasses.asdict(tensor) for tensor in converted.report]
    return models.Detector(converted.spec), converted.variables, {'converted_from': path.name}, tensors


def _local(source: Path) -> pathlib.Path:
    """The file itself, or that of the released checkpoint that has this name."""
    if pathlib.Path(source).exists():
        return pathlib.Path(source)
    names = downloads.releases()
    if str(source) not in names:
        raise UserError(f'{source}: no such file or model directory, nor a released checkpoint ({", ".join(names)})')
    return downloads.fetch(str(source))


def _write_pytorch(
    spec: models.ArchSpec, variables: models.Variables, output: Path, like: Path | None, dtype: str
) -> dict[str, Any]:
    import weights_convert

    if like is None:
        weights_convert.write_state_dict(spec, variables, output, dtype=dtype)
        return {}
    like = _local(like)
    return {'configured': weights_convert.write_checkpoint(spec, variables, output, like=like, dtype=dtype)}
