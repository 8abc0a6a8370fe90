"""Whether what was derived from one program holds for the function at other widths."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from jaxprune.graph._compare import Comparison, Finding
from jaxprune.graph._groups import Solution
from jaxprune.graph._program import Program
from jaxprune.graph._record import Option, Place, Protection, Record, Step
from jaxprune.graph._registry import walk
from jaxprune.graph._types import Graph, Group
from jaxprune.graph._values import Ids, Value

Kept = Bool[np.ndarray, 'ids']
Suspects = dict[int, list[Finding]]
"""Index of a group -> why its channels may not be removed."""
Choices = Mapping[Place, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Walk:
    """A walk through a program, and what it takes to compare it with the function at other widths.

    Attributes:
      program: that was walked through.
      choices: how equations that can be followed in several ways were followed.
      steps, outputs: of the walk.
      group_of_id: per id, the index of its group or NONE.
    """

    program: Program
    choices: Choices
    steps: Sequence[Step]
    outputs: Sequence[Value]
    group_of_id: Ids

    def without(self, removed: Iterable[tuple[Group, Ids]]) -> Kept:
        """Per id, whether it stays where these channels of these groups go."""
        leaves = self.program.leaves
        stays = np.ones(len(leaves.axis_of), bool)
        for group, channels in removed:
            for slot in group.slots:
                stays[leaves.axis_ids(slot.path, slot.axis)[slot.indices[channels].ravel()]] = False
        return stays

    def findings(self, kept: Kept) -> list[Finding]:
        """Differences between the program and that of the function with only the kept elements of its variables.

        Raises whatever the function raises there.
        """
        programs = self.program.jaxpr, self.program.narrow(kept)
        return Comparison(self.steps, programs, kept, self.group_of_id).findings(self.outputs)

    def again(self) -> 'Walk':
        """The same with the function traced anew."""
        program = self.program.again()
        record = Record(program.leaves, choices=self.choices)
        outputs = walk(record, program.jaxpr.jaxpr, program.jaxpr.consts, program.values())
        return dataclasses.replace(self, program=program, steps=record.steps, outputs=outputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Lessons:
    """What earlier walks have taught.

    Attributes:
      choices: how equations that can be followed in several ways are to be followed, where not in the first way.
      protections: what does not hold at other widths.
      better: places that follow another way than the first because channels can be removed then.
    """

    choices: Choices = dataclasses.field(default_factory=dict)
    protections: tuple[Protection, ...] = ()
    better: frozenset[Place] = frozenset()


@dataclasses.dataclass(frozen=True, eq=False)
class Derivation:
    """A graph, and what it was derived from.

    Attributes:
      graph: without the walk.
      walk: through the program.
      solution: of what the walk recorded.
    """

    graph: Graph
    walk: Walk
    solution: Solution

    @property
    def options(self) -> Mapping[Place, Option]:
        """Equations that could have been followed in another way."""
        return self.solution.record.options


Derive = Callable[[Lessons], Derivation]


def follow_better(derive: Derive) -> tuple[Derivation, Lessons]:
    """Follows equations whose channels cannot be removed in their other ways, one after the other."""
    lessons = Lessons()
    found = derive(lessons)
    trying = {place for place, option in found.options.items() if option.count > 2}
    while stuck := {place for place in trying & found.options.keys() if found.solution.stuck(found.options[place].ids)}:
        tried = {place: lessons.choices.get(place, 0) + 1 for place in stuck}
        # Where no way is better, the first one.
        choices = {place: way if way < found.options[place].count - 1 else 0 for place, way in tried.items()}
        lessons = Lessons({**lessons.choices, **choices})
        trying = {place for place, way in choices.items() if way}
        found = derive(lessons)
    return found, dataclasses.replace(lessons, better=frozenset(p for p, way in lessons.choices.items() if way))


def learn(found: Derivation, lessons: Lessons) -> Lessons | None:
    """Compares with the function without some channels of every group; None where nothing contradicts the graph."""
    free = [group for group in found.graph.groups if group.protected is None and group.approximate is None]
    suspects = _confirmed(found.walk, [group for group in free if group.channels > 1])
    for index, findings in suspects.items():
        ids = np.flatnonzero(found.walk.group_of_id == index)
        hard = [finding for finding in findings if not finding.soft]
        places = {finding.place for finding in hard}
        other = _follow_otherwise(lessons, found.options, ids, places) if hard else None
        lessons = other or _protect(lessons, ids, (hard or findings)[0])
    return lessons if suspects else None


def failure(error: Exception) -> Finding:
    """What it means that the function raised this."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Finding(f'the function does not run at other widths ({lines[0]})', soft=False)


def _protect(lessons: Lessons, ids: Ids, finding: Finding) -> Lessons:
    protection = Protection(ids, finding.reason, finding.soft)
    return dataclasses.replace(lessons, protections=(*lessons.protections, protection))


def _follow_otherwise(
    lessons: Lessons, options: Mapping[Place, Option], ids: Ids, places: set[Place | None]
) -> Lessons | None:
    """Takes the next way to follow equations that move these ids, those at `places` if they are among them.

    None where all ways were tried.
    """
    concerned = {place: each for place, each in options.items() if np.isin(each.ids, ids).any()}
    if hopeful := lessons.better & concerned.keys():
        # The first way may protect for less: where the channels depend on each other.
        choices = {**lessons.choices, **dict.fromkeys(hopeful, 0)}
        return dataclasses.replace(lessons, choices=choices, better=lessons.better - hopeful)
    ways = {place: lessons.choices.get(place, 0) + 1 for place in concerned}
    left = {place: way for place, way in ways.items() if way + 1 < concerned[place].count}
    if not left:
        return None
    named = {place: way for place, way in left.items() if place[:-1] in places}
    return dataclasses.replace(lessons, choices={**lessons.choices, **(named or left)})


def _confirmed(walk: Walk, groups: Sequence[Group]) -> Suspects:
    """Groups that contradict at two draws of widths, all together or alone.

    At one draw alone two widths may happen to be equal, or two that differ keep their ratio.
    """
    first, second = (_suspects(walk, groups, draw) for draw in (0, 1))
    confirmed = {index: findings for index, findings in first.items() if index in second}
    for group in groups:
        if group.index in first.keys() ^ second.keys():
            alone = [_suspects(walk, [group], draw) for draw in (2, 3)]
            if all(alone):
                confirmed |= alone[0]
    return confirmed


def _suspects(walk: Walk, groups: Sequence[Group], draw: int) -> Suspects:
    """Groups of which no channels may go, by as few programs as find them."""
    if not groups:
        return {}
    try:
        findings = _probe(walk, groups, draw)
        if not findings or len(groups) == 1:
            return {groups[0].index: findings} if findings else {}
        parts = [(part, {_key(each) for each in _probe(walk, part, draw)}) for part in _parts(groups)]
    except Exception as error:
        return _bisect(walk, groups, draw, failure(error))
    suspects: Suspects = {}
    for finding in findings:
        missing = [part for part, keys in parts if _key(finding) not in keys]
        _add(suspects, _culprits(walk, groups, draw, finding, missing))
    return suspects


def _probe(walk: Walk, groups: Sequence[Group], draw: int) -> list[Finding]:
    """Differences where some channels of these groups are gone: up to half, of every group another number."""
    removed = []
    for group in groups:
        rng = np.random.default_rng([draw, group.index])
        count = int(rng.integers(1, max(2, group.channels // 2 + 1)))
        removed.append((group, rng.permutation(group.channels)[:count]))
    return walk.findings(walk.without(removed))


def _culprits(
    walk: Walk, groups: Sequence[Group], draw: int, finding: Finding, missing: Sequence[Sequence[Group]]
) -> Suspects:
    """Groups whose removal is enough for a finding, which was not there for the groups in `missing`."""
    innocent = {group.index for part in missing for group in part}
    left = [group for group in groups if group.index not in innocent]
    if len(left) == 1:
        return {left[0].index: [finding]}
    return _bisect(walk, left or groups, draw, finding)


def _bisect(walk: Walk, groups: Sequence[Group], draw: int, finding: Finding) -> Suspects:
    """Groups that contradict on their own; all of them where only some together do."""
    middle = len(groups) // 2
    halves = [_suspects(walk, half, draw) for half in (groups[:middle], groups[middle:])] if middle else [{}, {}]
    return _add(*halves) or {group.index: [finding] for group in groups}


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
