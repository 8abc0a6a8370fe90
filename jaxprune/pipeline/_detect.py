"""What `detect` does: annotated pictures, text and JSON for any images."""

import dataclasses
import itertools
import os
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxprune import checkpoint, data, evaluation, models, progress
from jaxprune.errors import UserError
from jaxprune.files import Path, write_bytes, write_json, write_text
from jaxprune.pipeline import _evaluate
from jaxprune.pipeline._evaluate import NmsSettings
from jaxprune.report import drawing


@dataclasses.dataclass(frozen=True)
class _Frame:
    """One image as read (BGR) and as the network sees it."""

    path: pathlib.Path
    original: np.ndarray
    letterboxed: np.ndarray
    gain: float
    pad: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class _Frames:
    """A batch of equally large frames, as `evaluation.collect` wants it; `indices` are places in the batch."""

    valid: np.ndarray
    indices: np.ndarray
    sizes: np.ndarray
    gains: np.ndarray
    pads: np.ndarray


def detect(
    path: Path,
    source: Path | Sequence[Path],
    output: Path,
    *,
    image_size: int = 640,
    conf: float = 0.25,
    iou: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    batch: int = 32,
) -> dict[str, Any]:
    """Finds objects in images.

    Args:
      path: model directory.
      source: images, or folders of images.
      output: directory for the annotated pictures, `labels/NAME.txt` (class cx cy w h confidence, 0..1 of the image)
        and `detections.json`.
      image_size: longer side that the network sees, in pixels.
      conf: lowest confidence of a detection.
      iou: above it, the less confident of two boxes goes.
      classes: only these.
      agnostic: suppress across classes.
      batch: images per program call.

    Returns:
      `path`, `images` (how many), `detections` (how many), `classes` (class name -> how many).

    Pictures of one name from several folders get different names: `x.jpg`, `x-2.jpg`.

    Raises:
      UserError: for a source that is missing, holds no image or cannot be read, a class that the model does not have,
        and an output that would overwrite a source.
    """
    settings = NmsSettings(
        conf=conf, iou=iou, multi_label=False, agnostic=agnostic, classes=None if classes is None else tuple(classes)
    )
    files = find_images([source] if isinstance(source, str | os.PathLike) else source)
    model, variables = checkpoint.load(path)
    models.check_size(model.spec, image_size, image_size)
    _evaluate.check_batch(batch)
    target = pathlib.Path(output)
    pictures = _pictures(files, target)
    records: list[dict[str, Any]] = []
    with progress.bar('detect', len(files), unit='images') as advance:
        for frames in _batches(files, image_size, model.spec.max_stride, _evaluate.device_batch(batch)):
            for frame, found in zip(frames, run(model, variables, frames, settings, batch), strict=True):
                records.append(_write(pictures[frame.path], target, frame, found, model.spec.classes))
                advance()
    records.sort(key=lambda record: record['image'])
    write_json(target / 'detections.json', records)
    counts: dict[str, int] = defaultdict(int)
    for record in records:
        for row in record['detections']:
            counts[row['name']] += 1
    return {'path': str(target), 'images': len(files), 'detections': sum(counts.values()), 'classes': dict(counts)}


def find_images(sources: Sequence[Path]) -> list[pathlib.Path]:
    """Image files that the sources name or hold, sorted."""
    files: list[pathlib.Path] = []
    for source in map(pathlib.Path, sources):
        if source.is_dir():
            files += [file for file in sorted(source.iterdir()) if data.is_image(file)]
        elif source.is_file():
            files.append(source)
        else:
            raise UserError(f'{source}: no such image or folder')
    if not files:
        raise UserError(f'{", ".join(map(str, sources))}: holds no image that can be read')
    return list(dict.fromkeys(files))


def _pictures(files: Sequence[pathlib.Path], target: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
    """Where the annotated picture of every source goes; the stems differ, as they name the label files too."""
    taken: set[str] = set()
    pictures: dict[pathlib.Path, pathlib.Path] = {}
    for file in files:
        stems = (file.stem if number == 1 else f'{file.stem}-{number}' for number in itertools.count(1))
        stem = next(stem for stem in stems if stem.lower() not in taken)  # some file systems ignore case
        taken.add(stem.lower())
        pictures[file] = target / f'{stem}{_suffix(file)}'
    sources = {file.resolve() for file in files}
    lost = next((picture for picture in pictures.values() if picture.resolve() in sources), None)
    if lost is not None:
        raise UserError(f'{lost}: is one of the source images and would be overwritten; name another output directory')
    return pictures


def _suffix(file: pathlib.Path) -> str:
    """The suffix itself, or `.png` where pictures cannot be written in that format."""
    import cv2

    return file.suffix if file.suffix and cv2.haveImageWriter(file.name) else '.png'


def _batches(files: Sequence[pathlib.Path], size: int, stride: int, batch: int) -> Iterator[list[_Frame]]:
    """Frames of one shape at a time, in as few compiled shapes as the images allow."""
    waiting: dict[tuple[int, ...], list[_Frame]] = defaultdict(list)
    for file in files:
        frame = read_frame(file, size, stride)
        group = waiting[frame.letterboxed.shape]
        group.append(frame)
        if len(group) == batch:
            yield waiting.pop(frame.letterboxed.shape)
    yield from waiting.values()


def read_frame(file: pathlib.Path, size: int, stride: int) -> _Frame:
    """An image, letterboxed to the smallest rectangle that the stride divides."""
    original = data.read_image(file)
    boxed, gain, pad = data.letterbox(original, (size, size), auto=True, stride=stride)
    return _Frame(file, original, boxed, gain, pad)


def run(
    model: models.Detector,
    variables: models.Variables,
    frames: Sequence[_Frame],
    settings: NmsSettings,
    batch: int,
) -> list[evaluation.Predictions]:
    """Detections of equally shaped frames, image by image, in original pixels."""
    rows = _evaluate.device_batch(batch)
    images = np.zeros((rows, *frames[0].letterboxed.shape), np.uint8)
    images[: len(frames)] = np.stack([frame.letterboxed[..., ::-1] for frame in frames])
    fill = rows - len(frames)
    geometry = _Frames(
        valid=np.arange(rows) < len(frames),
        indices=np.arange(rows),
        sizes=np.array([frame.original.shape[:2] for frame in frames] + [(1, 1)] * fill),
        gains=np.array([frame.gain for frame in frames] + [1.0] * fill, np.float32),
        pads=np.array([frame.pad for frame in frames] + [(0.0, 0.0)] * fill, np.float32),
    )
    found = evaluation.collect(_evaluate.find(model, variables, images, settings=settings), geometry)
    ends = np.searchsorted(found.images, np.arange(len(frames) + 1))
    return [
        evaluation.Predictions(*(column[ends[i] : ends[i + 1]] for column in vars(found).values()))
        for i in range(len(frames))
    ]


def annotate(frame: _Frame, found: evaluation.Predictions, classes: Sequence[str]) -> np.ndarray:
    """The image with its detections drawn in, BGR."""
    return drawing.draw_detections(frame.original, found.boxes_xyxy, found.classes, found.scores, names=classes)


def encode(image: np.ndarray, suffix: str) -> bytes:
    """A BGR image in a file format."""
    import cv2

    return cv2.imencode(suffix, image)[1].tobytes()


def _write(
    picture: pathlib.Path, target: pathlib.Path, frame: _Frame, found: evaluation.Predictions, classes: Sequence[str]
) -> dict[str, Any]:
    height, width = frame.original.shape[:2]
    write_bytes(picture, encode(annotate(frame, found, classes), picture.suffix))
    left, top, right, bottom = (found.boxes_xyxy / np.array([width, height, width, height], np.float32)).T
    rows = np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, found.scores], axis=1)
    lines = (
        f'{klass} ' + ' '.join(f'{value:.6g}' for value in row) + '\n'
        for klass, row in zip(found.classes.tolist(), rows.tolist(), strict=True)
    )
    write_text(target / 'labels' / f'{picture.stem}.txt', ''.join(lines))
    return {
        'image': str(frame.path),
        'picture': picture.name,
        'detections': [
            {'class': klass, 'name': classes[klass], 'score': score, 'box_xyxy': box}
            for klass, score, box in zip(
                found.classes.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist(), strict=True
            )
        ],
    }
