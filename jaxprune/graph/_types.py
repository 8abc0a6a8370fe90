"""What a trace finds: layers, edges between them, and groups of channels with every slot where they stand."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from jaxprune.errors import UserError

Path = tuple[str, ...]
Role = Literal['produce', 'along', 'read']


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """A module that owns kernels.

    Attributes:
      index: place in `Graph.layers`.
      name: unique.
      channels: number of channels that it produces.
      prunable: whether channels of it may be removed.
      reason: why not, or None.
    """

    index: int
    name: str
    channels: int
    prunable: bool
    reason: str | None = None


@dataclasses.dataclass(frozen=True, order=True)
class Edge:
    """Layer `consumer` reads `channels` channels of layer `producer`, from place `offset` of its input axis on."""

    producer: int
    consumer: int
    offset: int
    channels: int


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """One axis of one leaf on which the channels of a group stand.

    Attributes:
      path: of the leaf in the variables, the collection (such as `params`) included.
      axis: of the leaf.
      indices: `[channels, k]`, for each channel its k places on the axis.
      role: `produce` (output axis of a kernel), `read` (input axis of a kernel: zero it there, and the channel is
        gone) or `along` (lies beside the channels: statistics, scales, biases, depthwise kernels).
      layer: to which the leaf belongs.
    """

    path: Path
    axis: int
    indices: Int[np.ndarray, 'channels k']
    role: Role
    layer: str


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Channels that can only be removed together: channel i of every layer in it.

    Attributes:
      index: place in `Graph.groups`.
      layers: names of the layers that produce (or, depthwise, pass on) the channels, lowest index first.
      channels: how many there are to choose from.
      slots: every place where they stand; empty only where the layers' channels do not match one to one.
      protected: why none of them may be removed, or None.
    """

    index: int
    layers: tuple[str, ...]
    channels: int
    slots: tuple[Slot, ...]
    protected: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Connectivity of a model: `edges` hold indices into `layers`."""

    layers: tuple[LayerInfo, ...]
    edges: tuple[Edge, ...]
    groups: tuple[Group, ...]

    @functools.cached_property
    def _group_of(self) -> Mapping[str, Group]:
        return {name: group for group in reversed(self.groups) for name in group.layers}

    def group_of(self, layer: str | int) -> Group:
        """The group of a layer, by name or index.

        Raises:
          UserError: if there is no such layer, or its channels are in no group.
        """
        names = [info.name for info in self.layers]
        name = names[layer] if isinstance(layer, int) and 0 <= layer < len(names) else layer
        if name not in names:
            raise UserError(
                f'layer {layer!r} does not exist: give an index from 0 to {len(names) - 1} or a name ({names[:2]})'
            )
        if name not in self._group_of:
            raise UserError(f'layer {name!r} has no channels of its own: {self.layers[names.index(name)].reason}')
        return self._group_of[name]

    def to_json(self) -> dict[str, Any]:
        """Plain data: `layers` (index, name, channels, prunable) and `edges`."""
        keys = ('index', 'name', 'channels', 'prunable')
        return {
            'layers': [{key: getattr(layer, key) for key in keys} for layer in self.layers],
            'edges': [dataclasses.asdict(edge) for edge in self.edges],
        }
