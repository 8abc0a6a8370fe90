"""What the rules find out while they walk through the program."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jax.extend import source_info_util
from jaxtyping import Int

from jaxprune.graph._leaves import Leaves
from jaxprune.graph._values import NEVER, NONE, Axis, Ids, Rows, Sources, Value, merge_rows

Place = tuple[int, ...]
"""Of an equation: its number in the jaxpr, after the places of its callers with the numbers of their bodies.

A last negative number stands for one of its steps.
"""


@dataclasses.dataclass(frozen=True)
class Protection:
    """Ids that must stay, and why; `soft` where removing them changes what stays, but leaves a network."""

    ids: Ids
    reason: str
    soft: bool = False


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


@dataclasses.dataclass(frozen=True)
class Work:
    """`scale` operations (or elements) for every combination of places on these axes."""

    kind: Literal['macs', 'activations']
    scale: float
    axes: Sequence[Ids]

    @property
    def total(self) -> float:
        """All of it, while nothing is removed."""
        return self.scale * math.prod(len(ids) for ids in self.axes)


@dataclasses.dataclass(frozen=True)
class Site:
    """An operand of an equation whose channels are summed there: by a kernel, or by another array of data."""

    place: Place
    callers: tuple[Any, ...]
    operand: int
    axis: int
    ids: Ids


@dataclasses.dataclass(frozen=True)
class Option:
    """An equation that can be followed in several ways (the last: not at all), and whose ids it is about."""

    ids: Ids
    count: int


@dataclasses.dataclass(frozen=True)
class Step:
    """One equation of the walk, with those in whose bodies it is; without an equation, the constants of a jaxpr."""

    equation: Any
    operands: Sequence[Value]
    results: Sequence[Value]
    callers: tuple[Any, ...] = ()
    place: Place = ()
    constants: Sequence[Any] = ()


@dataclasses.dataclass(eq=False)
class Record:
    """Facts about ids, collected as arrays and solved once at the end.

    Attributes:
      leaves: the numbering.
      owner: per leaf, the layer it belongs to or NONE, where layers are known beforehand.
      choices: how the equation at a place is followed, where not in the first way.
      pairs: arrays `[2, n]` of ids that can only be removed together.
      protections: ids that must stay.
      kernels: per use of a kernel, in trace order, the ids of its output axis.
      produced: those of them that are new spaces (of a depthwise kernel they are not).
      read: ids of kernels' input axes.
      masked: ids that a mask sets to zero.
      contacts: for the edges.
      work: for the costs.
      sites: where channels are read.
      cuts: parts of an axis, by their ids, that the code takes without regard to what is removed from the others.
      singular: conditions for zero of values by which something is divided.
      steps: the whole walk.
      options: equations that could have been followed in another way.
    """

    leaves: Leaves
    owner: Ids | None = None
    choices: Mapping[Place, int] = dataclasses.field(default_factory=dict)
    pairs: list[Int[np.ndarray, '2 n']] = dataclasses.field(default_factory=list)
    protections: list[Protection] = dataclasses.field(default_factory=list)
    kernels: list[Ids] = dataclasses.field(default_factory=list)
    produced: list[Ids] = dataclasses.field(default_factory=list)
    read: list[Ids] = dataclasses.field(default_factory=list)
    masked: list[Ids] = dataclasses.field(default_factory=list)
    contacts: list[Contact] = dataclasses.field(default_factory=list)
    work: list[Work] = dataclasses.field(default_factory=list)
    sites: list[Site] = dataclasses.field(default_factory=list)
    cuts: list[Sequence[Ids]] = dataclasses.field(default_factory=list)
    singular: list[Rows] = dataclasses.field(default_factory=list)
    steps: list[Step] = dataclasses.field(default_factory=list)
    options: dict[Place, Option] = dataclasses.field(default_factory=dict)
    equation: Any = None
    callers: tuple[Any, ...] = ()
    place: Place = ()
    repeats: int = 1

    def protect(self, ids: Ids | None, why: str, *, soft: bool = False) -> None:
        """These ids must stay because the current equation does `why`, a verb phrase."""
        if ids is not None and ids.size and (kept := ids[ids >= 0]).size:
            self.protections.append(Protection(kept, f'{self.where()} {why}', soft))

    def protect_value(self, value: Value, why: str) -> None:
        """All ids of a value must stay."""
        self.protect(value.known(), why)

    def choose(self, ids: Ids, count: int, step: int = 0) -> int:
        """Which of `count` ways to follow (a step of) the current equation; the last is not to follow it."""
        place = (*self.place, -1 - step)
        self.options[place] = Option(ids[ids >= 0], count)
        return min(self.choices.get(place, 0), count - 1)

    def unify(self, first: Ids, second: Ids) -> None:
        """Elements at the same place can only be removed together; beside one without id, not at all."""
        both = (first >= 0) & (second >= 0)
        differ = both & (first != second)
        if differ.any():
            self.pairs.append(np.stack([first[differ], second[differ]]))
        if not both.all():
            self.protect(
                np.where(both, NONE, np.maximum(first, second)), 'combines its channels with values that have none'
            )

    def tie(self, rows: Int[np.ndarray, 'n k']) -> None:
        """The k elements of each row can only be removed together."""
        first = np.broadcast_to(rows[:, :1], rows[:, 1:].shape)
        self.unify(first.ravel(), rows[:, 1:].ravel())

    def combine(self, axes: list[Axis], zeros: Rows | None = None) -> Axis:
        """The axis of a result whose elements depend on those of `axes` at the same place only."""
        size = max(axis.size for axis in axes)
        for axis in axes:
            if axis.size != size:
                self.protect(axis.ids, 'repeats its channel')
        varying = [axis for axis in axes if axis.size == size and not axis.uniform]
        labelled = [axis for axis in varying if axis.ids is not None]
        if not labelled:
            return Axis(size, uniform=not varying, runs=math.gcd(*(axis.runs for axis in varying)) if varying else 1)
        if len(varying) == 1:
            return varying[0].with_zeros(zeros)
        ids = labelled[0].known
        for axis in varying:
            if axis.ids is None and axis.runs > 1:
                # Of every run the same places go, so that runs stay of one length.
                self.tie(ids.reshape(-1, axis.runs).T)
            elif axis.ids is not ids:
                self.unify(ids, axis.known)
                ids = np.where(ids >= 0, ids, axis.known)
        sources = merge_rows(axis.sources for axis in labelled)
        for axis in labelled:
            if sources is not None and axis.sources is None:
                sources = self._pass(sources, axis.known)
        return Axis(size, ids, sources=sources, zeros=zeros)

    def contract(self, first: Axis, second: Axis, kernel: Literal['first', 'second'] | None) -> None:
        """Products of the two are summed along these axes; exact after removal if one of them can be zeroed there.

        Args:
          first: axis of the one factor.
          second: axis of the other.
          kernel: which of them belongs to a kernel that reads the other; None if both or none does.
        """
        if first.ids is None and second.ids is None:
            return
        if not first.uniform and not second.uniform:
            self.unify(first.known, second.known)
        data, reader = (second, first) if kernel == 'first' else (first, second)
        if kernel is not None:
            self._read(reader, data)
        if kernel is not None and self._vanish(reader):
            return
        if not self._vanish(data) and (kernel is not None or not self._vanish(reader)):
            for axis in (first, second):
                self.protect(axis.ids, 'sums over its channels, and nothing there can be set to zero', soft=True)

    def sum_over(self, axis: Axis) -> None:
        """Elements are summed along this axis; exact after removal if they can be zeroed."""
        if axis.ids is not None and not self._vanish(axis):
            self.protect(axis.ids, 'makes its channels depend on each other', soft=True)

    def apply_kernel(self, axis: Axis) -> Axis:
        """What a kernel's output axis becomes on the result: a space of its own."""
        if axis.ids is None:
            return axis
        written = self._written(axis)
        for row in written:
            if (row >= 0).any():
                self.kernels.append(row)
                self.produced.append(row)
        return Axis(axis.size, axis.ids, sources=_written_by(written[0]), zeros=axis.zeros)

    def apply_grouped(self, data: Axis, kernel: Axis, outputs: Axis, groups: int) -> Axis:
        """The same for a kernel of which every part reads its own channels.

        Either channels at the same place of every part go together, or whole parts.
        """
        inputs = data.known.reshape(groups, -1)
        made = outputs.known.reshape(groups, -1)
        choice = self.choose(np.concatenate([data.known, outputs.known]), 3)
        if choice == 0:
            self.tie(inputs.T)
            self.tie(made.T)
            self.contract(Axis(kernel.size, inputs[0]), kernel, 'second')
        elif choice == 1:
            self.tie(inputs)
            self.tie(made)
            self.unify(inputs[:, 0], made[:, 0])
            self.protect(kernel.ids, 'works in several groups of channels')
        else:
            for axis in (data, kernel, outputs):
                self.protect(axis.ids, 'works in several groups of channels')
        if kernel.zeros is not None:
            self._touch(data, np.resize(kernel.zeros[0], data.size), np.arange(data.size))
        return self.apply_kernel(outputs)

    def apply_depthwise(self, data: Axis, kernel: Axis) -> Axis:
        """The same for a kernel that only scales and mixes within a channel: the space stays the data's."""
        joined = self.combine([data, kernel], kernel.zeros if data.zeros is None else data.zeros)
        if kernel.zeros is None:
            return joined
        ids = self._written(kernel)[0]
        self.kernels.append(ids)
        self._touch(data, ids, self.leaves.place_of(ids))
        return Axis(joined.size, joined.ids, sources=_written_by(ids), zeros=joined.zeros)

    def reads(self, operand: int, axis: int, value: Value) -> None:
        """The current equation sums over this axis of its operand of this number."""
        ids = value.axes[axis].ids
        if ids is not None and value.data:
            self.sites.append(Site(self.place, self.callers, operand, axis, ids))

    def count(self, kind: Literal['macs', 'activations'], axes: Sequence[Axis], share: float = 1.0) -> None:
        """Notes work that is done for every combination of places on these axes (or for a share of them)."""
        scale = share * self.repeats
        for axis in axes:
            scale *= axis.size if axis.ids is None else 1
        self.work.append(Work(kind, scale, [axis.ids for axis in axes if axis.ids is not None]))

    @contextlib.contextmanager
    def repeated(self, times: int) -> Iterator[None]:
        """Work in here is done so often."""
        outer, self.repeats = self.repeats, self.repeats * times
        yield
        self.repeats = outer

    def mark(self) -> list[int]:
        """How much has been collected; for `forget`."""
        return [len(collected) for collected in self._lists()]

    def forget(self, mark: list[int]) -> None:
        """Drops what was collected since the mark."""
        for collected, length in zip(self._lists(), mark, strict=True):
            del collected[length:]

    def where(self) -> str:
        """The current equation: its primitive and the user's line."""
        return describe(self.equation, self.callers)

    def _lists(self) -> list[list[Any]]:
        return [each for each in vars(self).values() if isinstance(each, list)]

    def _vanish(self, axis: Axis) -> bool:
        """Whether the elements of the axis can be made zero; a mask will do so."""
        if axis.ids is None or axis.zeros is None or np.any((axis.zeros == NEVER) & (axis.ids >= 0)):
            return False
        self.masked.extend(row[row >= 0] for row in axis.zeros)
        return True

    def _written(self, axis: Axis) -> Rows:
        """Whose axis a kernel's output axis is: its own, too, where only a scale can make it zero."""
        own = axis.known[None]
        if axis.zeros is None:
            return own
        return own if self._rank(axis.zeros) < self._rank(own) else axis.zeros

    def _rank(self, rows: Rows) -> int:
        """Number of axes of the leaves on which the ids lie: the most that any has."""
        leaves = np.unique(self.leaves.leaf_of(rows[rows >= 0]))
        return max((len(self.leaves.shapes[leaf]) for leaf in leaves), default=0)

    def _read(self, kernel: Axis, data: Axis) -> None:
        rows = kernel.known[None] if kernel.zeros is None else kernel.zeros
        self.read.extend(row[row >= 0] for row in rows)
        self._touch(data, rows[0], self.leaves.place_of(rows[0]))

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


def describe(equation: Any, callers: Sequence[Any] = ()) -> str:
    """An equation by its primitive and the user's line, such as `reduce_sum (model.py:12)`.

    Where the equation itself has no line outside the libraries, that of its nearest caller counts.
    """
    places = (source_info_util.summarize(each.source_info) for each in (equation, *reversed(callers)))
    place = next((place for place in places if place), '')
    return f'{equation.primitive.name} ({os.path.basename(place.split(" ")[0])})'


def _written_by(ids: Ids) -> Sources:
    return np.stack([ids, np.full_like(ids, NONE)])[None]
