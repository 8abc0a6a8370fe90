"""Does the cost of a scan grow linearly with images and with cells, and is its memory flat in both?

    python benchmarks/scan_growth.py MODEL_DIR DATA.yaml [--img 256] [--images 64 128 256 512]
        [--cells 16 48 96 144 192] [options of `jaxprune scan`]

The images vary at the lowest number of cells, the cells at the lowest number of images; both lines are fitted by least
squares. Every measurement is a fresh process, from its start to the table. One before the first does not count: after
it, all find the same files in memory and the same compiled programs on the disk, where there are any.

Images: those of the split over and over again, as symbolic links; best all of one shape, and whole batches (32), as
a batch that is not full costs as much as a full one.

Cells: always the same layers, evenly spread over the network, at more rates. What a cell computes depends on its layer
alone, so the cost of an average cell is the same for every count. As many layers as divide all the counts.
The unpruned model is a cell of its own, not counted here; it also runs once per group of cells (at most 48, and no
fewer than 16 unless memory is short), which takes about as long as two cells. Cells therefore grow in small steps:
take one group (16 or fewer) where images vary, and multiples of 48 for the cells.

Memory is sampled: anonymous memory (what the program holds), and pages of files (libraries, and images that are mapped
rather than held), which the system takes back when it needs them.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

import jaxprune
from jaxprune import data, models, pruning, sensitivity

SAMPLE_SECONDS = 0.02
TIMES = ('seconds', 'processor_seconds')
MEMORY = ('anonymous_bytes', 'file_bytes', 'peak_bytes')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One process; largest values of each kind of memory, in bytes (None where the system does not say)."""

    images: int
    cells: int
    seconds: float
    processor_seconds: float
    anonymous_bytes: int | None
    file_bytes: int | None
    peak_bytes: int


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        measure = functools.partial(_measure, pathlib.Path(folder), options, _layers(options))
        fewest = min(options.images), min(options.cells)
        measure(*fewest)
        points = sorted({*((n, fewest[1]) for n in options.images), *((fewest[0], n) for n in options.cells)})
        runs = [[measure(*point) for _ in range(options.runs)] for point in points]
    measured = [min(each, key=lambda run: run.seconds) for each in runs]
    fits = {
        axis: {
            name: _line([run for run in measured if getattr(run, other) == fixed], axis, name)
            for name in TIMES + MEMORY
        }
        for axis, other, fixed in (('images', 'cells', fewest[1]), ('cells', 'images', fewest[0]))
    }
    result = {'measurements': [dataclasses.asdict(run) for run in measured], 'fits': fits}
    print(json.dumps(result) if options.json else _text(measured, fits, fewest))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind, allow_abbrev=False)
    parser.add_argument('model', type=pathlib.Path)
    parser.add_argument('data', type=pathlib.Path)
    parser.add_argument('--split', default='val')
    parser.add_argument('--img', type=int, default=256)
    parser.add_argument('--images', type=int, nargs='+', default=[64, 128, 256, 512])
    parser.add_argument('--cells', type=int, nargs='+', default=[16, 48, 96, 144, 192])
    parser.add_argument('--runs', type=int, default=1, help='of each; the fastest one counts (1)')
    parser.add_argument('--json', action='store_true')
    options, further = parser.parse_known_args(arguments)
    return argparse.Namespace(**vars(options), further=further)


def _layers(options: argparse.Namespace) -> list[int]:
    """Layers that are pruned, evenly spread; their number divides all numbers of cells."""
    jax.config.update('jax_platforms', 'cpu')  # an accelerator is left to the processes that are measured
    model, _ = jaxprune.load(options.model)
    layers = sorted(int(index) for index in pruning.uniform_rates(models.connectivity(model.spec), 0.0))
    common = math.gcd(*options.cells)
    count = max(number for number in range(1, len(layers) + 1) if common % number == 0)
    return [layers[round(place)] for place in np.linspace(0, len(layers) - 1, count)]


def _measure(
    work: pathlib.Path, options: argparse.Namespace, layers: Sequence[int], images: int, cells: int
) -> Measurement:
    file = work / f'{images}.yaml'
    if not file.exists():
        _repeat(data.load_dataset(str(options.data), options.split), images, file)
    table = work / 'scan.jsonl'
    table.unlink(missing_ok=True)
    rates = np.linspace(0.05, 0.75, cells // len(layers)).round(4)
    what = ['scan', options.model, '--data', file, '--img', options.img, '-o', table, *options.further]
    run = _watch(map(str, [*what, '--layers', *layers, '--rates', *rates]))
    if (rows := len(sensitivity.read_rows(table))) != cells + 1:
        raise SystemExit(f'{rows - 1} cells measured, not {cells}: some layers are too narrow for rates up to 0.75')
    return Measurement(images=images, cells=cells, **run)


def _repeat(dataset: data.DetectionDataset, count: int, file: pathlib.Path) -> None:
    """A data set of so many images in YOLO layout; the same ones again under other names."""
    folders = {name: file.with_suffix('') / name / 'val' for name in ('images', 'labels')}
    for folder in folders.values():
        folder.mkdir(parents=True)
    pairs = itertools.cycle(zip(dataset.images, dataset.labels, strict=True))
    for number, (image, rows) in enumerate(itertools.islice(pairs, count)):
        (folders['images'] / f'image{number:06}{image.suffix}').symlink_to(image.resolve())
        lines = (' '.join([str(int(row[0])), *map(str, row[1:].tolist())]) for row in rows)
        (folders['labels'] / f'image{number:06}.txt').write_text('\n'.join(lines))
    file.write_text(json.dumps({'val': str(folders['images']), 'nc': dataset.classes, 'names': dataset.names}))


def _watch(arguments: Iterable[str]) -> dict[str, Any]:
    """Runs the command: wall time and largest memory."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        command = [sys.executable, '-c', 'from jaxprune.cli import main; main()', *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        sampler = _Sampler(process.pid)
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.ended.set()
        sampler.join()
        if process.returncode:
            errors.seek(0)
            raise SystemExit(errors.read().decode())
    unit = 1 if sys.platform == 'darwin' else 1024  # bytes
    peaks = {f'{name}_bytes': sampler.peaks.get(name) for name in ('anonymous', 'file')}
    processor = usage.ru_utime + usage.ru_stime
    return {'seconds': seconds, 'processor_seconds': processor, 'peak_bytes': usage.ru_maxrss * unit, **peaks}


class _Sampler(threading.Thread):
    """Follows a process's memory; `peaks` stays empty where there is no `/proc`, or it does not tell kinds apart."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.peaks: dict[str, int] = {}
        self._file = pathlib.Path(f'/proc/{pid}/status')

    def run(self) -> None:
        """Until `ended` is set, or the process is gone."""
        with contextlib.suppress(OSError, KeyError):
            while not self.ended.wait(SAMPLE_SECONDS):
                lines = (line.partition(':') for line in self._file.read_text().splitlines())
                sizes = {key: int(value.split()[0]) * 1024 for key, _, value in lines if key.startswith('Rss')}
                now = {'anonymous': sizes['RssAnon'], 'file': sizes['RssFile'] + sizes['RssShmem']}
                self.peaks = {name: max(size, self.peaks.get(name, 0)) for name, size in now.items()}


def _line(runs: Sequence[Measurement], axis: str, figure: str) -> dict[str, float] | None:
    """Least squares: `figure = intercept + slope * axis`."""
    x = np.array([getattr(run, axis) for run in runs], float)
    values = [getattr(run, figure) for run in runs]
    if len(x) < 2 or None in values:
        return None
    y = np.array(values, float)
    slope, intercept = np.polyfit(x, y, 1)
    residuals = y - (intercept + slope * x)
    spread = ((y - y.mean()) ** 2).sum()
    return {
        'slope': float(slope),
        'intercept': float(intercept),
        'r_squared': float(1 - (residuals**2).sum() / spread) if spread else 1.0,
        'largest_relative_residual': float(np.abs(residuals / y).max()),
    }


def _text(measured: Sequence[Measurement], fits: dict[str, Any], fewest: tuple[int, int]) -> str:
    heads = ('images', 'cells', 'seconds', 'processor', 'anonymous MB', 'file MB', 'peak MB')
    lines = [' '.join(f'{head:>12}' for head in heads)]
    for run in measured:
        times = (f'{getattr(run, name):12.2f}' for name in TIMES)
        sizes = (f'{_megabytes(getattr(run, name)):>12}' for name in MEMORY)
        lines.append(' '.join([f'{run.images:12d} {run.cells:12d}', *times, *sizes]))
    for axis, fixed, other in (('image', fewest[1], 'cells'), ('cell', fewest[0], 'images')):
        found = {name: fit for name, fit in fits[f'{axis}s'].items() if fit is not None}
        lines += ['', f'{axis}s, at {fixed} {other}'] if found else []
        for name in (name for name in TIMES if name in found):
            fit = found[name]
            lines.append(
                f'  {name:17} {fit["intercept"]:6.2f} {fit["slope"]:+.4f} per {axis} '
                f'({1e3 * fit["slope"] / fixed:.3f} ms per image and cell), R2 {fit["r_squared"]:.5f}, '
                f'largest residual {fit["largest_relative_residual"]:.1%}'
            )
        for name in (name for name in MEMORY if name in found):
            fit = found[name]
            lines.append(f'  {name:17} {fit["intercept"] / 1e6:6.0f} MB {fit["slope"] / 1e3:+.1f} kB per {axis}')
    return '\n'.join(lines)


def _megabytes(size: int | None) -> str:
    return '-' if size is None else f'{size / 1e6:.0f}'


if __name__ == '__main__':
    main()
