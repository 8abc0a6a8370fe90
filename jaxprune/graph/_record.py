"""What the rules find out while they walk through the program."""

import dataclasses
import os
from typing import Any

import numpy as np
from jax.extend import source_info_util
from jaxtyping import Int

from jaxprune.graph._leaves import Leaves
from jaxprune.graph._values import NONE, Axis, Ids, Sources, Value, merge_sources


@dataclasses.dataclass(frozen=True)
class Protection:
    """Ids that must stay, and why."""

    ids: Ids
    reason: str


@dataclasses.dataclass(frozen=True)
class Contact:
    """A kernel reads data.

    Attributes:
      sources: who wrote the data.
      kernel: an id of the kernel, per place of its input axis.
      places: on the input axis.
    """

    sources: Sources
    kernel: Ids
    places: Ids


@dataclasses.dataclass(eq=False)
class Record:
    """Facts about ids, collected as arrays and solved once at the end.

    Attributes:
      leaves: the numbering.
      owner: per leaf, the layer it belongs to or NONE, where layers are known beforehand.
      pairs: arrays `[2, n]` of ids that can only be removed together.
      protections: ids that must stay.
      kernels: per use of a kernel, in trace order, the ids of its output axis.
      produced: those of them that are new spaces (of a depthwise kernel they are not).
      read: ids of kernels' input axes.
      contacts: for the edges.
    """

    leaves: Leaves
    owner: Ids | None = None
    pairs: list[Int[np.ndarray, '2 n']] = dataclasses.field(default_factory=list)
    protections: list[Protection] = dataclasses.field(default_factory=list)
    kernels: list[Ids] = dataclasses.field(default_factory=list)
    produced: list[Ids] = dataclasses.field(default_factory=list)
    read: list[Ids] = dataclasses.field(default_factory=list)
    contacts: list[Contact] = dataclasses.field(default_factory=list)
    equation: Any = None

    def protect(self, ids: Ids | None, why: str) -> None:
        """These ids must stay because the current equation does `why`, a verb phrase."""
        if ids is not None and ids.size and (kept := ids[ids >= 0]).size:
            self.protections.append(Protection(kept, f'{self._where()} {why}'))

    def protect_value(self, value: Value, why: str) -> None:
        """All ids of a value must stay."""
        self.protect(value.known(), why)

    def unify(self, first: Ids, second: Ids) -> None:
        """Elements at the same place can only be removed together; beside one without id, not at all."""
        both = (first >= 0) & (second >= 0)
        differ = both & (first != second)
        if differ.any():
            self.pairs.append(np.stack([first[differ], second[differ]]))
        self.protect(
            np.where(both, NONE, np.maximum(first, second)), 'combines its channels with values that have none'
        )

    def combine(self, axes: list[Axis]) -> Axis:
        """The axis of a result whose elements depend on those of `axes` at the same place only."""
        size = max(axis.size for axis in axes)
        for axis in axes:
            if axis.size != size:
                self.protect(axis.ids, 'repeats its channel')
        varying = [axis for axis in axes if axis.size == size and not axis.uniform]
        labelled = [axis for axis in varying if axis.ids is not None]
        if not labelled:
            return Axis(size, uniform=not varying)
        ids = labelled[0].known
        for axis in varying:
            self.unify(ids, axis.known)
            ids = np.where(ids >= 0, ids, axis.known)
        sources = merge_sources(axis.sources for axis in labelled)
        for axis in labelled:
            if sources is not None and axis.sources is None:
                sources = self._pass(sources, axis.known)
        return Axis(size, ids, sources=sources)

    def contract(self, first: Axis, second: Axis) -> None:
        """Products of the two are summed along these axes; exact after removal if a kernel can be zeroed there."""
        if first.ids is None and second.ids is None:
            return
        self.unify(first.known, second.known)
        if first.origin is not None and second.origin is None:
            self._read(first.origin, second)
        elif second.origin is not None and first.origin is None:
            self._read(second.origin, first)
        else:
            for axis in (first, second):
                self.protect(axis.ids, 'sums over its channels without a kernel of its own to mask')

    def apply_kernel(self, axis: Axis) -> Axis:
        """What a kernel's output axis becomes on the result: a space of its own."""
        if axis.origin is None:
            return axis
        self.kernels.append(axis.origin)
        self.produced.append(axis.origin)
        return Axis(axis.size, axis.ids, sources=_written_by(axis.origin))

    def apply_grouped(self, data: Axis, kernel: Axis, outputs: Axis) -> Axis:
        """The same for a kernel of which every part reads its own channels: nothing on either side can be removed."""
        for axis in (data, kernel, outputs):
            self.protect(axis.ids, 'works in several groups of channels')
        if kernel.origin is not None:
            self._touch(data, np.resize(kernel.origin, data.size), np.arange(data.size))
        return self.apply_kernel(outputs)

    def apply_depthwise(self, data: Axis, kernel: Axis) -> Axis:
        """The same for a kernel that only scales and mixes within a channel: the space stays the data's."""
        joined = self.combine([data, kernel.with_origin(None)])
        if kernel.origin is None:
            return joined
        self.kernels.append(kernel.origin)
        self._touch(data, kernel.origin, self.leaves.place_of(kernel.origin))
        return Axis(joined.size, joined.ids, sources=_written_by(kernel.origin))

    def _read(self, kernel: Ids, data: Axis) -> None:
        self.read.append(kernel[kernel >= 0])
        self._touch(data, kernel, self.leaves.place_of(kernel))

    def _touch(self, data: Axis, kernel: Ids, places: Ids) -> None:
        if data.sources is not None:
            self.contacts.append(Contact(data.sources, kernel, places))

    def _pass(self, sources: Sources, through: Ids) -> Sources:
        """Notes that data written by one layer meet a parameter of another, as in an identity branch with a scale."""
        if self.owner is None:
            return sources
        writer, via = sources[:, 0], sources[:, 1]
        last = np.where(via >= 0, via, writer)
        new, old = (np.where(ids >= 0, self.owner[self.leaves.leaf_of(ids)], NONE) for ids in (through[None], last))
        passed = (new >= 0) & (old >= 0) & (new != old)
        return np.stack([np.where(passed, last, writer), np.where(passed, through, via)], axis=1)

    def _where(self) -> str:
        summary = source_info_util.summarize(self.equation.source_info)
        place = os.path.basename(summary.split(' ')[0])
        return f'{self.equation.primitive.name} ({place})'


def _written_by(ids: Ids) -> Sources:
    return np.stack([ids, np.full_like(ids, NONE)])[None]
