"""Exports: the same function in another program's format, and the check that it is the same."""

from jaxprune.export._onnx import OPSETS, build_onnx, export_onnx
from jaxprune.export.parity import OutputError, Parity, check_onnx

__all__ = ['OPSETS', 'OutputError', 'Parity', 'build_onnx', 'check_onnx', 'export_onnx']
