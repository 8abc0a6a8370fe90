"""How much faster than the published method's own loop is a scan, and does it give the same table?

    python benchmarks/scan_against_original.py CHECKPOINT.pt DATA.yaml --original FOLDER --torch PYTHON
        [--img 256] [--rates 0.25 0.5 0.75] [--device cpu]

FOLDER is a clone of the PyTorch YOLOv7 with `test.py`, `prune.py` and (in `cfg/`) `pruning_config/` of the published
pruning code in it; the name of a checkpoint of yolov7-tiny contains `tiny`. PYTHON has PyTorch and what YOLOv7 needs.
Both run one after the other, each in a fresh process, everything included: imports, reading, compilation. On a CPU the
original runs several times faster with
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000, which is set for it.
"""

import argparse
import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from jaxprune import data, pipeline, sensitivity

MALLOC = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': '100000000000', 'MALLOC_TOP_PAD_': '500000000'}
FIGURES = ('precision', 'recall', 'map50', 'map50_95')
Cells = dict[tuple[int, float], tuple[float, ...]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        model = work / 'model'
        pipeline.convert(options.checkpoint, model)
        ours, seconds = _scan(model, work, options)
        original, original_seconds = _original(work, options)
    common = sorted(ours.keys() & original.keys())
    worst = max(abs(a - b) for cell in common for a, b in zip(ours[cell], original[cell], strict=True))
    result = {
        'cells': len(common),
        'seconds': seconds,
        'original_seconds': original_seconds,
        'times_faster': original_seconds / seconds,
        'largest_difference': worst,
    }
    print(json.dumps(result) if options.json else _text(result))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=pathlib.Path)
    parser.add_argument('data', type=pathlib.Path)
    parser.add_argument('--original', type=pathlib.Path, required=True, help='folder of the original code')
    parser.add_argument('--torch', required=True, help='Python with PyTorch')
    parser.add_argument('--img', type=int, default=256)
    parser.add_argument('--rates', type=float, nargs='+', default=[0.25, 0.5, 0.75])
    parser.add_argument('--device', default='cpu', help='of the original: cpu or the number of a GPU')
    parser.add_argument('--json', action='store_true')
    return parser.parse_args(arguments)


def _timed(command: Sequence[object], **environment: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        list(map(str, command)),
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def _scan(model: pathlib.Path, work: pathlib.Path, options: argparse.Namespace) -> tuple[Cells, float]:
    table = work / 'scan.jsonl'
    program = 'from jaxprune.cli import main; main()'
    what = ['scan', model, '--data', options.data, '--img', options.img, '--rates', *options.rates, '-o', table]
    seconds = _timed([sys.executable, '-c', program, *what])
    rows = sensitivity.read_rows(table)
    return {(row['layer'], row['rate']): tuple(row[name] for name in FIGURES) for row in rows}, seconds


def _original(work: pathlib.Path, options: argparse.Namespace) -> tuple[Cells, float]:
    script = pathlib.Path(__file__).parent / 'original' / 'scan.py'
    rates = str(list(options.rates))
    given = [options.original.resolve(), options.checkpoint.resolve(), _copy(options.data, work / 'data')]
    seconds = _timed([options.torch, script, *given, options.img, options.device, work, rates], **MALLOC)
    cells: Cells = {}
    for rate in options.rates:
        text = (work / f'cells_{int(100 * rate)}.txt').read_text()
        for layer, figures, *_ in ast.literal_eval(re.sub(r'np\.float\d+\(([^)]*)\)', r'\1', text)):
            cells[layer, rate] = figures[:4]
    return cells, seconds


def _copy(file: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The validation images in the original's layout: it writes beside its labels."""
    dataset = data.load_dataset(str(file), 'val')
    for name in ('images', 'labels'):
        (folder / name / 'val').mkdir(parents=True)
    for image, rows in zip(dataset.images, dataset.labels, strict=True):
        shutil.copy(image, folder / 'images' / 'val')
        lines = (' '.join([str(int(row[0])), *(str(value) for value in row[1:].tolist())]) for row in rows)
        (folder / 'labels' / 'val' / f'{image.stem}.txt').write_text('\n'.join(lines))
    images = folder / 'images' / 'val'
    target = folder / 'data.yaml'
    target.write_text(
        json.dumps({'train': str(images), 'val': str(images), 'nc': dataset.classes, 'names': dataset.names})
    )
    return target


def _text(result: dict[str, float]) -> str:
    return (
        f'{result["cells"]} cells: {result["seconds"]:.0f} s, the original {result["original_seconds"]:.0f} s: '
        f'{result["times_faster"]:.2f} times faster; largest difference of a figure {result["largest_difference"]:.4f}'
    )


if __name__ == '__main__':
    main()
