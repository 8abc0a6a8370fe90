"""Does an exported file compute what the Flax model computes?"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from jaxprune.errors import UserError
from jaxprune.export._decode import OUTPUT
from jaxprune.export._graph import INPUT
from jaxprune.export._libraries import require
from jaxprune.models.detector import Detector, heads, predict
from jaxprune.models.spec import ArchSpec


@dataclasses.dataclass(frozen=True)
class OutputError:
    """One output: its largest absolute error, and the largest absolute value that was expected there."""

    name: str
    error: float
    largest: float

    @property
    def relative(self) -> float:
        """The largest error as a part of the largest value."""
        return self.error / self.largest if self.largest else float(self.error > 0)


@dataclasses.dataclass(frozen=True)
class Parity:
    """The errors of all outputs of one exported file."""

    outputs: tuple[OutputError, ...]

    @property
    def worst(self) -> OutputError:
        """The output with the largest relative error."""
        return max(self.outputs, key=lambda output: output.relative)


def check_onnx(
    path: str | os.PathLike[str],
    spec: ArchSpec,
    variables: dict[str, Any],
    images: Float[Array, 'b h w 3'] | Float[np.ndarray, 'b h w 3'],
) -> Parity:
    """Runs an ONNX file in onnxruntime and the Flax model on the same images and compares all outputs.

    Args:
      path: of a file that `export_onnx` wrote, with raw heads or decoded.
      spec: of the model, in any form.
      variables: the model's variables.
      images: RGB in 0..1, of the size and number that the file accepts.

    Returns:
      The largest errors, output by output.

    Raises:
      UserError: onnxruntime is missing, or the file cannot be read or does not accept the images.
    """
    names, actual = run_onnx(path, np.asarray(images).transpose(0, 3, 1, 2))
    expected = _expected(spec, variables, images, decoded=names == [OUTPUT])
    outputs = zip(names, actual, expected, strict=True)
    return Parity(tuple(_error(name, output, wanted) for name, output, wanted in outputs))


def run_onnx(
    path: str | os.PathLike[str], images: Float[np.ndarray, 'b 3 h w']
) -> tuple[list[str], Sequence[np.ndarray]]:
    """Names and values of all outputs of the file at `path` on a batch of images, computed on the CPU."""
    runtime = require('onnxruntime')
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(os.fspath(path), options, providers=['CPUExecutionProvider'])
        outputs = session.run(None, {INPUT: np.ascontiguousarray(images, np.float32)})
    except Exception as error:  # onnxruntime's own errors share no base class but this one
        raise UserError(f'{os.fspath(path)}: onnxruntime cannot run it: {str(error).splitlines()[0]}') from error
    return [output.name for output in session.get_outputs()], outputs


def _expected(spec: ArchSpec, variables: dict[str, Any], images: Any, *, decoded: bool) -> list[np.ndarray]:
    model = Detector(spec)
    if decoded:
        return [np.asarray(predict(model, variables, images))]
    return [_channels_first(np.asarray(head)) for head in heads(model, variables, images)]


def _channels_first(head: np.ndarray) -> np.ndarray:
    """[B, h, w, anchors, 5+C] -> [B, anchors·(5+C), h, w]."""
    return head.reshape(*head.shape[:3], -1).transpose(0, 3, 1, 2)


def _error(name: str, actual: np.ndarray, expected: np.ndarray) -> OutputError:
    if actual.shape != expected.shape:
        raise UserError(f'output {name!r} has the shape {actual.shape}, the model gives {expected.shape}')
    return OutputError(name, float(np.abs(actual - expected).max()), float(np.abs(expected).max()))
