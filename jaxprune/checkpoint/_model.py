"""Model directories: `spec.json` (spec and metadata) and `variables/` (orbax)."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxprune import files, trees
from jaxprune.errors import UserError
from jaxprune.models import ArchSpec, Detector, Variables, shapes

_SPEC = 'spec.json'
_VARIABLES = 'variables'
_FILE_SIZE = 64 << 20  # bytes


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether a directory holds a model that `save` wrote."""
    return (pathlib.Path(path) / _SPEC).is_file()


def save(
    model: Detector, variables: Variables, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes a model directory; one that is there already is replaced, anything else is not.

    Args:
      model: what to write; its spec goes into `spec.json`.
      variables: written by orbax, bit for bit.
      path: the directory.
      metadata: JSON data to keep beside the spec, such as the plan or the checkpoint that the model came from.

    Raises:
      UserError: where something else stands at `path`, the variables do not fit the spec, or the disk is full.
    """
    final = pathlib.Path(path)
    check_output(final)
    lines = trees.diff(shapes(model.spec), variables)
    if lines:
        raise UserError(f'{final}: the variables do not fit the spec: {"; ".join(lines[:5])}')
    with files.atomic_directory(final) as work:
        files.check_space(final.parent, sum(leaf.nbytes for leaf in jax.tree.leaves(variables)))
        _write(variables, work / _VARIABLES)
        plain = {'spec': model.spec.to_json(), 'metadata': dict(metadata or {})}
        files.write_json(work / _SPEC, {**plain, 'digest': files.digest(work / _VARIABLES)})


def check_output(path: str | os.PathLike[str]) -> None:
    """Raises `UserError` where something that is not a model stands at `path`: `save` would refuse to replace it."""
    final = pathlib.Path(path)
    file = next((parent for parent in final.parents if parent.exists() and not parent.is_dir()), None)
    if file is not None:
        raise UserError(f'{final}: {file} is a file, not a directory; choose another output directory')
    if final.exists() and not is_model(final) and (not final.is_dir() or any(final.iterdir())):
        raise UserError(f'{final}: exists and is not a model directory; choose another output directory')


def _write(variables: Variables, directory: pathlib.Path) -> None:
    """Writes arrays as they lie in memory: orbax would copy them all first, and keep what it packs up to 2 GiB."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    registry = type_handlers.create_type_handler_registry(
        (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False)),  # nothing changes them meanwhile
        (jax.Array, type_handlers.ArrayHandler()),  # orbax warns where it is missing
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    tree = jax.tree.map(np.asarray, dict(variables))
    arguments = ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=_FILE_SIZE)
    with files.disk_errors(directory), ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(directory.absolute(), args=arguments)


def load(path: str | os.PathLike[str]) -> tuple[Detector, Variables]:
    """Reads a model directory.

    Args:
      path: what `save` or a command wrote.

    Returns:
      The Flax module and its variables.

    Raises:
      UserError: for a directory that is missing, incomplete or corrupt.
    """
    import orbax.checkpoint as ocp

    directory = pathlib.Path(path)
    plain = _read(directory)
    spec, expected = _build(directory / _SPEC, plain['spec'])
    if plain['digest'] not in (None, files.digest(directory / _VARIABLES)):
        raise UserError(f'{directory / _VARIABLES}: was cut off or changed after it was written; write the model again')
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), expected)
            restore = ocp.args.PyTreeRestore(item=expected, restore_args=as_numpy)
            variables = checkpointer.restore((directory / _VARIABLES).absolute(), args=restore)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition('\n')[0][:200]
        raise UserError(f'{directory / _VARIABLES}: cannot be read ({reason}); write the model again') from error
    lines = trees.diff(expected, variables)
    if lines:
        raise UserError(f'{directory}: variables do not fit the spec: {"; ".join(lines[:5])}')
    return Detector(spec), jax.tree.map(jax.numpy.asarray, variables)


def _build(file: pathlib.Path, plain: Any) -> tuple[ArchSpec, Variables]:
    """The spec, and the shapes of its variables."""
    try:
        spec = ArchSpec.from_json(plain)
        return spec, shapes(spec)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = str(error).partition('\n')[0][:200]
        raise UserError(f'{file}: describes no model that can be built ({reason}); write the model again') from error


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save` was given as `metadata`."""
    return _read(pathlib.Path(path))['metadata']


def _read(directory: pathlib.Path) -> dict[str, Any]:
    file = directory / _SPEC
    if not file.is_file():
        raise UserError(
            f'{directory}: not a model directory ({_SPEC} is missing); make one with "jaxprune convert" or "new"'
        )
    try:
        content = json.loads(file.read_text())
        return {
            'spec': dict(content['spec']),
            'metadata': dict(content['metadata']),
            'digest': content.get('digest'),  # directories of earlier versions have none
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{file}: not a readable spec ({error}); write the model again') from error
