"""From a spec and variables to a `.pt` file that PyTorch reads; nothing here needs PyTorch."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxprune import files
from jaxprune.models import spec as specs
from weights_convert._archive import write_archive
from weights_convert._contents import FLOATS, Contents, new_mapping, new_tensor
from weights_convert._errors import ConversionError
from weights_convert._like import replaced
from weights_convert._storage import open_checkpoint
from weights_convert._weights import Weight, detection_module, weights

_RANKS = {'rbr_identity': -1, 'm2': 1, 'ia': 2, 'im': 3}  # of submodules that do not stand in the order of the links

Entry = tuple[tuple[int, ...], str, Callable[[], np.ndarray]]


def write_state_dict(
    spec: specs.ArchSpec, variables: Mapping[str, Any], path: files.Path, *, dtype: str = 'float32'
) -> None:
    """Writes all tensors of a network by their PyTorch names, for `torch.load(path, weights_only=True)`.

    The buffers of the PyTorch network are among them, so that its `load_state_dict` takes the result as it is. They
    stand in the order in which PyTorch has them.

    Args:
      spec: the architecture.
      variables: its variables.
      path: of the file, which appears whole or not at all.
      dtype: of the floating-point tensors, `float32` or `float16`.

    Raises:
      ConversionError: variables that do not fit the spec, or values that the number format cannot hold.
      UserError: where the file cannot be written.
    """
    contents, entries = Contents(), new_mapping()
    with _naming(path):
        _check_dtype(dtype)
        for name, (shape, kind, values) in _entries(spec, weights(spec, variables), dtype).items():
            entries[name] = new_tensor(contents.add(name, shape, kind, values), shape)
        write_archive(path, entries, contents)


def write_checkpoint(
    spec: specs.ArchSpec,
    variables: Mapping[str, Any],
    path: files.Path,
    *,
    like: files.Path,
    dtype: str = 'float32',
) -> bool:
    """Writes a whole checkpoint: that of the original, with these weights and channel counts.

    The module tree and everything in it is carried over as it was pickled; optimiser state is left out, as the
    original's training script does with a finished run.

    Args:
      spec: the architecture, in the form that the original has; channel counts, classes and activations may be others.
      variables: its variables.
      path: of the file, which appears whole or not at all.
      like: the original checkpoint, zip or legacy format.
      dtype: of the floating-point parameters and buffers, `float32` or `float16`.

    Returns:
      Whether the configuration inside describes the network written, so that the original's training script, which
      builds the network from it, can go on from this file. Where it cannot, the module in the file can still be loaded
      and trained.

    Raises:
      ConversionError: an original that holds no module tree or not this network, variables that do not fit the spec,
        or values that the number format cannot hold.
      UserError: where the file cannot be written.
    """
    with _naming(path):
        _check_dtype(dtype)
        new = weights(spec, variables)
    with contextlib.ExitStack() as stack:
        with _naming(like):
            checkpoint = stack.enter_context(open_checkpoint(pathlib.Path(like)))
            contents = Contents(_naming(like)(checkpoint.read_storage))
            value, described = replaced(checkpoint, spec, new, contents, dtype)
        with _naming(path):
            write_archive(path, value, contents)
    return described


@contextlib.contextmanager
def _naming(path: files.Path) -> Iterator[None]:
    """Puts the file's name in front of what is wrong."""
    try:
        yield
    except (ConversionError, OSError) as error:
        raise ConversionError(f'{path}: {error}') from error


def _check_dtype(dtype: str) -> None:
    if dtype not in FLOATS:
        raise ConversionError(f'number format {dtype!r} is not one of {", ".join(FLOATS)}')


def _entries(spec: specs.ArchSpec, new: Mapping[str, Weight], dtype: str) -> dict[str, Entry]:
    """Shape, number format and values of every parameter and buffer."""
    first_head, entries = f'{detection_module(spec)}.m.0.weight', dict[str, Entry]()
    for name, weight in _in_module_order(new).items():
        entries.update(_anchors(spec, dtype) if name == first_head else {})
        entries[name] = weight.shape, dtype, weight.values
        if name.endswith('.running_var'):
            entries[f'{weight.link.module}.num_batches_tracked'] = (), 'int64', lambda: np.zeros((), np.int64)
    return entries


def _anchors(spec: specs.ArchSpec, dtype: str) -> dict[str, Entry]:
    """In cells `[levels, anchors, 2]`, and in pixels `[levels, 1, anchors, 1, 1, 2]`."""
    detect, pixels = detection_module(spec), np.asarray(spec.anchors, np.float32)
    cells = pixels / np.asarray(spec.strides, np.float32)[:, None, None]
    grid = pixels[:, None, :, None, None, :]
    return {
        f'{detect}.anchors': (cells.shape, dtype, lambda: cells),
        f'{detect}.anchor_grid': (grid.shape, dtype, lambda: grid),
    }


def _in_module_order(new: Mapping[str, Weight]) -> dict[str, Weight]:
    """By the layers, and within each by its submodules, as PyTorch lists them."""
    layers = {layer: place for place, layer in enumerate(dict.fromkeys(_split(name)[0] for name in new))}

    def place(name: str) -> tuple[int, int]:
        layer, child = _split(name)
        return layers[layer], _RANKS.get(child, 0)

    return {name: new[name] for name in sorted(new, key=place)}


def _split(name: str) -> tuple[str, str]:
    """`model.105` and `ia` of `model.105.ia.0.implicit`."""
    first, number, child = name.split('.')[:3]
    return f'{first}.{number}', child
