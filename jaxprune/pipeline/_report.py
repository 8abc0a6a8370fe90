"""From the files of a run to its report."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxprune import checkpoint, evaluation, models, report, sensitivity
from jaxprune.pipeline import _detect
from jaxprune.pipeline._evaluate import NmsSettings
from jaxprune.pipeline._run import Run, read
from jaxprune.report import drawing

PICTURES = 4
READABLE = 512  # pixels
_NMS = NmsSettings(conf=0.25, iou=0.45, multi_label=False)


def write(run: Run, iterations: int) -> pathlib.Path:
    """Writes `report.html` about the start and the first `iterations` iterations; returns its path."""
    start = read(run.file(0, 'metrics.json'))
    summary = report.RunSummary(
        title=f'{checkpoint.load(run.file(0, "model"))[0].spec.name} on {run.val.file.stem}',
        settings=_settings(run),
        baseline=report.Metrics(
            map50_95=start['map50_95'],
            map50=start['map50'],
            parameters=start['parameters_published'],
            gflops=start['gflops'],
        ),
        iterations=tuple(_iteration(run, number) for number in range(1, iterations + 1)),
        pictures=_pictures(run, iterations) if iterations else (),
    )
    return report.write_report(summary, run.path / 'report.html')


def _settings(run: Run) -> dict[str, str]:
    """The settings that were given, in words."""
    plain = dataclasses.asdict(run.settings)
    given = {key: value for key, value in plain.items() if value is not None and value != ()}
    return {
        key.replace('_', ' '): ', '.join(map(str, value)) if isinstance(value, tuple) else str(value)
        for key, value in given.items()
    }


def _iteration(run: Run, number: int) -> report.IterationSummary:
    before, after = (read(run.file(number, name)) for name in ('pruned.json', 'metrics.json'))
    names = tuple(layer.pytorch_name for layer in checkpoint.load(run.file(number, 'model'))[0].spec.layers)
    chosen = read(run.file(number, 'rates.json'))['layers']
    return report.IterationSummary(
        index=number,
        map50_95_before_finetuning=before['map50_95'],
        map50_95_after=after['map50_95'],
        map50_before_finetuning=before['map50'],
        map50_after=after['map50'],
        parameters=after['parameters_published'],
        gflops=after['gflops'],
        chosen=tuple(
            report.ChosenLayer(
                layer=row['layer'], name=names[row['layer']], rate=row['rate'], chosen_for=row['chosen_for']
            )
            for row in chosen
        ),
        sensitivity=tuple(sensitivity.read_rows(run.file(number, 'scan.jsonl'))),
        layer_names=names,
    )


def _pictures(run: Run, iterations: int) -> tuple[report.Picture, ...]:
    """The same images through the first and the last model."""
    count = min(PICTURES, len(run.val))
    files = [run.val.images[index] for index in np.linspace(0, len(run.val) - 1, count).round().astype(int)]
    before, after = (
        _drawn(*checkpoint.load(run.file(number, 'model')), files, run.settings.image_size)
        for number in (0, iterations)
    )
    return tuple(
        report.Picture(caption=file.name, before=first, after=last)
        for file, first, last in zip(files, before, after, strict=True)
    )


def _drawn(
    model: models.Detector, variables: models.Variables, files: list[pathlib.Path], image_size: int
) -> list[bytes]:
    pictures = []
    for file in files:
        frame = _detect.read_frame(file, image_size, model.spec.max_stride)
        (found,) = _detect.run(model, variables, [frame], _NMS, 1)
        pictures.append(_detect.encode(_enlarged(frame.original, found, model.spec.classes), '.jpg'))
    return pictures


def _enlarged(image: np.ndarray, found: evaluation.Predictions, classes: Sequence[str]) -> np.ndarray:
    """The image with its detections; a small one is enlarged first, so that labels do not hide it."""
    times = max(1, round(READABLE / max(image.shape[:2])))
    large = image.repeat(times, axis=0).repeat(times, axis=1)
    return drawing.draw_detections(large, found.boxes_xyxy * times, found.classes, found.scores, names=classes)
