"""What `scan` and `select` do."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxprune import checkpoint, data, graph, models, pruning, sensitivity
from jaxprune.errors import UserError
from jaxprune.files import Path
from jaxprune.pipeline._evaluate import NmsSettings
from jaxprune.pipeline._prune import aliases
from jaxprune.pipeline._scan_detection import DetectionScan


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanSettings:
    """What is scanned, and on what.

    Attributes:
      rates: shares of a layer's filters.
      layers: only these layers (index or name); None: all.
      exclude: patterns of layers that are left out.
      criterion, seed: which filters go first.
      split, image_size, batch: the images.
      images: only so many of them, drawn with `seed`; None: all.
      intervals: whether rows have confidence intervals; None: where not all images are measured.
      conf, iou: how detections are made.
    """

    rates: Sequence[float] = (0.25, 0.5, 0.75)
    layers: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    criterion: str = 'l2'
    seed: int = 0
    split: str = 'val'
    image_size: int = 640
    batch: int = 32
    images: int | None = None
    intervals: bool | None = None
    conf: float = 0.001
    iou: float = 0.65


def scan(
    path: Path, data_file: Path, output: Path, *, share: sensitivity.Share | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Measures every (layer, rate) on a data set, into a table that goes on where it stopped; returns its rows.

    `options` are those of `ScanSettings`; `share` is that of this process, where several share the table.
    """
    settings = ScanSettings(**options)
    task, plans = _prepare(path, data_file, settings)
    wanted = settings.images is not None if settings.intervals is None else settings.intervals
    return scan_model(
        task,
        output,
        plans,
        ranking=(settings.criterion, settings.seed),
        share=share,
        intervals=sensitivity.Intervals() if wanted else None,
    )


def estimate(path: Path, data_file: Path, **options: Any) -> sensitivity.Estimate:
    """How long `scan` will take and how much memory, from one batch; `options` are those of `ScanSettings`."""
    task, plans = _prepare(path, data_file, ScanSettings(**options))
    candidates = task.candidates(plans)
    batches = task.batches
    return sensitivity.estimate(task.scanned, candidates, batches=batches, metric=task.metric, sizes=batches.sizes)


def _prepare(path: Path, data_file: Path, settings: ScanSettings) -> tuple[DetectionScan, 'Plans']:
    model, variables = checkpoint.load(path)
    dataset = data.load_dataset(str(data_file), settings.split)
    if settings.images is not None:
        dataset = _drawn(dataset, settings.images, settings.seed)
    plans = plan_cells(
        model,
        variables,
        settings.rates,
        layers=settings.layers,
        exclude=settings.exclude,
        criterion=settings.criterion,
        seed=settings.seed,
    )
    nms = NmsSettings(conf=settings.conf, iou=settings.iou)
    return DetectionScan(model, variables, dataset, settings.image_size, settings.batch, nms), plans


def _drawn(dataset: data.DetectionDataset, images: int, seed: int) -> data.DetectionDataset:
    """So many images of a data set, in their order."""
    if not 1 <= images <= len(dataset):
        raise UserError(
            f'{images} images: {dataset.file} has {len(dataset)} in {dataset.split}; give 1 to {len(dataset)}'
        )
    return dataset.subset(np.sort(np.random.default_rng(seed).permutation(len(dataset))[:images]))


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
    task: DetectionScan,
    output: Path,
    plans: Plans,
    *,
    ranking: tuple[str, int],
    share: sensitivity.Share | None = None,
    intervals: sensitivity.Intervals | None = None,
) -> list[dict[str, Any]]:
    """`scan` of a model at hand.

    `ranking` is the criterion and the seed that made the plans: a table measured with others is not gone on with.
    """
    ranked = ranking if ranking[0] == 'random' else ranking[:1]
    batches = task.batches  # refuses what does not fit before there is a table
    table = sensitivity.Table(output, task.digest(*ranked, repr(intervals)), share=share)
    try:
        return sensitivity.scan(
            task.scanned,
            task.candidates(plans),
            batches=batches,
            metric=task.metric,
            table=table,
            intervals=intervals,
        )
    finally:
        table.close()


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
