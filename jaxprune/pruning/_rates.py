"""From rates to a plan: which filters go when a share of a layer's filters has to go."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group
from jaxprune.pruning._apply import Variables, mask_leaves
from jaxprune.pruning._criteria import Reduction, gathered, scores_from
from jaxprune.pruning._evidence import Evidence
from jaxprune.pruning._layers import Key, check_patterns, describe, find_group, lowest_layer, matches, pattern_list
from jaxprune.pruning._plan import Plan, PlanLayer, plan_layer
from jaxprune.pruning._verify import verified

NOISE = 1e-9
"""Pairs of filters by which a product may exceed a whole number: a rate is rarely exact in binary."""


def removed_filters(channels: int, rate: float) -> int:
    """Filters that the published method removes: `ceil(rate·channels/2)·2`, the rate read as a decimal."""
    return math.ceil(rate * channels / 2 - NOISE) * 2


def plan_rates(
    graph: Graph,
    variables: Variables,
    rates: Mapping[Key, float],
    *,
    criterion: str = 'l2',
    reduce: Reduction = 'sum',
    evidence: Evidence | None = None,
    seed: int = 0,
    min_channels: int | None = None,
    round_to: int | None = None,
    exclude: Iterable[str] = (),
    aliases: Mapping[str, str] | None = None,
    verify: bool = True,
) -> Plan:
    """Removes from every given layer its share of the filters, those with the lowest scores.

    Layers follow one another in index order, and each is ranked on what the ones before it left. Among equal scores the
    filter of lower index goes first.

    Args:
      graph: connectivity of the model.
      variables: its variables.
      rates: layer (index or name) or name of a group -> share of its filters to remove, from 0 to below 1.
      criterion: name in `CRITERIA`.
      reduce: how the members of a group are combined: `sum`, `mean`, `max` or `l2`.
      evidence: gradients or activations of the model as it is, for criteria that need them.
      seed: for the criterion `random`.
      min_channels: every layer keeps at least as many (or all, where it has fewer).
      round_to: the number kept is rounded up to a multiple of it (at most to all).
      exclude: patterns of names or indices of layers whose rates do not count.
      aliases: other names of layers -> their names.
      verify: whether to make sure, as `verify` does, that the function follows these widths. On a graph that was traced
        with `prove=False` it never does.

    Returns:
      The plan, bound to `graph`.

    Raises:
      UserError: for a layer that does not exist or cannot be pruned, a rate out of range or one that leaves no filter,
        two rates for one group, and what the criterion refuses; also with `verify`, where the function is another one
        at these widths.
    """
    _check_minimum('min_channels', min_channels)
    _check_minimum('round_to', round_to)
    targets = _targets(graph, rates, pattern_list(exclude, 'exclude'), aliases)
    held, opened = gathered(graph, variables, seed, evidence), _open(variables)
    layers: list[PlanLayer] = []
    for _, (group, rate) in sorted(targets.items()):
        kept = _kept_count(graph, group, rate, min_channels, round_to)
        layers.append(plan_layer(graph, group, best(scores_from(held, criterion, group, reduce), kept)))
        opened = opened.masked(Plan((layers[-1],), graph))
        held = dataclasses.replace(held, variables=opened.tree, leaves=opened.by_path)
    return verified(Plan(tuple(layers), graph), verify)


@dataclasses.dataclass(frozen=True, eq=False)
class _Opened:
    """Variables whose leaves are looked up once, whatever they are replaced by.

    Attributes:
      by_path: the leaves.
      leaves, structure: as `jax.tree.flatten` gives them.
      places: where the leaf of a path stands among `leaves`.
    """

    by_path: Mapping[trees.Path, Any]
    leaves: Sequence[Any]
    structure: Any
    places: Mapping[trees.Path, int]

    @property
    def tree(self) -> Variables:
        """The variables."""
        return jax.tree.unflatten(self.structure, self.leaves)

    def masked(self, plan: Plan) -> '_Opened':
        """What `mask` does."""
        changed = mask_leaves(self.by_path, plan)
        numbered = {self.places[path]: leaf for path, leaf in changed.items()}
        leaves = [numbered.get(place, leaf) for place, leaf in enumerate(self.leaves)]
        return dataclasses.replace(self, by_path={**self.by_path, **changed}, leaves=leaves)


def _open(variables: Variables) -> _Opened:
    leaves, structure = jax.tree.flatten(variables)
    places = trees.flatten(jax.tree.unflatten(structure, range(len(leaves))))
    return _Opened(trees.flatten(variables), leaves, structure, places)


def uniform_rates(
    graph: Graph, rate: float, *, exclude: Iterable[str] = (), aliases: Mapping[str, str] | None = None
) -> dict[Key, float]:
    """The same rate for every group that can be pruned, without those that match a pattern of `exclude`."""
    patterns = pattern_list(exclude, 'exclude')
    check_patterns(graph, patterns, aliases)
    groups = [group for group in graph.groups if group.protected is None]
    return {_key(graph, group): rate for group in groups if not matches(graph, group, patterns, aliases)}


def _key(graph: Graph, group: Group) -> Key:
    """The index of its lowest layer, or its name where that layer is in several groups that can be pruned."""
    lowest = lowest_layer(graph, group)
    free = [each for each in graph.groups if each.protected is None and lowest.name in each.layers]
    return lowest.index if free == [group] else group.name


def _check_minimum(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f'{name} is {value}: give a whole number, 1 or more')


def _targets(
    graph: Graph, rates: Mapping[Key, float], exclude: tuple[str, ...], aliases: Mapping[str, str] | None
) -> dict[int, tuple[Group, float]]:
    """Index of the group -> group and rate."""
    check_patterns(graph, exclude, aliases)
    targets: dict[int, tuple[Group, float]] = {}
    for key, rate in rates.items():
        group = find_group(graph, key, aliases)
        if not 0 <= rate < 1:
            raise UserError(f'rate {rate} of {describe(graph, group)} is out of range: give 0 or more, below 1')
        if targets.setdefault(group.index, (group, rate))[1] != rate:
            members = ', '.join(group.layers)
            raise UserError(
                f'layers {members} are pruned together, but have rates {targets[group.index][1]} and {rate}: give one'
            )
    return {index: target for index, target in targets.items() if not matches(graph, target[0], exclude, aliases)}


def _kept_count(graph: Graph, group: Group, rate: float, min_channels: int | None, round_to: int | None) -> int:
    channels = group.channels
    kept = max(channels - removed_filters(channels, rate), 0 if min_channels is None else min_channels)
    kept = min(math.ceil(kept / (round_to or 1)) * (round_to or 1), channels)
    if kept < 1:
        raise UserError(
            f'rate {rate} leaves no filter of {describe(graph, group)}, which has {channels}: '
            f'give {_largest_rate(channels)} or less, or a minimum number of channels'
        )
    return kept


def _largest_rate(channels: int) -> float:
    """The largest rate, in steps of 0.01, that leaves a filter."""
    return max(step / 100 for step in range(100) if removed_filters(channels, step / 100) < channels)


def best(scores: Float32[np.ndarray, 'channels'], kept: int) -> list[int]:
    """The channels with the highest scores, rising; of equal ones those of higher index."""
    order = np.argsort(scores, kind='stable')
    return np.sort(order[len(scores) - kept :]).tolist()
