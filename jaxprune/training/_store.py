"""Training states on disk: one per epoch, whole or not at all, the last one kept."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jaxprune.errors import UserError
from jaxprune.training._step import TrainState

History = list[dict[str, float]]


class Store:
    """A directory of training states; orbax writes to a temporary name and renames."""

    def __init__(self, directory: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        """Opens or makes the directory.

        Args:
          directory: of this training alone.
          settings: plain data that must be the same for a training to be continued, such as recipe and data.
        """
        import orbax.checkpoint as ocp

        self._directory, self._settings, self._args = pathlib.Path(directory).resolve(), dict(settings), ocp.args
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, epoch: int, state: TrainState, history: History) -> None:
        """Stores the state after `epoch` epochs, then deletes the one before."""
        about = {'settings': self._settings, 'history': history}
        args = self._args
        self._manager.save(epoch, args=args.Composite(state=args.StandardSave(state), about=args.JsonSave(about)))

    def restore(self, state: TrainState) -> tuple[int, TrainState, History]:
        """Finished epochs, state and history; zero, `state` and nothing where none is stored.

        Raises:
          UserError: if what is stored was made with other settings.
        """
        epoch = self._manager.latest_step()
        if epoch is None:
            return 0, state, []
        args = self._args
        about = self._manager.restore(epoch, args=args.Composite(about=args.JsonRestore()))['about']
        self._check(about['settings'])
        abstract = jax.tree.map(_abstract, state)
        stored = self._manager.restore(epoch, args=args.Composite(state=args.StandardRestore(abstract)))['state']
        return epoch, stored, about['history']

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()

    def _check(self, stored: Mapping[str, Any]) -> None:
        different = [key for key in {**stored, **self._settings} if stored.get(key) != self._settings.get(key)]
        if different:
            key = different[0]
            raise UserError(
                f'{self._directory}: begun with {key} {stored.get(key)!r}, not {self._settings.get(key)!r}; '
                'continue with the same settings, or train into another directory'
            )


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
