"""Which tensor of a PyTorch network stands where in the Flax variables, and how its axes are laid out there.

Reading and writing follow the same links, and the links follow from the spec alone.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxprune.models import spec as specs
from jaxprune.trees import Path
from weights_convert._errors import ConversionError

KERNEL = 'kernel'  # [out, in, rows, columns] <-> [rows, columns, in, out]
VECTOR = 'vector'  # [c] <-> [c]
IMPLICIT = 'implicit'  # [1, c, 1, 1] <-> [c]
RANKS = {KERNEL: 4, VECTOR: 1, IMPLICIT: 4}  # axes in the checkpoint
_BN = (
    ('weight', 'params', 'scale'),
    ('bias', 'params', 'bias'),
    ('running_mean', 'batch_stats', 'mean'),
    ('running_var', 'batch_stats', 'var'),
)


@dataclasses.dataclass(frozen=True)
class Link:
    """One tensor: its name in the PyTorch network, its path in the variables, and how the axes are laid out."""

    tensor: str
    path: Path
    layout: str

    @property
    def module(self) -> str:
        """Name of the PyTorch module that owns the tensor."""
        return self.tensor.rpartition('.')[0]


def links(spec: specs.ArchSpec) -> tuple[Link, ...]:
    """All parameters and running statistics of a network, in the order of its layers."""
    return tuple(link for node in spec.layers for link in _layer(node))


def _layer(node: specs.Layer) -> Iterator[Link]:
    name, module = node.name, node.pytorch_name
    match node:
        case specs.Conv():
            conv = f'{module}.{node.pytorch_conv}' if node.pytorch_conv else module
            yield from _convolution(conv, (name, 'conv'), bias=node.epsilon is None)
            yield from _normalisation(f'{module}.bn', (name, 'bn')) if node.epsilon is not None else ()
        case specs.RepConv():
            for branch, child in (('dense', 'rbr_dense'), ('pointwise', 'rbr_1x1')):
                yield from _convolution(f'{module}.{child}.0', (name, branch, 'conv'), bias=False)
                yield from _normalisation(f'{module}.{child}.1', (name, branch, 'bn'))
            yield from _normalisation(f'{module}.rbr_identity', (name, 'identity')) if node.identity else ()
        case specs.Head():
            yield from _convolution(module, (name, 'conv'), bias=True)
            if node.implicit:
                detect, _, level = module.rpartition('.m.')
                yield Link(f'{detect}.ia.{level}.implicit', ('params', name, 'implicit_add'), IMPLICIT)
                yield Link(f'{detect}.im.{level}.implicit', ('params', name, 'implicit_multiply'), IMPLICIT)


def _convolution(module: str, path: Path, *, bias: bool) -> Iterator[Link]:
    """Kernel and, where it has one, bias of a `nn.Conv2d`."""
    yield Link(f'{module}.weight', ('params', *path, 'kernel'), KERNEL)
    if bias:
        yield Link(f'{module}.bias', ('params', *path, 'bias'), VECTOR)


def _normalisation(module: str, path: Path) -> Iterator[Link]:
    """Scale, bias, mean and variance of a `nn.BatchNorm2d`."""
    for name, collection, leaf in _BN:
        yield Link(f'{module}.{name}', (collection, *path, leaf), VECTOR)


def check_axes(tensor: str, shape: tuple[int, ...], layout: str) -> None:
    """Raises `ConversionError` where a tensor has not the axes of its layout, or an empty one."""
    fits = len(shape) == RANKS[layout] and 0 not in shape
    if not fits or (layout == IMPLICIT and (shape[0], *shape[2:]) != (1, 1, 1)):
        expected = '[1, channels, 1, 1]' if layout == IMPLICIT else f'{RANKS[layout]} axes, none of them empty'
        raise ConversionError(f'tensor {tensor!r:.80} has shape {shape}, expected {expected}')


def flax_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The shape in the variables of a tensor that has this shape in the checkpoint."""
    if layout == KERNEL:
        out, read, rows, columns = shape
        return rows, columns, read, out
    return shape if layout == VECTOR else shape[1:2]


def pytorch_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The shape in the checkpoint of an array that has this shape in the variables."""
    if layout == KERNEL:
        rows, columns, read, out = shape
        return out, read, rows, columns
    return shape if layout == VECTOR else (1, *shape, 1, 1)


def to_flax(array: np.ndarray, layout: str) -> np.ndarray:
    """An array as the checkpoint has it, as the variables have it."""
    if layout != KERNEL:
        return array.reshape(-1)
    out, read, rows, columns = array.shape
    by_input = np.ascontiguousarray(array.reshape(out, -1).T)  # in two steps, each kind to the processor's cache
    by_place = by_input.reshape(read, rows * columns, out).transpose(1, 0, 2)
    return by_place.reshape(rows, columns, read, out)


def to_pytorch(array: np.ndarray, layout: str) -> np.ndarray:
    """An array as the variables have it, as the checkpoint has it; contiguous."""
    if layout == VECTOR:
        return array
    return array.reshape(1, -1, 1, 1) if layout == IMPLICIT else np.ascontiguousarray(array.transpose(3, 2, 0, 1))
