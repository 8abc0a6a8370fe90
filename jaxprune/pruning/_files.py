"""Files that say what to prune: own plans, plans of rates, and lists of kept filters from elsewhere."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from jaxprune import files
from jaxprune.errors import UserError
from jaxprune.graph import Graph
from jaxprune.pruning._json import VERSION, check_header, read_json, whole_numbers
from jaxprune.pruning._layers import Key, find_group
from jaxprune.pruning._plan import Plan, PlanLayer, plan_layer
from jaxprune.pruning._rates import plan_rates
from jaxprune.pruning.select import Choice

RATES = 'rates'


def read_plan(
    file: str | os.PathLike[str],
    graph: Graph,
    variables: Any,
    *,
    aliases: Mapping[str, str] | None = None,
    **options: Any,
) -> Plan:
    """The plan that a file stands for, bound to the model.

    The file is JSON and holds one of: a plan (`Plan.write`); rates (`write_rates`, or the bare list
    `[{"layer": 8, "rate": 0.5}, …]` of published tables), which are turned into a plan by ranking `variables`; or kept
    filters from elsewhere, `{"layer index or name": [kept channels], …}`.

    Args:
      file: to read.
      graph: connectivity of the model.
      variables: its variables.
      aliases: other names (such as PyTorch's) of layers -> their names.
      **options: of `plan_rates` (criterion, seed, min_channels, round_to, exclude); they matter for rates only.

    Raises:
      UserError: with the file's name, if it is none of these or does not fit the model.
    """
    plain = read_json(file)
    try:
        if isinstance(plain, list) or (isinstance(plain, Mapping) and plain.get('kind') == RATES):
            return plan_rates(graph, variables, rates_from_json(plain), aliases=aliases, **options)
        if isinstance(plain, Mapping) and 'version' not in plain:
            return kept_plan(graph, plain, aliases=aliases)
        return Plan.from_json(plain).on(graph)
    except UserError as error:
        raise UserError(f'{file}: {error}') from error


def kept_plan(graph: Graph, kept: Mapping[Key, Iterable[int]], *, aliases: Mapping[str, str] | None = None) -> Plan:
    """A plan, bound to the model, from the channels that each layer keeps, in any order.

    Args:
      graph: connectivity of the model.
      kept: layer (index or name) or name of a group -> kept channels.
      aliases: other names of layers -> their names.

    Raises:
      UserError: for a layer that does not exist or cannot be pruned, and for channels that repeat, are out of range or
        are not there at all.
    """
    layers: dict[str, PlanLayer] = {}
    for key, channels in kept.items():
        group = find_group(graph, key, aliases)
        try:
            keep = tuple(sorted(whole_numbers(channels)))
        except TypeError as error:
            raise UserError(f'layer {key!r}: kept channels must be a list of whole numbers: {error}') from error
        layer = plan_layer(graph, group, keep)
        if layers.setdefault(group.name, layer) != layer:
            members = ', '.join(group.layers)
            raise UserError(f'layers {members} are pruned together, but two different lists of kept channels are given')
    return Plan(tuple(layers.values()), graph)


def rates_from_json(plain: Any) -> dict[Key, float]:
    """Layer -> rate, from what `write_rates` wrote or from the bare list of layers and rates."""
    if not isinstance(plain, list):
        check_header(plain, RATES)
    entries = plain if isinstance(plain, list) else plain.get('layers')
    rates: dict[Key, float] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        try:
            key, rate = entry['layer'], float(entry['rate'])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f'entry {entry!r} does not give a layer and its rate') from error
        if not isinstance(key, int | str):
            raise UserError(f'layer {key!r} is neither an index nor a name')
        if rates.setdefault(key, rate) != rate:
            raise UserError(f'layer {key!r} has two rates, {rates[key]} and {rate}: give one')
    return rates


def write_rates(choices: Iterable[Choice], file: str | os.PathLike[str]) -> None:
    """Writes chosen layers and rates as JSON, one line per layer; the file is there whole or not at all."""
    lines = ',\n'.join('  ' + json.dumps(choice.to_json()) for choice in choices)
    files.write_text(file, f'{{"version": {VERSION}, "kind": "{RATES}", "layers": [\n{lines}\n]}}\n')
