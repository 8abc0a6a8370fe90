"""Which share of its channels every group is asked to keep: one for all, or by name, index and pattern."""

import dataclasses
import numbers
from collections.abc import Iterable, Mapping, Sequence

from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group
from jaxprune.pruning._layers import Key, check_patterns, describe, find_group, is_name, matches

Asked = float | Mapping[Key, float]
Aliases = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Share:
    """What one group is asked to keep.

    Attributes:
      keep: share of its channels, above 0, at most 1.
      key: what asked for it; groups with the same key are one pool where several groups share a threshold.
    """

    keep: float
    key: Key


def open_groups(graph: Graph, ignore: Iterable[str], aliases: Aliases | None = None) -> list[Group]:
    """The groups that may lose channels: neither protected nor matched by a pattern.

    Raises:
      UserError: for a pattern that matches nothing, and where no group is left.
    """
    if not isinstance(ignore, Iterable):
        raise UserError(f'ignore is {ignore!r}: give a list of patterns')
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    check_patterns(graph, patterns, aliases)
    found = [group for group in graph.groups if group.protected is None]
    left = [group for group in found if not matches(graph, group, patterns, aliases)]
    if not left:
        reasons = '; '.join([f'{group.name}: {group.protected}' for group in graph.groups][:2]) or 'there is no group'
        why = f'the patterns {", ".join(map(str, patterns))} match every group that can be pruned' if found else reasons
        raise UserError(f'no channel can be removed: {why}')
    return left


def find_shares(
    graph: Graph, keep: Asked | None, remove: Asked | None, aliases: Aliases | None = None
) -> dict[int, Share]:
    """Index of a group -> what it is asked to keep; without groups that nothing is asked of.

    A name or an index counts before a pattern, and any other pattern before `*`.

    Raises:
      UserError: for a share out of range, a key that matches nothing or what cannot be pruned, and two shares for one
        group.
    """
    if keep is not None and remove is not None:
        raise UserError('keep and remove are both given: give one')
    word, request = ('keep', keep) if remove is None else ('remove', remove)
    entries = request if isinstance(request, Mapping) else {} if request is None else {'*': request}
    found: dict[int, tuple[int, Share]] = {}
    for key, value in entries.items():
        share = Share(_check(word, value, key), key)
        rank, groups = _matched(graph, key, aliases) if isinstance(request, Mapping) else (0, _unprotected(graph))
        for group in groups:
            before = found.get(group.index)
            if before is not None and before[0] == rank and before[1].keep != share.keep:
                raise UserError(
                    f'{describe(graph, group)} has two shares, for {before[1].key!r} and for {key!r}'
                    f'{_together(group)}: give one'
                )
            if before is None or before[0] < rank:
                found[group.index] = (rank, share)
    return {index: share for index, (_, share) in found.items()}


def _together(group: Group) -> str:
    return f' ({", ".join(group.layers)} are pruned together)' if len(group.layers) > 1 else ''


def _check(word: str, value: float, key: Key) -> float:
    whole = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not whole or not (0 < value <= 1 if word == 'keep' else 0 <= value < 1):
        allowed = 'above 0, at most 1' if word == 'keep' else '0 or more, below 1'
        raise UserError(f'{word} {value!r} for {key!r} is out of range: give a share {allowed}')
    return float(value) if word == 'keep' else 1 - float(value)


def _matched(graph: Graph, key: Key, aliases: Aliases | None) -> tuple[int, Sequence[Group]]:
    """How much a key counts, and the groups that it stands for."""
    if is_name(graph, key, aliases):
        return 2, [find_group(graph, key, aliases)]
    check_patterns(graph, [str(key)], aliases)
    groups = [group for group in graph.groups if matches(graph, group, [str(key)], aliases)]
    found = [group for group in groups if group.protected is None]
    if not found:
        why = f'{groups[0].name}: {groups[0].protected}' if groups else 'none of them has channels of its own'
        raise UserError(f'pattern {key!r} matches only what cannot be pruned ({why})')
    return int(key != '*'), found


def _unprotected(graph: Graph) -> list[Group]:
    return [group for group in graph.groups if group.protected is None]
