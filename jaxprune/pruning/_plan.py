"""`Plan`: which channels every pruned group keeps."""

import collections
import dataclasses
import json
import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

from jaxprune import files
from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group
from jaxprune.pruning._json import VERSION, check_header, read_json, whole_numbers
from jaxprune.pruning._layers import find_group, find_layer, lowest_layer

KIND = 'channels'


@dataclasses.dataclass(frozen=True, order=True)
class PlanLayer:
    """What one group keeps.

    Attributes:
      index: of the group's lowest layer.
      name: of the group (that of its lowest layer, with a number behind it where that produces several groups). In a
        plan that is not bound to a graph, index and name may be those of any other layer of the group.
      channels: before.
      keep: kept channels, rising.
    """

    index: int
    name: str
    channels: int
    keep: tuple[int, ...]

    def __post_init__(self) -> None:
        where = f'layer {self.index} ({self.name})'
        if odd := [place for place in self.keep if not isinstance(place, numbers.Integral)]:
            raise UserError(f'{where}: kept channel {odd[0]!r} is no whole number')
        object.__setattr__(self, 'keep', tuple(map(int, self.keep)))
        if not self.keep:
            raise UserError(f'{where}: a plan must keep at least one of its {self.channels} channels')
        if any(later <= earlier for earlier, later in zip(self.keep, self.keep[1:], strict=False)):
            raise UserError(f'{where}: kept channels must rise and not repeat')
        if self.keep[0] < 0 or self.keep[-1] >= self.channels:
            wrong = self.keep[0] if self.keep[0] < 0 else self.keep[-1]
            raise UserError(f'{where}: kept channel {wrong} is out of range: it has channels 0 to {self.channels - 1}')

    @property
    def removed(self) -> tuple[int, ...]:
        """Channels that go, rising."""
        return tuple(sorted(set(range(self.channels)) - set(self.keep)))


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table that `plan show` prints; `rate` is the share of the channels that goes."""

    index: int
    name: str
    channels: int
    kept: int
    removed: int
    rate: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """A layer that two plans treat differently: channels that only the one or only the other removes."""

    index: int
    name: str
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which channels every pruned group keeps; groups that are not named keep all. Hashable.

    Attributes:
      layers: one entry per pruned group, by index.
      graph: of the model that the plan is for, or None; it is neither compared nor written. A plan with a graph has
        been checked against it, and names every group by its own name.
    """

    layers: tuple[PlanLayer, ...] = ()
    graph: Graph | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        layers = self.layers if self.graph is None else [_resolve(self.graph, layer) for layer in self.layers]
        object.__setattr__(self, 'layers', tuple(sorted(layers)))
        names = [layer.name for layer in self.layers]
        repeated = [name for name, count in collections.Counter(names).items() if count > 1]
        if repeated:
            raise UserError(f'plan names layer {repeated[0]} twice: merge the entries into one')

    def on(self, graph: Graph) -> 'Plan':
        """The plan bound to a model: what `mask`, `slice` and all others need that apply it.

        Raises:
          UserError: for a layer that the model lacks, that cannot be pruned or has another width, and for two entries
            that stand for one group.
        """
        return dataclasses.replace(self, graph=graph)

    @property
    def keep(self) -> dict[str, tuple[int, ...]]:
        """Group name -> kept channels."""
        return {layer.name: layer.keep for layer in self.layers}

    @property
    def channels(self) -> dict[str, int]:
        """Group name -> channels before."""
        return {layer.name: layer.channels for layer in self.layers}

    def then(self, other: 'Plan') -> 'Plan':
        """The plan that does what `other` does to the result of this one: its channels count what this one kept.

        Args:
          other: for the model that this plan leaves; bound to that model's graph, or not bound.

        Returns:
          A plan for the model of this one: bound to this plan's graph if it has one.

        Raises:
          UserError: if `other` is for other widths than this plan leaves.
        """
        merged = {layer.name: layer for layer in self.layers}
        for second in other.layers:
            name = second.name if self.graph is None else find_group(self.graph, second.name).name
            first = merged.get(name)
            merged[name] = second if first is None else _compose(first, second)
        return Plan(tuple(merged.values()), self.graph)

    def diff(self, other: 'Plan') -> list[Difference]:
        """Layers that the two plans treat differently, by index."""
        first, second = ({layer.name: layer for layer in plan.layers} for plan in (self, other))
        found = []
        for layer in sorted((second | first).values()):
            pair = [side[layer.name].removed if layer.name in side else () for side in (first, second)]
            alone = [tuple(sorted(set(a) - set(b))) for a, b in (pair, pair[::-1])]
            if any(alone):
                found.append(Difference(layer.index, layer.name, *alone))
        return found

    def rows(self) -> list[Row]:
        """The plan as a table, by index."""
        return [
            Row(
                layer.index,
                layer.name,
                layer.channels,
                len(layer.keep),
                layer.channels - len(layer.keep),
                1 - len(layer.keep) / layer.channels,
            )
            for layer in self.layers
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data that `json` can write and `from_json` reads back."""
        layers = [
            {'layer': layer.index, 'name': layer.name, 'channels': layer.channels, 'keep': list(layer.keep)}
            for layer in self.layers
        ]
        return {'version': VERSION, 'kind': KIND, 'layers': layers}

    @classmethod
    def from_json(cls, plain: Any) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          UserError: for a version from the future, another kind of plan, or entries that are missing or senseless.
        """
        check_header(plain, KIND)
        try:
            return cls(tuple(_layer(entry) for entry in plain['layers']))
        except (KeyError, TypeError) as error:
            raise UserError(f'plan is not complete or has an entry of the wrong type: {error}') from error

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> Self:
        """Reads a file that `write` made; a `UserError` names the file if it is none."""
        try:
            return cls.from_json(read_json(file))
        except UserError as error:
            raise error if str(file) in str(error) else UserError(f'{file}: {error}') from error

    def write(self, file: str | os.PathLike[str]) -> None:
        """Writes the plan as JSON, one line per layer; the file is there whole or not at all."""
        plain = self.to_json()
        layers = ',\n'.join('  ' + json.dumps(layer) for layer in plain['layers'])
        text = f'{{"version": {VERSION}, "kind": "{KIND}", "layers": [\n{layers}\n]}}\n'
        files.write_text(file, text)


def plan_layer(graph: Graph, group: Group, keep: Iterable[int]) -> PlanLayer:
    """The entry with which a group keeps these channels (rising)."""
    return PlanLayer(lowest_layer(graph, group).index, group.name, group.channels, tuple(keep))


def _resolve(graph: Graph, layer: PlanLayer) -> PlanLayer:
    group = find_group(graph, layer.name)
    index = (lowest_layer(graph, group) if layer.name == group.name else find_layer(graph, layer.name)).index
    if index != layer.index:
        raise UserError(f'plan is for another model: layer {layer.name} has index {index} here, {layer.index} there')
    if group.channels != layer.channels:
        raise UserError(
            f'layer {layer.index} ({layer.name}) has {group.channels} channels, but the plan is for {layer.channels}'
        )
    return plan_layer(graph, group, layer.keep)


def _layer(entry: Mapping[str, Any]) -> PlanLayer:
    index, channels = whole_numbers((entry['layer'], entry['channels']))
    if not isinstance(entry['name'], str):
        raise TypeError(f'name {entry["name"]!r}')
    return PlanLayer(index, entry['name'], channels, whole_numbers(entry['keep']))


def _compose(first: PlanLayer, second: PlanLayer) -> PlanLayer:
    if second.channels != len(first.keep):
        raise UserError(
            f'layer {second.index} ({second.name}): the second plan is for {second.channels} channels, '
            f'but the first leaves {len(first.keep)}'
        )
    return PlanLayer(first.index, first.name, first.channels, tuple(first.keep[kept] for kept in second.keep))
