"""Which tensor of a PyTorch checkpoint stands where in the Flax variables, and how its axes are laid out there.

Both directions follow from the same links.
"""

import dataclasses

import numpy as np

from jaxprune.trees import Path

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
    """One tensor: its name in the checkpoint, its path in the variables, and how the axes are laid out."""

    tensor: str
    path: Path
    layout: str


def convolution(module: str, path: Path, *, bias: bool) -> tuple[Link, ...]:
    """Kernel and, where it has one, bias of the `nn.Conv2d` that the checkpoint calls `module`."""
    links = [Link(f'{module}.weight', ('params', *path, 'kernel'), KERNEL)]
    return (*links, Link(f'{module}.bias', ('params', *path, 'bias'), VECTOR)) if bias else tuple(links)


def normalisation(module: str, path: Path) -> tuple[Link, ...]:
    """Scale, bias, mean and variance of a `nn.BatchNorm2d`."""
    return tuple(Link(f'{module}.{name}', (collection, *path, leaf), VECTOR) for name, collection, leaf in _BN)


def implicit(module: str, path: Path) -> tuple[Link, ...]:
    """The vector of an ImplicitA or ImplicitM."""
    return (Link(f'{module}.implicit', ('params', *path), IMPLICIT),)


def to_flax(array: np.ndarray, layout: str) -> np.ndarray:
    """An array as the checkpoint has it, as the variables have it; contiguous."""
    if layout != KERNEL:
        return array.reshape(-1)
    out, read, rows, columns = array.shape
    by_input = np.ascontiguousarray(array.reshape(out, -1).T)  # in two steps, each kind to the processor's cache
    by_place = by_input.reshape(read, rows * columns, out).transpose(1, 0, 2)
    return np.ascontiguousarray(by_place).reshape(rows, columns, read, out)
