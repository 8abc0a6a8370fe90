"""PyTorch YOLOv7 checkpoints to Flax and back, without PyTorch and without executing anything in them."""

from weights_convert._convert import Converted, TensorReport, convert_checkpoint
from weights_convert._errors import ConversionError
from weights_convert._write import write_checkpoint, write_state_dict

__all__ = ['ConversionError', 'Converted', 'TensorReport', 'convert_checkpoint', 'write_checkpoint', 'write_state_dict']
