"""PyTorch YOLOv7 checkpoints to Flax, without PyTorch and without executing anything in them."""

from weights_convert._convert import Converted, TensorReport, convert_checkpoint
from weights_convert._errors import ConversionError

__all__ = ['ConversionError', 'Converted', 'TensorReport', 'convert_checkpoint']
