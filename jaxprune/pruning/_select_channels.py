"""From a request (a share to keep, or a budget) to a plan: which channels of which group go."""

import functools
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from jaxprune.errors import UserError
from jaxprune.graph import Graph
from jaxprune.pruning import _pools
from jaxprune.pruning._apply import Variables
from jaxprune.pruning._budget import kept_options
from jaxprune.pruning._counts import Counts, Request, by_budget, by_shares
from jaxprune.pruning._criteria import Reduction, gathered, scores_from
from jaxprune.pruning._evidence import Evidence
from jaxprune.pruning._limits import Table, find_limits
from jaxprune.pruning._plan import Plan, plan_layer
from jaxprune.pruning._pools import Candidate
from jaxprune.pruning._rates import best
from jaxprune.pruning._shares import Asked, find_shares, open_groups
from jaxprune.pruning._verify import verified

Scope = Literal['layer', 'global', 'isomorphic']
SCOPES = ('layer', 'global', 'isomorphic')
NORMALISATIONS = ('mean', 'l2', 'none')
HALVINGS = 50
"""Steps of the search for the largest share within a budget: as many as a double has bits, or nearly."""


def select_channels(
    graph: Graph,
    variables: Variables,
    *,
    criterion: str = 'l2',
    keep: Asked | None = None,
    remove: Asked | None = None,
    scope: Scope | None = None,
    budget: Mapping[str, float] | None = None,
    tables: Mapping[str, Table] | None = None,
    min_channels: int = 1,
    round_to: int = 1,
    ignore: Iterable[str] = (),
    normalise: Literal['mean', 'l2', 'none'] | None = None,
    reduce: Reduction = 'sum',
    evidence: Evidence | None = None,
    seed: int = 0,
    within: Plan | None = None,
    aliases: Mapping[str, str] | None = None,
    verify: bool = True,
) -> Plan:
    """Chooses the channels to keep: those with the highest scores, as many as a share or a budget allows.

    All scores are those of `variables` as they are given. What cannot be pruned (protected groups) stays whole; it is
    an error only where it is named. A group keeps a multiple of `round_to` channels, or all: the count nearest to the
    one asked for (of two, the larger), but `min_channels` at least.

    Args:
      graph: connectivity of the model.
      variables: its variables.
      criterion: name in `CRITERIA`.
      keep: share of the channels that stays, above 0, at most 1. Either one for all, or a mapping: layer (index or
        name), name of a group, or pattern (`conv*`) -> share. A layer stands for its group, whichever member it is. A
        name counts before a pattern, any pattern before `*`; what no key matches stays whole.
      remove: the same, as the share that goes.
      scope: `layer`: every group keeps its share. `global`: all groups together keep it, with one threshold for the
        scores of all of them. `isomorphic`: all groups of the same structure together do (Fang et al., 2024). With a
        mapping, only groups of the same key share a threshold. None: `global` with a budget, else `layer`.
      budget: cost (`parameters`, `macs`, `flops`, `activations` or one of `tables`) -> limit: an integer is absolute, a
        float up to 1 is the share of what the unpruned model costs. Groups that `keep` or `remove` match keep their
        share; the others, with scope `global`, the set of counts with the highest total score that meets all limits
        (see `allocate`: proven to be within 0.01 % of the best unless 20 s are not enough); with the other scopes, the
        largest share, the same for all, that meets them.
      tables: measured costs: name -> layer or group -> number of kept channels -> cost, summed over groups; straight
        lines between measurements.
      min_channels: every group keeps at least as many (or all, where it has fewer).
      round_to: the number kept is a multiple of it (or all).
      ignore: patterns of layers or groups that stay whole.
      normalise: how scores of different groups are made comparable: divided by their `mean`, by their `l2` norm, or not
        at all (`none`). None: `mean` with scope `global`, else `none`.
      reduce: how the members of a group are combined: `sum`, `mean`, `max` or `l2`.
      evidence: gradients or activations, for criteria that need them.
      seed: of the criterion `random`.
      within: a plan for the same graph; what it removes goes in any case. Shares still count all channels of `graph`.
      aliases: other names of layers -> their names.
      verify: whether to make sure, as `verify` does, that the function follows these widths. On a graph that was traced
        with `prove=False` it never does.

    Returns:
      A plan bound to `graph`; groups that keep everything are not listed.

    Raises:
      UserError: for names and patterns that match nothing or nothing that can be pruned, contradictory shares for one
        group, values out of range, and a request that cannot be met: the message says what is the closest that can;
        also with `verify`, where the function is another one at these widths.
    """
    scope = scope or ('layer' if budget is None else 'global')
    given = {'min_channels': min_channels, 'round_to': round_to, 'budget': budget or {}, 'tables': tables or {}}
    _check_kinds(graph, within, given)
    _check(scope, normalise, keep if remove is None else remove, budget, tables)
    before = Plan((), graph) if within is None else within.on(graph)
    shares = find_shares(graph, keep, remove, aliases)
    wanted = [group for group in open_groups(graph, ignore, aliases) if budget is not None or group.index in shares]
    held = gathered(graph, variables, seed, evidence)
    scores = {group.index: scores_from(held, criterion, group, reduce) for group in wanted}
    scores = _compared(scores, _gone(graph, before), normalise or ('mean' if scope == 'global' else 'none'))
    live = {index: int(np.isfinite(own).sum()) for index, own in scores.items()}
    options = {index: kept_options(size, min_channels=min_channels, round_to=round_to) for index, size in live.items()}
    request = Request(
        candidates={group.index: Candidate(group, options[group.index], scores[group.index]) for group in wanted},
        shares=shares,
        scope=scope,
        kinds=_pools.structures(graph, variables) if scope == 'isomorphic' else [()] * len(graph.groups),
        rule=f'min_channels={min_channels} round_to={round_to}',
    )
    if budget is None:
        counts = by_shares(request, shares)
    else:
        limit = functools.partial(find_limits, graph, budget, tables or {}, aliases=aliases)
        counts = by_budget(request, _kept(graph, before), limit)
    return verified(_plan(request, before, counts), verify)


def _plan(request: Request, before: Plan, counts: Counts) -> Plan:
    """The plan before, and what each group that was counted keeps instead."""
    assert before.graph is not None
    layers = {layer.name: layer for layer in before.layers}
    for index, count in counts.items():
        candidate = request.candidates[index]
        if count < candidate.group.channels:
            layers[candidate.group.name] = plan_layer(before.graph, candidate.group, best(candidate.scores, count))
    return Plan(tuple(layers.values()), before.graph)


def _check(
    scope: str,
    normalise: str | None,
    asked: Asked | None,
    budget: Mapping[str, float] | None,
    tables: Mapping[str, Table] | None,
) -> None:
    if scope not in SCOPES:
        raise UserError(f'scope {scope!r} does not exist: give one of {", ".join(SCOPES)}')
    if normalise is not None and normalise not in NORMALISATIONS:
        raise UserError(f'normalisation {normalise!r} does not exist: give one of {", ".join(NORMALISATIONS)}')
    if asked is None and not budget:
        raise UserError('nothing is asked for: give keep=0.5, remove=0.5 or a budget, such as {"parameters": 0.5}')
    if budget and asked is not None and not isinstance(asked, Mapping):
        raise UserError(f'one share for all ({asked}) and a budget are both given: give one, or shares of named layers')
    if tables and not budget:
        raise UserError(f'a table of {next(iter(tables))!r} is given, but no budget: give its limit')


def _check_kinds(graph: Any, within: Any, options: Mapping[str, Any]) -> None:
    if not hasattr(graph, 'groups'):
        raise UserError(f'the graph is a {type(graph).__name__}: give what trace returned')
    if within is not None and not isinstance(within, Plan):
        raise UserError(f'within is a {type(within).__name__}: give the plan of the step before')
    for name, value in options.items():
        whole = name in ('min_channels', 'round_to')
        if not isinstance(value, numbers.Integral if whole else Mapping):
            raise UserError(f'{name} is {value!r}: give a {"whole number, 1 or more" if whole else "mapping"}')


def _gone(graph: Graph, before: Plan) -> dict[int, np.ndarray]:
    """Index of a group -> channels that a plan removes."""
    index = {group.name: group.index for group in graph.groups}
    return {index[layer.name]: np.array(layer.removed, int) for layer in before.layers}


def _kept(graph: Graph, plan: Plan) -> Int[np.ndarray, 'groups']:
    kept = plan.keep
    return np.array([len(kept[group.name]) if group.name in kept else group.channels for group in graph.groups])


def _compared(scores: Mapping[int, np.ndarray], gone: Mapping[int, np.ndarray], rule: str) -> dict[int, np.ndarray]:
    """Scores that can be compared, `-inf` where channels are gone."""
    found = {}
    for index, own in scores.items():
        live = own.astype(float)
        live[gone.get(index, [])] = -np.inf
        found[index] = _pools.normalised(live, rule)
    return found
