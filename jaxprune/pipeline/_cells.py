"""The cells of a scan: layers and rates, and the plan of each."""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxprune import graph, models, pruning, sensitivity
from jaxprune.errors import UserError
from jaxprune.pipeline._prune import aliases

Plans = dict[tuple[int | None, float], pruning.Plan]


def plan_cells(
    model: models.Detector,
    variables: models.Variables,
    rates: Sequence[float],
    *,
    layers: Sequence[str] | None = None,
    exclude: Iterable[str] = (),
    criterion: str = 'l2',
    seed: int = 0,
) -> Plans:
    """(layer, rate) -> plan: the unpruned model, then every layer that can be pruned at every rate.

    Layers that can only be pruned together stand once, under the lowest index. Cells that would leave no filter are
    left out: narrow layers have none at high rates.

    Raises:
      UserError: for a layer that does not exist or is a head, and for rates out of range.
    """
    if isinstance(layers, str | int):
        raise UserError(f'layers is {layers!r}: give a list of layers, such as [{layers!r}]')
    rates = sensitivity.checked_rates(rates)
    connections = models.connectivity(model.spec)
    names = aliases(model.spec)
    uniform = pruning.uniform_rates(connections, 0.0, exclude=exclude, aliases=names)
    if layers is not None:
        asked = [pruning.find_layer(connections, layer, names) for layer in layers]
        pruning.plan_rates(connections, variables, {layer.index: 0.0 for layer in asked}, criterion=criterion)
        lowest = {min(pruning.find_layer(connections, name).index for name in _members(connections, a)) for a in asked}
        uniform = {index: rate for index, rate in uniform.items() if index in lowest}
    if not uniform or not rates:
        raise UserError('no layer or no rate is left to scan; name fewer patterns to exclude')
    ranking: dict[str, Any] = {'criterion': criterion, 'seed': seed}
    cells: Plans = {(None, 0): pruning.Plan().on(connections)}
    for index in sorted(int(index) for index in uniform):
        channels = connections.group_of(connections.layers[index].name).channels
        for rate in rates:
            if pruning.removed_filters(channels, rate) < channels:
                cells[index, rate] = pruning.plan_rates(connections, variables, {index: rate}, **ranking)
    if len(cells) == 1:
        raise UserError(f'rates {", ".join(map(str, rates))} leave no filter of any layer: give lower ones')
    return cells


def _members(connections: graph.Graph, layer: graph.LayerInfo) -> tuple[str, ...]:
    return connections.group_of(layer.name).layers
