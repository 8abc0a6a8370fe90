"""Whether what was derived from one program holds for the function at other widths."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from jaxprune.frameworks import following
from jaxprune.graph._compare import Comparison, Finding
from jaxprune.graph._groups import Solution
from jaxprune.graph._leaves import is_array, number
from jaxprune.graph._record import Place, Protection
from jaxprune.graph._types import Graph, Group
from jaxprune.graph._values import Ids, Value, fixed

Kept = Bool[np.ndarray, 'ids']
Suspects = dict[int, list[Finding]]
"""Index of a group -> why its channels may not be removed."""


class Proof:
    """A function, its program, and what comparing it with itself at other widths has taught so far.

    Attributes:
      leaves: of the variables.
      jaxpr: the program.
      inputs: arrays among the inputs, as the program takes them.
      choices: how equations that can be followed in several ways are followed.
      protections: what does not hold at other widths.
    """

    def __init__(self, apply: Callable[..., Any], variables: Any, inputs: Sequence[Any]) -> None:
        """Traces the function once."""
        self._apply = following(apply)
        self._variables, self._structure = jax.tree.flatten(variables)
        self._inputs, self._input_structure = jax.tree.flatten(tuple(inputs))
        self.leaves = number(variables)
        self.inputs = [leaf for leaf in self._inputs if is_array(leaf)]
        self.jaxpr = self._program([leaf for leaf in self._variables if is_array(leaf)])
        self.choices: dict[Place, int] = {}
        self.protections: list[Protection] = []
        self._trying: set[Place] | None = None
        self._better: set[Place] = set()

    def arguments(self) -> list[Value]:
        """The inputs as the walk meets them."""
        return [fixed(np.shape(leaf), data=True) for leaf in self.inputs]

    def arrays(self, variables: Any, inputs: Sequence[Any]) -> list[Any]:
        """All arrays, as the program takes them."""
        return [leaf for leaf in jax.tree.leaves((variables, tuple(inputs))) if is_array(leaf)]

    def note(self, solution: Solution, group_of_id: Ids, outputs: Sequence[Value]) -> None:
        """Keeps what a graph was derived from: the walk and what it ended with, and groups."""
        self._solution, self._record, self._group_of_id = solution, solution.record, group_of_id
        self._outputs = outputs

    def follow_better(self) -> bool:
        """Takes the next way to follow equations whose channels cannot be removed; whether there was one to try."""
        options = self._record.options
        if self._trying is None:
            self._trying = {place for place, option in options.items() if option.count > 2}
        stuck = {place for place in self._trying if place in options and self._solution.stuck(options[place].ids)}
        self._trying = set()
        for place in stuck:
            choice = self.choices.get(place, 0) + 1
            self.choices[place] = choice if choice < options[place].count - 1 else 0
            if self.choices[place]:
                self._trying.add(place)
        self._better = {place for place, choice in self.choices.items() if choice}
        return bool(stuck)

    def refute(self, graph: Graph) -> bool:
        """Compares with the function without some channels of every group; whether that contradicts the graph.

        Afterwards `choices` and `protections` take account of it.
        """
        free = [group for group in graph.groups if group.protected is None and group.approximate is None]
        suspects = self._confirmed([group for group in free if group.channels > 1])
        for index, findings in suspects.items():
            ids = np.flatnonzero(self._group_of_id == index)
            hard = [finding for finding in findings if not finding.soft]
            if not (hard and self._follow_otherwise(ids, {finding.place for finding in hard})):
                worst = (hard or findings)[0]
                self.protections.append(Protection(ids, worst.reason, worst.soft))
        return bool(suspects)

    def _confirmed(self, groups: Sequence[Group]) -> Suspects:
        """Groups that contradict at two draws of widths, all together or alone.

        At one draw alone two widths may happen to be equal, or two that differ keep their ratio.
        """
        first, second = (self._suspects(groups, draw) for draw in (0, 1))
        confirmed = {index: findings for index, findings in first.items() if index in second}
        for group in groups:
            if group.index in first.keys() ^ second.keys():
                alone = [self._suspects([group], draw) for draw in (2, 3)]
                if all(alone):
                    confirmed |= alone[0]
        return confirmed

    def check(self, kept: Kept) -> list[Finding]:
        """Differences between the program and that of the function with only the kept elements of its variables."""
        arrays = [leaf for leaf in self._variables if is_array(leaf)]
        values = self.leaves.values(kept)
        small = [
            jax.ShapeDtypeStruct([axis.size for axis in value.axes], leaf.dtype)
            for leaf, value in zip(arrays, values, strict=True)
        ]
        return Comparison(self._record.steps, (self.jaxpr, self._program(small)), kept, self._group_of_id).findings(
            self._outputs
        )

    def kept(self, removed: Sequence[tuple[Group, Ids]]) -> Kept:
        """Per id, whether it stays where these channels of these groups go."""
        stays = np.ones(len(self.leaves.axis_of), bool)
        for group, channels in removed:
            for slot in group.slots:
                stays[self.leaves.axis_ids(slot.path, slot.axis)[slot.indices[channels].ravel()]] = False
        return stays

    def _program(self, arrays: Sequence[Any]) -> Any:
        def run(arrays: Sequence[Any], inputs: Sequence[Any]) -> Any:
            variables = jax.tree.unflatten(self._structure, _merge(self._variables, arrays))
            return self._apply(variables, *jax.tree.unflatten(self._input_structure, _merge(self._inputs, inputs)))

        return jax.make_jaxpr(run)(arrays, self.inputs)

    def _probe(self, groups: Sequence[Group], draw: int) -> list[Finding]:
        """Differences where some channels of these groups are gone: up to half, of every group another number."""
        removed = []
        for group in groups:
            rng = np.random.default_rng([draw, group.index])
            count = int(rng.integers(1, max(2, group.channels // 2 + 1)))
            removed.append((group, rng.permutation(group.channels)[:count]))
        return self.check(self.kept(removed))

    def _suspects(self, groups: Sequence[Group], draw: int) -> Suspects:
        """Groups of which no channels may go, by as few programs as find them."""
        if not groups:
            return {}
        try:
            findings = self._probe(groups, draw)
            if not findings or len(groups) == 1:
                return {groups[0].index: findings} if findings else {}
            parts = [(part, {_key(each) for each in self._probe(part, draw)}) for part in _parts(groups)]
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f'the function does not run at other widths ({lines[0]})'
            return self._bisect(groups, draw, Finding(reason, soft=False))
        suspects: Suspects = {}
        for finding in findings:
            _add(suspects, self._culprits(finding, draw, groups, parts))
        return suspects

    def _culprits(
        self, finding: Finding, draw: int, groups: Sequence[Group], parts: Sequence[tuple[Sequence[Group], set[Any]]]
    ) -> Suspects:
        """Groups whose removal is enough for a finding, by the parts of all groups for which it was there or not."""
        missing = [part for part, keys in parts if _key(finding) not in keys]
        innocent = {group.index for part in missing for group in part}
        left = [group for group in groups if group.index not in innocent]
        if len(left) == 1:
            return {left[0].index: [finding]}
        return self._bisect(left or groups, draw, finding)

    def _bisect(self, groups: Sequence[Group], draw: int, finding: Finding) -> Suspects:
        """Groups that contradict on their own; all of them where only some together do."""
        middle = len(groups) // 2
        halves = [self._suspects(half, draw) for half in (groups[:middle], groups[middle:])] if middle else [{}, {}]
        suspects = _add(*halves)
        return suspects or {group.index: [finding] for group in groups}

    def _follow_otherwise(self, ids: Ids, places: set[Place | None]) -> bool:
        """Takes the next way to follow equations that move these ids, those at `places` if they are among them.

        False where all ways were tried.
        """
        concerned = {place: each for place, each in self._record.options.items() if np.isin(each.ids, ids).any()}
        if hopeful := self._better & concerned.keys():
            # The first way may protect for less: where the channels depend on each other.
            self.choices |= dict.fromkeys(hopeful, 0)
            self._better -= hopeful
            return True
        options = {place: each for place, each in concerned.items() if self.choices.get(place, 0) + 2 < each.count}
        named = [place for place in options if place[:-1] in places]
        for place in named or options:
            self.choices[place] = self.choices.get(place, 0) + 1
        return bool(options)


def _add(first: Suspects, second: Suspects) -> Suspects:
    for index, findings in second.items():
        first.setdefault(index, []).extend(findings)
    return first


def _parts(groups: Sequence[Group]) -> Iterator[Sequence[Group]]:
    """Halves of the groups such that any two groups are in different halves of some pair."""
    for bit in range((len(groups) - 1).bit_length()):
        for value in (0, 1):
            yield [group for number, group in enumerate(groups) if number >> bit & 1 == value]


def _key(finding: Finding) -> tuple[Place | None, str]:
    return finding.place, finding.reason


def _merge(leaves: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
    """The leaves with these arrays in place of those among them."""
    left = iter(arrays)
    return [next(left) if is_array(leaf) else leaf for leaf in leaves]
