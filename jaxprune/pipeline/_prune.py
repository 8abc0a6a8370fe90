"""What `prune` and `plan` do, and `jaxprune.prune`."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from jaxprune import checkpoint, models, pruning
from jaxprune.errors import UserError
from jaxprune.files import Path
from jaxprune.pipeline._model import summary
from jaxprune.pruning import Plan

Rates = Mapping[int | str, float]


def prune(
    model: models.Detector,
    variables: models.Variables,
    layers: Rates | Plan,
    *,
    criterion: str = 'l2',
    seed: int = 0,
    min_channels: int | None = None,
    round_to: int | None = None,
) -> tuple[models.Detector, models.Variables]:
    """Removes filters, and everything that read them.

    Of a layer with C filters, `ceil(rate·C/2)·2` go, those with the lowest scores; layers follow one another in index
    order, and each is ranked on what the ones before it left (Pavlitska et al., IJCNN 2024).

    Args:
      model: what `create` or `load` returned.
      variables: its variables.
      layers: layer index (in published order), name or PyTorch name -> rate from 0 to below 1; or a plan.
      criterion: `l2`, `l1`, `l2-largest`, `l1-largest`, `bn`, `bn-l1` or `random`.
      seed: for `random`.
      min_channels: every layer keeps at least as many filters.
      round_to: round the number of kept filters up to a multiple.

    Returns:
      A smaller model and its variables.

    Raises:
      UserError: for a layer that does not exist or is a head, a rate out of range or one that leaves no filter, and a
        criterion that needs batch normalisation where there is none.
    """
    if not isinstance(layers, Plan):
        layers = pruning.plan_rates(
            models.connectivity(model.spec),
            variables,
            layers,
            criterion=criterion,
            seed=seed,
            min_channels=min_channels,
            round_to=round_to,
            aliases=aliases(model.spec),
        )
    return apply_plan(model, variables, layers)


def apply_plan(
    model: models.Detector, variables: models.Variables, plan: Plan
) -> tuple[models.Detector, models.Variables]:
    """The model without what the plan removes."""
    plan = plan.on(models.connectivity(model.spec))
    spec = model.spec.resize(pruning.widths(plan))
    return models.Detector(spec), pruning.slice_variables(variables, plan)


def aliases(spec: models.ArchSpec) -> dict[str, str]:
    """PyTorch name -> name, of every layer."""
    return {node.pytorch_name: node.name for node in spec.layers}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruned:
    """What `prune_model` did: the plan's rows, and the model's cost before and after."""

    path: str
    rows: tuple[pruning.Row, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]


def prune_model(
    path: Path,
    output: Path,
    *,
    layers: str | None = None,
    rate: float | None = None,
    plan: Path | None = None,
    exclude: Iterable[str] = (),
    **options: Any,
) -> Pruned:
    """Prunes a model directory into another one, with its plan in the metadata.

    Args:
      path: the model.
      output: directory to write.
      layers: rates as text, `8:0.5,18:0.5`.
      rate: or one rate for every layer that can be pruned.
      plan: or a file with a plan, rates or kept filters.
      exclude: patterns of layers to keep whole.
      **options: criterion, seed, min_channels, round_to, as in `prune`.

    Raises:
      UserError: see `prune`; nothing is written.
    """
    model, variables = checkpoint.load(path)
    graph = models.connectivity(model.spec)
    names = aliases(model.spec)
    if plan is not None:
        found = pruning.read_plan(plan, graph, variables, exclude=exclude, aliases=names, **options)
    else:
        rates = parse_rates(layers) if layers is not None else pruning.uniform_rates(graph, rate or 0.0, aliases=names)
        found = pruning.plan_rates(graph, variables, rates, exclude=exclude, aliases=names, **options)
    small, values = apply_plan(model, variables, found)
    metadata = checkpoint.load_metadata(path)
    history = [*metadata.get('plans', []), found.to_json()]
    checkpoint.save(small, values, output, metadata={**metadata, 'plans': history})
    return Pruned(
        path=str(output),
        rows=tuple(found.rows()),
        before=_cost(model, variables, path),
        after=_cost(small, values, output),
    )


def _cost(model: models.Detector, variables: models.Variables, path: Path) -> dict[str, Any]:
    size = -(-640 // model.spec.max_stride) * model.spec.max_stride
    return {**summary(model, variables, path), 'gflops': models.count(model, variables, size).gflops}


def parse_rates(text: str) -> Rates:
    """`8:0.5,model.24:0.25` as a mapping."""
    rates: dict[int | str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(','))):
        layer, _, rate = entry.rpartition(':')
        key = int(layer) if layer.isascii() and layer.isdecimal() else layer
        try:
            value = float(rate)
        except ValueError:
            raise UserError(f'{entry!r} is not LAYER:RATE, such as 8:0.5') from None
        if not layer:
            raise UserError(f'{entry!r} is not LAYER:RATE, such as 8:0.5')
        if rates.setdefault(key, value) != value:
            raise UserError(f'layer {layer} is given two rates, {rates[key]} and {value}')
    if not rates:
        raise UserError(f'{text!r} names no layer; write LAYER:RATE,..., such as 8:0.5,18:0.5')
    return rates


def plan_rows(path: Path) -> list[dict[str, Any]]:
    """A plan file, or what was done to a pruned model, as a table: channels kept per layer, or rates."""
    if checkpoint.is_model(path):
        return [dataclasses.asdict(row) for row in _plan_of(path).rows()]
    plain = pruning.read_json(path)
    if isinstance(plain, list) or (isinstance(plain, Mapping) and plain.get('kind') == 'rates'):
        try:
            return [{'layer': layer, 'rate': rate} for layer, rate in pruning.rates_from_json(plain).items()]
        except UserError as error:
            raise UserError(f'{path}: {error}') from error
    if isinstance(plain, Mapping) and plain and all(isinstance(kept, list) for kept in plain.values()):
        return [{'layer': layer, 'kept': len(kept), 'keep': kept} for layer, kept in plain.items()]
    return [dataclasses.asdict(row) for row in Plan.read(path).rows()]


def plan_diff(first: Path, second: Path) -> list[dict[str, Any]]:
    """Layers that two plans (or pruned models) treat differently."""
    before, after = (_plan_of(path) for path in (first, second))
    return [dataclasses.asdict(difference) for difference in before.diff(after)]


def _plan_of(path: Path) -> Plan:
    """A plan file, or everything that was ever removed from a model."""
    if not checkpoint.is_model(path):
        return Plan.read(path)
    plans = checkpoint.load_metadata(path).get('plans', [])
    return functools.reduce(Plan.then, map(Plan.from_json, plans), Plan())
