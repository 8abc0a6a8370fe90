"""Candidates for removal, and one threshold for the scores of several groups."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group, Slot

NOISE = 9
"""Decimals to which a number of channels is rounded before it is compared: a share is rarely exact in binary."""


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A group that may lose channels.

    Attributes:
      group: which.
      options: counts of channels that it may keep, rising.
      scores: of its channels; `-inf` for those that are gone already.
    """

    group: Group
    options: Int[np.ndarray, 'options']
    scores: Float[np.ndarray, 'channels']


def nearest(options: Int[np.ndarray, 'options'], wanted: float) -> int:
    """The option nearest to a number of channels; of two, the larger."""
    distance = np.round(np.abs(options - wanted), NOISE)
    return int(options[::-1][np.argmin(distance[::-1])])


def normalised(scores: Float[np.ndarray, 'channels'], rule: str) -> Float[np.ndarray, 'channels']:
    """Scores that can be compared with those of other groups.

    Args:
      scores: of one group; `-inf` counts as absent.
      rule: `mean` divides by the mean size of the scores (the relative score of Fang et al., DepGraph (2023), section
        3.4, over all channels), `l2` by their L2 norm (Molchanov et al., Pruning Convolutional Neural Networks for
        Resource Efficient Inference (2017), section 2.2), `none` leaves them as they are.
    """
    sizes = np.abs(scores[np.isfinite(scores)]).astype(float)
    by = {'mean': np.mean(sizes), 'l2': np.sqrt(np.sum(np.square(sizes))), 'none': 1.0}[rule]
    return scores / by if by > 0 else scores.astype(float)


def one_threshold(pool: Sequence[Candidate], keep: float) -> list[int]:
    """How many channels each candidate keeps so that, together, they keep a share of all their channels.

    Between two options of a group lies a block of channels, ranked by its mean score: with every count allowed, that is
    one threshold for the scores of all channels. Of two totals equally near to the share, the larger is taken. Among
    equal blocks, that of the group of lower index goes first.
    """
    sizes, means, owners = [], [], []
    for place, candidate in enumerate(pool):
        best = np.sort(candidate.scores)[::-1]
        size = np.diff(candidate.options)
        sums = np.diff(np.cumsum(best[: candidate.options[-1]])[candidate.options - 1])
        sizes.append(size)
        means.append(np.minimum.accumulate(sums / size))  # falls, but for rounding
        owners.append(np.full(len(size), place))
    size, owner = np.concatenate(sizes), np.concatenate(owners)
    order = np.lexsort((np.arange(len(size)), -owner, -np.concatenate(means)))
    least = np.array([candidate.options[0] for candidate in pool])
    totals = least.sum() + np.concatenate([[0], np.cumsum(size[order])])
    taken = order[: np.flatnonzero(totals == nearest(totals, keep * channels(pool)))[0]]
    return (least + np.bincount(owner[taken], size[taken], minlength=len(pool)).astype(int)).tolist()


def channels(pool: Sequence[Candidate]) -> int:
    """All channels of some candidates."""
    return sum(candidate.group.channels for candidate in pool)


def check_reachable(pool: Sequence[Candidate], keep: float, rule: str) -> None:
    """A `UserError` with the smallest share that the options allow, where that is more than is asked for."""
    least, total = int(sum(candidate.options[0] for candidate in pool)), channels(pool)
    if least - 0.5 > keep * total:
        names = ', '.join(candidate.group.name for candidate in pool[:3]) + (', ...' if len(pool) > 3 else '')
        raise UserError(
            f'keep {keep:g} of the {total} channels of {names} cannot be met: with {rule} at least {least} stay; '
            f'give {np.ceil(least / total * 1e4) / 1e4:g} or more'
        )


def structures(graph: Graph, variables: Any) -> list[tuple[Any, ...]]:
    """For each group what it has in common with others that it may be ranked with: places in leaves of the same kind.

    Two groups are alike where their channels are made, passed on and read equally often by leaves of the same rank, on
    the same axes and equally often on each, and with the same sizes of all axes on which no channels stand (such as
    those of a window). Widths do not count.

    Source: like with like, Fang et al., Isomorphic Pruning for Vision Models (2024), section 3.
    """
    shapes = {path: tuple(getattr(leaf, 'shape', ())) for path, leaf in trees.flatten(variables).items()}
    taken: dict[trees.Path, set[int]] = collections.defaultdict(set)
    for slot in (slot for group in graph.groups for slot in group.slots):
        taken[slot.path].add(slot.axis)

    def kind(slot: Slot) -> tuple[Any, ...]:
        shape = shapes.get(slot.path, ())
        fixed = tuple(size for axis, size in enumerate(shape) if axis not in taken[slot.path])
        return slot.role, slot.masked, len(shape), slot.axis, slot.indices.shape[1], fixed

    return [tuple(sorted(map(kind, group.slots))) for group in graph.groups]
