"""What `val` does: a model's detections on a data set, and their metrics."""

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from jaxprune import checkpoint, data, detection, evaluation, files, models, progress
from jaxprune.errors import UserError
from jaxprune.files import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class NmsSettings:
    """Options of `detection.nms`, as the PyTorch YOLOv7 evaluates."""

    conf: float = 0.001
    iou: float = 0.65
    multi_label: bool = True
    agnostic: bool = False
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in (('confidence', self.conf), ('IoU', self.iou)):
            if not 0 <= value <= 1:
                raise UserError(f'{name} threshold {value}: expected a number from 0 to 1')


@functools.partial(jax.jit, static_argnames=('model', 'settings'))
def find(
    model: models.Detector, variables: models.Variables, images: UInt8[Array, 'b h w 3'], *, settings: NmsSettings
) -> detection.Detections:
    """Detections in a batch of images, in their own pixels."""
    decoded = models.decoded(model, variables, images.astype(jnp.float32) / 255)
    return detection.nms(decoded, **nms_options(settings))


ORIGINAL = NmsSettings()
"""How the PyTorch YOLOv7 evaluates."""


def nms_options(settings: NmsSettings) -> dict[str, Any]:
    """The settings as keyword arguments of `detection.nms`."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def device_batch(batch: int) -> int:
    """Rows per program call: on a CPU small batches stay in its caches."""
    return min(batch, 4) if jax.devices()[0].platform == 'cpu' else batch


def open_batches(
    dataset: data.DetectionDataset,
    spec: models.ArchSpec,
    image_size: int,
    batch: int,
    *,
    devices: int = 1,
    shuffle: int | None = None,
    keep_bytes: int | None = data.KEEP_BYTES,
) -> data.EvalBatches:
    """Rectangular batches for a model, checked against its classes; each with the rows of all devices.

    `shuffle` and `keep_bytes` as in `data.EvalBatches`.

    Raises:
      UserError: where data set and model have different numbers of classes, or the stride does not divide the size.
    """
    check_classes(dataset, spec)
    models.check_size(spec, image_size, image_size)
    check_batch(batch)
    return data.EvalBatches(
        dataset,
        image_size,
        batch=device_batch(batch) * devices,
        group=batch,
        stride=spec.max_stride,
        shuffle=shuffle,
        keep_bytes=keep_bytes,
    )


def check_batch(batch: int) -> None:
    """Raises `UserError` where there would be no image in a batch."""
    if batch < 1:
        raise UserError(f'batch size {batch}: it must be 1 or more')


def check_classes(dataset: data.DetectionDataset, spec: models.ArchSpec) -> None:
    """Raises `UserError` where data set and model have different numbers of classes."""
    if dataset.classes != len(spec.classes):
        raise UserError(
            f'{dataset.file}: has {dataset.classes} classes, the model {len(spec.classes)}; use a fitting one'
        )


def targets(dataset: data.DetectionDataset, image_size: int) -> evaluation.Targets:
    """The labels as the metric reads them."""
    return evaluation.Targets(*data.label_boxes(dataset, image_size))


def predictions(
    model: models.Detector,
    variables: models.Variables,
    batches: data.EvalBatches,
    settings: NmsSettings,
    *,
    show: bool = True,
) -> evaluation.Predictions:
    """Detections of a whole data set, in original pixels."""
    parts: list[evaluation.Predictions] = []
    waiting: list[tuple[data.EvalBatch, detection.Detections]] = []
    with _progress(len(batches), show) as advance:
        for batch in batches:
            waiting.append((batch, find(model, variables, batch.images, settings=settings)))
            if len(waiting) > 1:  # the device computes one batch while the host reads the one before
                parts.append(_collect(*waiting.pop(0)))
            advance()
        parts += [_collect(*pair) for pair in waiting]
    return evaluation.concatenate(parts)


def _progress(total: int, show: bool) -> Any:
    return progress.bar('evaluate', total, unit='batches') if show else progress.silent()


def _collect(batch: data.EvalBatch, found: detection.Detections) -> evaluation.Predictions:
    return evaluation.collect(found, batch)


def evaluate(
    model: models.Detector,
    variables: models.Variables,
    dataset: data.DetectionDataset,
    *,
    image_size: int = 640,
    batch: int = 32,
    settings: NmsSettings = ORIGINAL,
) -> dict[str, Any]:
    """P, R and mAP by the PyTorch YOLOv7's own metric and by pycocotools.

    Returns:
      `precision`, `recall`, `map50`, `map50_95`, `per_class_map50_95`, `coco_map50_95`, `coco_map50`, `coco` (all
      twelve figures), `images`, `seconds`.
    """
    start = time.perf_counter()
    batches = open_batches(dataset, model.spec, image_size, batch, keep_bytes=None)
    found = predictions(model, variables, batches, settings)
    own = evaluation.detection_metrics(found, targets(dataset, image_size), dataset.classes)
    coco = evaluation.coco_metrics(dataset, found)
    return {
        **metric_columns(own),
        'coco_map50_95': coco.map50_95,
        'coco_map50': coco.map50,
        'coco': dataclasses.asdict(coco),
        'images': len(dataset),
        'seconds': time.perf_counter() - start,
    }


COLUMNS = ('precision', 'recall', 'map50', 'map50_95', 'per_class_map50_95')


def metric_columns(metrics: evaluation.DetectionMetrics) -> dict[str, Any]:
    """The figures that rows of results share."""
    return {name: value for name, value in metrics.to_json().items() if name in COLUMNS}


def val(
    path: Path,
    data_file: Path,
    *,
    split: str = 'val',
    image_size: int = 640,
    batch: int = 32,
    conf: float = 0.001,
    iou: float = 0.65,
) -> dict[str, Any]:
    """`evaluate` of a model directory on a data set file."""
    settings = NmsSettings(conf=conf, iou=iou)
    model, variables = checkpoint.load(path)
    dataset = data.load_dataset(str(data_file), split)
    return evaluate(model, variables, dataset, image_size=image_size, batch=batch, settings=settings)


def dataset_digest(dataset: data.DetectionDataset) -> Iterable[Any]:
    """What a result depends on in a data set: its images, byte by byte, their names, sizes and labels."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        contents = list(threads.map(files.file_digest, dataset.images))
    return [[path.name for path in dataset.images], contents, dataset.sizes, list(dataset.labels), list(dataset.names)]
