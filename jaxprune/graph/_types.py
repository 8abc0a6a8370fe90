"""What a trace finds: layers, edges between them, and groups of channels with every slot where they stand."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Int

from jaxprune.errors import UserError
from jaxprune.graph._cost import Cost

if TYPE_CHECKING:
    from jaxprune.graph._proof import Walk

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
      role: `produce` (output axis of a kernel), `read` (input axis of a kernel) or `along` (lies beside the channels:
        statistics, scales, biases, depthwise kernels).
      layer: to which the leaf belongs.
      masked: whether a mask sets these places to zero. Where every masked slot of a group is zero at a channel, the
        channel is gone: those that read it, and, where a reader has no parameters, those that make it zero.
      size: of the axis, which may hold more than these channels; None where it is not known.
    """

    path: Path
    axis: int
    indices: Int[np.ndarray, 'channels k']
    role: Role
    layer: str
    masked: bool
    size: int | None = None

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape can be the leaf."""
        size = shape[self.axis] if self.axis < len(shape) else 0
        return size > int(self.indices.max()) if self.size is None else size == self.size


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Channels that can only be removed together: channel i of every layer in it.

    Attributes:
      index: place in `Graph.groups`.
      name: unique; that of its lowest layer, followed by `#1`, `#2`, ... where that layer produces several groups.
      layers: names of the layers that produce (or, depthwise, pass on) the channels, lowest index first.
      channels: how many there are to choose from.
      slots: every place where they stand.
      protected: why none of them may be removed, or None.
      approximate: why removing them changes the channels that stay, where that was allowed to the trace; or None.
    """

    index: int
    name: str
    layers: tuple[str, ...]
    channels: int
    slots: tuple[Slot, ...]
    protected: str | None = None
    approximate: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Connectivity of a model.

    Attributes:
      layers: in index order.
      edges: hold indices into `layers`.
      groups: in the order of their lowest layers.
      costs: `parameters` (elements of all leaves, or of the collection `params` where there is one), `macs`
        (multiply-accumulates of convolutions and matrix products for the inputs of the trace) and `activations`
        (elements that those write), by what each group keeps.
      walk: what it was derived from, for `differences`; None where the trace was not to prove anything.
    """

    layers: tuple[LayerInfo, ...]
    edges: tuple[Edge, ...]
    groups: tuple[Group, ...]
    costs: Mapping[str, Cost] = dataclasses.field(default_factory=dict)
    walk: 'Walk | None' = dataclasses.field(default=None, repr=False)

    def groups_of(self, layer: str) -> tuple[Group, ...]:
        """The groups in which the layer of this name produces channels."""
        return self._groups_of.get(layer, ())

    def group_of(self, key: str | int) -> Group:
        """A group by its name, or by the name or index of a layer that is in one group (or one that is not protected).

        Raises:
          UserError: if there is no such layer or group, its channels are in no group, or in several.
        """
        if key in self._by_name:
            return self._by_name[str(key)]
        names = [info.name for info in self.layers]
        name = names[key] if isinstance(key, int) and 0 <= key < len(names) else key
        if name not in names:
            raise UserError(
                f'layer {key!r} does not exist: give an index from 0 to {len(names) - 1} or a name ({names[:2]})'
            )
        groups = self.groups_of(str(name))
        if not groups:
            raise UserError(f'layer {name!r} has no channels of its own: {self.layers[names.index(name)].reason}')
        free = [group for group in groups if group.protected is None]
        if len(groups) > 1 and len(free) != 1:
            parts = ', '.join(group.name for group in free or groups)
            raise UserError(f'layer {name!r} produces several groups of channels: give one of {parts}')
        return (free or groups)[0]

    @functools.cached_property
    def _groups_of(self) -> Mapping[str, tuple[Group, ...]]:
        found: dict[str, tuple[Group, ...]] = {}
        for group in self.groups:
            found |= {name: (*found.get(name, ()), group) for name in group.layers}
        return found

    @functools.cached_property
    def _by_name(self) -> Mapping[str | int, Group]:
        # Where a name is that of a layer with several groups, it stands for none of them.
        return {group.name: group for group in self.groups}

    def to_json(self) -> dict[str, Any]:
        """Plain data: `layers` (index, name, channels, prunable) and `edges`."""
        keys = ('index', 'name', 'channels', 'prunable')
        return {
            'layers': [{key: getattr(layer, key) for key in keys} for layer in self.layers],
            'edges': [dataclasses.asdict(edge) for edge in self.edges],
        }
