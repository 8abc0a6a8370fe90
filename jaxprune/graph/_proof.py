"""Whether what was derived from one program holds for the function at other widths."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from jaxprune.frameworks import following
from jaxprune.graph._compare import Finding, compare
from jaxprune.graph._groups import Solution
from jaxprune.graph._leaves import is_array, number
from jaxprune.graph._record import Place, Protection, Record
from jaxprune.graph._registry import walk
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

    def arguments(self) -> list[Value]:
        """The inputs as the walk meets them."""
        return [fixed(np.shape(leaf), data=True) for leaf in self.inputs]

    def note(self, solution: Solution, group_of_id: Ids) -> None:
        """Keeps what a graph was derived from."""
        self._solution, self._record, self._group_of_id = solution, solution.record, group_of_id

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
        return bool(stuck)

    def refute(self, graph: Graph) -> bool:
        """Compares with the function without some channels of every group; whether that contradicts the graph.

        Afterwards `choices` and `protections` take account of it.
        """
        free = [group for group in graph.groups if group.protected is None and group.approximate is None]
        suspects = self._suspects([group for group in free if group.channels > 1])
        for index, findings in suspects.items():
            ids = np.flatnonzero(self._group_of_id == index)
            hard = [finding for finding in findings if not finding.soft]
            if not (hard and self._follow_otherwise(ids, {finding.place for finding in hard})):
                worst = (hard or findings)[0]
                self.protections.append(Protection(ids, worst.reason, worst.soft))
        return bool(suspects)

    def check(self, kept: Kept) -> list[Finding]:
        """Differences between the program and that of the function with only the kept elements of its variables."""
        arrays = [leaf for leaf in self._variables if is_array(leaf)]
        values = self.leaves.values(kept)
        small = [
            jax.ShapeDtypeStruct([axis.size for axis in value.axes], leaf.dtype)
            for leaf, value in zip(arrays, values, strict=True)
        ]
        jaxpr = self._program(small)
        record = Record(self.leaves, choices=dict(self.choices))
        walk(record, jaxpr.jaxpr, jaxpr.consts, [*values, *self.arguments()])
        return compare(self._record.steps, record.steps, kept)

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

    def _probe(self, groups: Sequence[Group]) -> list[Finding]:
        """Differences where about a third of the channels of these groups are gone, of no two alike."""
        draw = np.random.default_rng(0)
        removed = []
        for group in groups:
            count = 1 + (group.index % max(1, group.channels // 3))
            removed.append((group, draw.permutation(group.channels)[:count]))
        return self.check(self.kept(removed))

    def _suspects(self, groups: Sequence[Group]) -> Suspects:
        """Groups of which no channels may go, by as few programs as find them."""
        if not groups:
            return {}
        try:
            findings = self._probe(groups)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f'the function does not run at other widths ({lines[0]})'
            return self._bisect(groups, Finding(np.empty(0, int), reason, soft=False))
        if len(groups) == 1:
            return {groups[0].index: findings} if findings else {}
        concerned = {group.index for group in groups}
        candidates = [sorted(concerned & set(self._group_of_id[finding.ids].tolist())) for finding in findings]
        suspects: Suspects = {}
        for finding, indices in zip(findings, candidates, strict=True):
            if not indices:
                _add(suspects, self._bisect(groups, finding))
            elif len(indices) == 1:
                _add(suspects, {indices[0]: [finding]})
        unsure = [(f, i) for f, i in zip(findings, candidates, strict=True) if len(i) > 1]
        return _add(suspects, self._narrow(groups, unsure))

    def _narrow(self, groups: Sequence[Group], unsure: Sequence[tuple[Finding, list[int]]]) -> Suspects:
        """Tells groups that meet in one equation apart, by removing one of them at a time."""
        by_index = {group.index: group for group in groups}
        suspects: Suspects = {}
        for index_set in _apart([indices for _, indices in unsure]):
            _add(suspects, self._suspects([by_index[index] for index in index_set]))
        for finding, indices in unsure:
            if not suspects.keys() & set(indices):
                _add(suspects, {index: [finding] for index in indices})
        return suspects

    def _bisect(self, groups: Sequence[Group], finding: Finding) -> Suspects:
        """Groups that contradict on their own; all of them where only some together do."""
        middle = len(groups) // 2
        suspects = _add(self._suspects(groups[:middle]), self._suspects(groups[middle:])) if middle else {}
        return suspects or {group.index: [finding] for group in groups}

    def _follow_otherwise(self, ids: Ids, places: set[Place | None]) -> bool:
        """Takes the next way to follow equations that move these ids, those at `places` if they are among them.

        False where all ways were tried.
        """
        options = {
            place: option
            for place, option in self._record.options.items()
            if self.choices.get(place, 0) + 2 < option.count and np.isin(option.ids, ids).any()
        }
        named = [place for place in options if place[:-1] in places]
        for place in named or options:
            self.choices[place] = self.choices.get(place, 0) + 1
        return bool(options)


def _add(first: Suspects, second: Suspects) -> Suspects:
    for index, findings in second.items():
        first.setdefault(index, []).extend(findings)
    return first


def _apart(sets: Sequence[list[int]]) -> list[list[int]]:
    """All numbers, sorted into lists in each of which no two numbers are from one set."""
    neighbours: dict[int, set[int]] = {}
    for first, second in itertools.chain.from_iterable(itertools.permutations(each, 2) for each in sets):
        neighbours.setdefault(first, set()).add(second)
    colour: dict[int, int] = {}
    for index in sorted(neighbours):
        taken = {colour.get(other) for other in neighbours[index]}
        colour[index] = next(number for number in itertools.count() if number not in taken)
    return [[index for index in colour if colour[index] == number] for number in sorted(set(colour.values()))]


def _merge(leaves: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
    """The leaves with these arrays in place of those among them."""
    left = iter(arrays)
    return [next(left) if is_array(leaf) else leaf for leaf in leaves]
