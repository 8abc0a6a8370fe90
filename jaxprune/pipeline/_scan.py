"""What `scan` does."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from jaxprune import checkpoint, data, sensitivity
from jaxprune.errors import UserError
from jaxprune.files import Path
from jaxprune.pipeline._cells import Plans, plan_cells
from jaxprune.pipeline._evaluate import NmsSettings
from jaxprune.pipeline._scan_detection import DetectionScan, Measured, drawn
from jaxprune.pipeline._scan_preview import gates
from jaxprune.pipeline._select import RESAMPLED, SelectSettings

PREVIEWED = 32
"""Images that a preview looks at."""


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
      measured: `map` (P, R and mAP), `loss` (that of training) or `distance` (to the outputs of the unpruned model).
      ordered: whether cells that promise most are measured first, by a preview on `PREVIEWED` images.
      intervals: whether rows have confidence intervals; None: where not all images are measured.
      racing: stops cells that `select` will not choose, at this confidence, such as 0.95; None: measures all.
      select: what `select` will be asked for, in a race.
      memory: most GB that the process may hold or, where there are accelerators, each of these; None: no limit.
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
    measured: Measured = 'map'
    ordered: bool = False
    intervals: bool | None = None
    racing: float | None = None
    select: SelectSettings = dataclasses.field(default_factory=SelectSettings)
    memory: float | None = None
    conf: float = 0.001
    iou: float = 0.65


def scan(
    path: Path, data_file: Path, output: Path, *, share: sensitivity.Share | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Measures every (layer, rate) on a data set, into a table that goes on where it stopped; returns its rows.

    `options` are those of `ScanSettings`; `share` is that of this process, where several share the table.
    """
    settings = ScanSettings(**options)
    task, plans, asked = _prepare(path, data_file, settings)
    return scan_model(
        task,
        output,
        plans,
        ranking=(settings.criterion, settings.seed),
        ordered=settings.ordered,
        share=share,
        **asked,
    )


def race(
    task: DetectionScan, selection: SelectSettings, confidence: float | None, seed: int
) -> sensitivity.Racing | None:
    """When cells are stopped that this selection will not choose; None: never."""
    if confidence is None:
        return None
    if task.measured != 'map':
        raise UserError(f'layers are chosen by mAP: a race cannot measure the {task.measured}; measure the map')
    return selection.racing(task.cost(), confidence=confidence, seed=seed)


def preview(path: Path, data_file: Path, **options: Any) -> list[dict[str, Any]]:
    """What the derivative of the training loss says that every cell costs, without measuring any.

    Of `options`, those of `ScanSettings`, `images` says how many are looked at (`PREVIEWED`).

    Returns:
      For every cell `layer`, `rate`, `taylor`, `fisher` (see `sensitivity.preview`), `parameters_published` and
      `gflops`, in the order in which they promise most.
    """
    settings = ScanSettings(**options)
    task, plans, _ = _prepare(path, data_file, dataclasses.replace(settings, images=None))
    candidates = task.candidates(plans)
    images = PREVIEWED if settings.images is None else settings.images
    rows = sensitivity.preview(candidates, gates(task, images, seed=settings.seed))
    found = {(row['layer'], row['rate']): row for row in rows}
    return [found[candidate.key] for candidate in sensitivity.order(candidates, rows)]


def estimate(
    path: Path, data_file: Path, *, share: sensitivity.Share | None = None, **options: Any
) -> sensitivity.Estimate:
    """How long `scan` will take, with reading the model, and how much memory, from one batch.

    `options` are those of `ScanSettings`; of a race it is what the whole table would need. `share` is that of this
    process, where several share the table.
    """
    start = time.perf_counter()
    task, plans, asked = _prepare(path, data_file, ScanSettings(**options))
    candidates = task.candidates(plans)
    if share is not None:
        candidates = candidates[share.index :: share.count]  # not those of `scan`, but as many
    batches = task.batches
    preparing = time.perf_counter() - start
    found = sensitivity.estimate(
        task.scanned,
        candidates,
        batches=batches,
        metric=task.metric,
        intervals=asked['intervals'],
        sizes=batches.sizes,
        images=len(task.dataset),
        inputs_bytes=min(3 * sum(batches.sizes), data.KEEP_BYTES),
    )
    return dataclasses.replace(found, seconds=found.seconds + preparing)


def _prepare(path: Path, data_file: Path, settings: ScanSettings) -> tuple[DetectionScan, Plans, dict[str, Any]]:
    """What is scanned, its cells, and how: options of `scan_model`, of which all commands refuse the same."""
    memory = sensitivity.checked_memory(None if settings.memory is None else settings.memory * 1e9)
    model, variables = checkpoint.load(path)
    dataset = data.load_dataset(str(data_file), settings.split)
    if settings.images is not None:
        dataset = drawn(dataset, settings.images, settings.seed)
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
    shuffle = None if settings.racing is None else settings.seed
    given = (model, variables, dataset, settings.image_size, settings.batch, nms)
    task = DetectionScan(*given, shuffle=shuffle, measured=settings.measured)
    racing = race(task, settings.select, settings.racing, settings.seed)
    return task, plans, {'intervals': _intervals(settings), 'racing': racing, 'memory': memory}


def _intervals(settings: ScanSettings) -> sensitivity.Intervals | None:
    """Those that rows will have."""
    wanted = (settings.images or 1) > 1 if settings.intervals is None else settings.intervals
    kept = (RESAMPLED,) if settings.measured == 'map' else ()
    return sensitivity.Intervals(keep=kept) if wanted else None


def scan_model(
    task: DetectionScan,
    output: Path,
    plans: Plans,
    *,
    ranking: tuple[str, int],
    ordered: bool = False,
    share: sensitivity.Share | None = None,
    intervals: sensitivity.Intervals | None = None,
    racing: sensitivity.Racing | None = None,
    memory: int | None = None,
) -> list[dict[str, Any]]:
    """`scan` of a model at hand.

    `ranking` is the criterion and the seed that made the plans: a table measured with others is not gone on with.
    """
    ranked = ranking if ranking[0] == 'random' else ranking[:1]
    batches = task.batches  # refuses what does not fit before there is a table
    candidates = task.candidates(plans)
    table = sensitivity.Table(output, task.digest(*ranked, repr(intervals), repr(racing)), share=share)
    try:
        if ordered and any(candidate.key not in table for candidate in candidates):
            candidates = sensitivity.order(candidates, sensitivity.preview(candidates, gates(task, PREVIEWED)))
        return sensitivity.scan(
            task.scanned,
            candidates,
            batches=batches,
            metric=task.metric,
            table=table,
            intervals=intervals,
            racing=racing,
            memory=memory,
        )
    finally:
        table.close()
