"""What criteria may look at: the variables, the gradient of the loss to the channels, the channels' own values."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float64

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group, Slot


@dataclasses.dataclass(frozen=True, eq=False)
class Activations:
    """Statistics of the channels of one group as its first reader meets them.

    Attributes:
      count: values per channel that were looked at.
      mean: mean of their absolute values.
      zeros: the share of them that are zero, from 0 to 1.
      rank: mean rank of the two-dimensional maps, or None where there are none or they were not asked for.
    """

    count: int
    mean: Float64[np.ndarray, 'channels']
    zeros: Float64[np.ndarray, 'channels']
    rank: Float64[np.ndarray, 'channels'] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """All that a criterion may look at.

    `gather_gates` and `gather_activations` make it; to hold both kinds, take one of them and
    `dataclasses.replace(it, activations=other.activations)`.

    Attributes:
      graph: connectivity of the model.
      variables: of the model.
      seed: of random numbers.
      gates: name of a group -> derivative of each example's loss to a gate, a factor (of value 1) of what the readers
        read of the channel.
      activations: name of a group -> statistics of its channels.
      leaves: of the variables, by path; None: they are flattened when they are first needed.
    """

    graph: Graph
    variables: Any
    seed: int = 0
    gates: Mapping[str, Float[np.ndarray, 'examples channels']] | None = None
    activations: Mapping[str, Activations] | None = None
    leaves: Mapping[trees.Path, Any] | None = dataclasses.field(default=None, repr=False)

    @functools.cached_property
    def _leaves(self) -> Mapping[trees.Path, Any]:
        return trees.flatten(self.variables) if self.leaves is None else self.leaves

    def leaf(self, path: trees.Path) -> Any:
        """The leaf of the variables at a path; a `UserError` where there is none."""
        if path not in self._leaves:
            raise UserError(
                f'variables do not belong to this model: {"/".join(path)} is missing; give those that the graph '
                'was traced with, or others of the same structure'
            )
        return self._leaves[path]

    def rows(self, slot: Slot) -> Float64[np.ndarray, 'channels values']:
        """What the slot's leaf holds of each channel; a channel with k places on the axis owns all of theirs.

        Of complex numbers, real and imaginary parts.
        """
        rows = np.moveaxis(_numbers(self.leaf(slot.path), slot), slot.axis, 0)
        return rows[slot.indices].reshape(len(slot.indices), -1)

    def kernels(self, group: Group) -> Iterator[Float64[np.ndarray, 'channels values']]:
        """For every kernel that produces the group's channels, its filters, in any layout of the kernel.

        Raises:
          UserError: if there is none.
        """
        slots = [slot for slot in group.slots if slot.role == 'produce' and len(self.leaf(slot.path).shape) > 1]
        if not slots:
            raise UserError(f'layer {group.layers[0]} has no kernel to rank by: use the criterion random')
        return (self.rows(slot) for slot in slots)

    def gates_of(self, group: Group) -> Float64[np.ndarray, 'examples channels']:
        """The gates' derivatives of a group.

        Raises:
          UserError: if they were not gathered, or for another model.
        """
        found = _of_group(
            self.gates,
            group,
            'the gradient of the loss: gather it with gather_gates(graph, loss, variables, batches)',
        )
        _check_channels(np.shape(found)[1], group)
        return np.asarray(found, np.float64)

    def activations_of(self, group: Group) -> Activations:
        """The statistics of a group's channels.

        Raises:
          UserError: if they were not gathered, or for another model.
        """
        found = _of_group(
            self.activations,
            group,
            'activations: gather them with gather_activations(graph, apply, variables, batches)',
        )
        _check_channels(len(found.mean), group)
        return found


def _numbers(leaf: Any, slot: Slot) -> Float64[np.ndarray, '...']:
    path = '/'.join(slot.path)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise UserError(f'variables hold no numbers to rank by: {path} is a shape; give arrays, or use random')
    array = np.asarray(leaf)
    if not slot.fits(array.shape):
        raise UserError(f'variables do not belong to this model: {path} has the shape {array.shape}')
    if np.iscomplexobj(array):
        array = np.stack([array.real, array.imag], axis=-1)
    return array.astype(np.float64)


def _of_group(gathered: Mapping[str, Any] | None, group: Group, what: str) -> Any:
    if gathered is None:
        raise UserError(f'this criterion needs {what}, and give the result as evidence')
    if group.name not in gathered:
        raise UserError(f'the evidence holds nothing of group {group.name!r}: this criterion needs {what}')
    return gathered[group.name]


def _check_channels(channels: int, group: Group) -> None:
    if channels != group.channels:
        raise UserError(
            f'the evidence is of another model: group {group.name!r} had {channels} channels there and has '
            f'{group.channels} here; gather it again'
        )
