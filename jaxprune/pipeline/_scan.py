"""What `scan` and `select` do."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from jaxprune import checkpoint, data, detection, evaluation, graph, models, pruning, sensitivity
from jaxprune.errors import UserError
from jaxprune.files import Path
from jaxprune.pipeline import _evaluate
from jaxprune.pipeline._evaluate import ORIGINAL, NmsSettings
from jaxprune.pipeline._prune import aliases


def scan(
    path: Path,
    data_file: Path,
    output: Path,
    *,
    rates: Sequence[float] = (0.25, 0.5, 0.75),
    layers: Sequence[str] | None = None,
    exclude: Iterable[str] = (),
    criterion: str = 'l2',
    seed: int = 0,
    split: str = 'val',
    image_size: int = 640,
    batch: int = 32,
    conf: float = 0.001,
    iou: float = 0.65,
) -> list[dict[str, Any]]:
    """Measures every (layer, rate) on a data set, into a table that goes on where it stopped; returns its rows."""
    model, variables = checkpoint.load(path)
    dataset = data.load_dataset(str(data_file), split)
    settings = NmsSettings(conf=conf, iou=iou)
    plans = plan_cells(model, variables, rates, layers=layers, exclude=exclude, criterion=criterion, seed=seed)
    return scan_model(
        model,
        variables,
        dataset,
        output,
        plans,
        ranking=(criterion, seed),
        width=len(set(rates)),
        image_size=image_size,
        batch=batch,
        settings=settings,
    )


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
    connections = models.connectivity(model.spec)
    names = aliases(model.spec)
    uniform = pruning.uniform_rates(connections, 0.0, exclude=exclude, aliases=names)
    if layers is not None:
        asked = [pruning.find_layer(connections, _key(layer), names) for layer in layers]
        pruning.plan_rates(connections, variables, {layer.index: 0.0 for layer in asked}, criterion=criterion)
        lowest = {min(pruning.find_layer(connections, name).index for name in _members(connections, a)) for a in asked}
        uniform = {index: rate for index, rate in uniform.items() if index in lowest}
    if not uniform or not rates:
        raise UserError('no layer or no rate is left to scan; name fewer patterns to exclude')
    wrong = [rate for rate in rates if not 0 < rate < 1]
    if wrong:
        raise UserError(f'rate {wrong[0]} is out of range: a scan needs rates above 0 and below 1')
    ranking: dict[str, Any] = {'criterion': criterion, 'seed': seed}
    cells: Plans = {(None, 0): pruning.Plan().on(connections)}
    for index in sorted(int(index) for index in uniform):
        channels = connections.group_of(connections.layers[index].name).channels
        for rate in dict.fromkeys(rates):
            if pruning.removed_filters(channels, rate) < channels:
                cells[index, rate] = pruning.plan_rates(connections, variables, {index: rate}, **ranking)
    if len(cells) == 1:
        raise UserError(f'rates {", ".join(map(str, rates))} leave no filter of any layer: give lower ones')
    return cells


def _members(connections: graph.Graph, layer: graph.LayerInfo) -> tuple[str, ...]:
    return connections.group_of(layer.name).layers


def _key(layer: str | int) -> int | str:
    return int(layer) if isinstance(layer, int) or layer.isdigit() else layer


def scan_model(
    model: models.Detector,
    variables: models.Variables,
    dataset: data.DetectionDataset,
    output: Path,
    plans: Plans,
    *,
    ranking: tuple[str, int],
    width: int,
    image_size: int,
    batch: int,
    settings: NmsSettings = ORIGINAL,
) -> list[dict[str, Any]]:
    """`scan` of a model at hand; `width` candidates go through the network together.

    `ranking` is the criterion and the seed that made the plans: a table measured with others is not gone on with.
    """
    batches = _evaluate.open_batches(dataset, model.spec, image_size, batch)
    ranked = ranking if ranking[0] == 'random' else ranking[:1]
    key = _evaluate.digest(
        repr(model.spec), variables, image_size, batch, repr(settings), *ranked, *_evaluate.dataset_digest(dataset)
    )
    labels = _evaluate.targets(dataset, image_size)

    def predict(masks: sensitivity.Masks, batch: data.EvalBatch) -> detection.Detections:
        return _find_masked(model, variables, masks, batch.images, settings=settings)

    def metric(outputs: list[tuple[data.EvalBatch, detection.Detections]]) -> dict[str, Any]:
        found = evaluation.concatenate([evaluation.collect(one, batch) for batch, one in outputs])
        return _evaluate.metric_columns(evaluation.detection_metrics(found, labels, dataset.classes))

    table = sensitivity.Table(output, key)
    candidates = [_candidate(model.spec, cell, plan, image_size) for cell, plan in plans.items()]
    try:
        sensitivity.scan(candidates, batches=batches, predict=predict, metric=metric, table=table, width=width)
    finally:
        table.close()
    return [table.rows[cell] for cell in plans]


@functools.partial(jax.jit, static_argnames=('model', 'settings'))
def _find_masked(
    model: models.Detector,
    variables: models.Variables,
    masks: dict[str, Array],
    images: UInt8[Array, 'b h w 3'],
    *,
    settings: NmsSettings,
) -> detection.Detections:
    """Detections `[width, b, ...]` of as many masked models as the masks' leading axis is long."""
    pixels = images.astype(jnp.float32) / 255

    def one(masks: dict[str, Array]) -> Array:
        return models.decoded(
            model, {**variables, 'masks': {name: {'input': mask} for name, mask in masks.items()}}, pixels
        )

    decoded = jax.vmap(one)(masks)
    flat = decoded.reshape(-1, *decoded.shape[2:])
    found = detection.nms(flat, **_evaluate.nms_options(settings))
    return jax.tree.map(lambda leaf: leaf.reshape(*decoded.shape[:2], *leaf.shape[1:]), found)


def _candidate(
    spec: models.ArchSpec, cell: tuple[int | None, float], plan: pruning.Plan, image_size: int
) -> sensitivity.Candidate:
    widths = spec.widths()
    full = {layer.name: np.ones(widths[layer.inputs[0]], np.float32) for layer in spec.layers}
    for name, factors in pruning.read_masks(plan).items():
        full[name][: len(factors)] *= factors
    cost = models.spec_cost(spec.resize(pruning.widths(plan)), image_size)
    return sensitivity.Candidate(
        layer=cell[0],
        rate=cell[1],
        masks=full,
        cost={'parameters_published': cost.parameters_published, 'gflops': cost.gflops},
    )


def select(
    table: Path,
    output: Path | None = None,
    *,
    params_layers: int = 6,
    flops_layers: int = 5,
    map_power: float = 20,
    rule: str = 'published',
) -> list[dict[str, Any]]:
    """Chooses layers and rates from a scan; with `output`, writes them as a plan of rates.

    Raises:
      UserError: where the table is missing or not a table, or has no row of the unpruned model.
    """
    baseline, cells = baseline_and_cells(sensitivity.read_rows(table), str(table))
    try:
        choices = pruning.select_layers(
            baseline,
            cells,
            params_layers=params_layers,
            flops_layers=flops_layers,
            map_power=map_power,
            rule=rule,
        )
    except TypeError as error:
        raise UserError(f'{table}: has a row with something else than numbers ({error}); scan again') from error
    if output is not None:
        pruning.write_rates(choices, output)
    return [choice.to_json() for choice in choices]


def baseline_and_cells(rows: Sequence[dict[str, Any]], name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of the unpruned model, and the others."""
    baseline = next((row for row in rows if row['layer'] is None), None)
    if baseline is None:
        raise UserError(f'{name}: has no row of the unpruned model (layer null); finish the scan first')
    return baseline, [row for row in rows if row['layer'] is not None]
