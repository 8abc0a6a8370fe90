"""What do scans that measure less cost, and do they choose the same layers as the whole table?

    python benchmarks/reduced_scans.py MODEL_DIR DATA.yaml [--img 256] [--images 16 32] [--racing 0.95] [--seeds 3]

Every scan is the command in a fresh process, everything included. `found` counts the layers of the whole table's
published selection that are chosen again, `others` those that are chosen in their place; both are means over the seeds,
which draw the images or, in a race, their order. `rank` is Spearman's correlation of mAP50-95 with the whole table,
over all cells. Of the preview, `found` counts the layers among as many of its first layers as `first` says, and `final`
says after how many cells in its order the selection would no longer have changed.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxprune import pipeline, sensitivity

Rows = Sequence[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.environ['JAXPRUNE_CACHE'] = folder  # the first scan compiles for all: no difference is one of compilation
        work = pathlib.Path(folder)
        _scan(options, work / 'first', '--rates', '0.5', '--images', '4')
        seconds, whole = _scan(options, work / 'whole')
        results = [{'way': 'whole', 'seconds': seconds, 'found': len(_chosen(whole)), 'others': 0, 'rank': 1.0}]
        for count in options.images:
            results.append(_compared(options, work, whole, f'--images {count}'))
        for confidence in options.racing:
            results.append(_compared(options, work, whole, f'--racing {confidence}'))
        for count in options.images:
            results.append(_preview(options, whole, count))
    print(json.dumps(results) if options.json else _text(results))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=pathlib.Path)
    parser.add_argument('data', type=pathlib.Path)
    parser.add_argument('--img', type=int, default=256)
    parser.add_argument('--images', type=int, nargs='+', default=[16, 32])
    parser.add_argument('--racing', type=float, nargs='+', default=[0.95])
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--json', action='store_true')
    return parser.parse_args(arguments)


def _scan(options: argparse.Namespace, table: pathlib.Path, *more: str) -> tuple[float, Rows]:
    table.unlink(missing_ok=True)
    given = [options.model, '--data', options.data, '--img', options.img, '-o', table, *more]
    program = 'from jaxprune.cli import main; main()'
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', program, 'scan', *map(str, given)], stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, sensitivity.read_rows(table)


def _chosen(rows: Rows) -> set[int]:
    unpruned = next(row for row in rows if row['layer'] is None)
    return {choice.layer for choice in pipeline.SelectSettings().choose(unpruned, rows)}


def _compared(options: argparse.Namespace, work: pathlib.Path, whole: Rows, way: str) -> dict[str, Any]:
    runs = [_scan(options, work / 'part', *way.split(), '--seed', str(seed)) for seed in range(options.seeds)]
    chosen = [_chosen(rows) for _, rows in runs]
    expected = _chosen(whole)
    return {
        'way': way,
        'seconds': float(np.mean([seconds for seconds, _ in runs])),
        'found': float(np.mean([len(each & expected) for each in chosen])),
        'others': float(np.mean([len(each - expected) for each in chosen])),
        'rank': float(np.mean([_rank(rows, whole) for _, rows in runs])),
        'stopped': float(np.mean([sum('stopped' in row for row in rows) for _, rows in runs])),
    }


def _rank(rows: Rows, whole: Rows) -> float:
    found = {(row['layer'], row['rate']): row['map50_95'] for row in rows}
    pairs = [(row['map50_95'], found[row['layer'], row['rate']]) for row in whole]
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def _preview(options: argparse.Namespace, whole: Rows, count: int) -> dict[str, Any]:
    start = time.perf_counter()
    rows = pipeline.preview(options.model, options.data, image_size=options.img, images=count)
    seconds = time.perf_counter() - start
    cells = {(row['layer'], row['rate']): row for row in whole}
    ordered = [cells[row['layer'], row['rate']] for row in rows if row['layer'] is not None]
    expected = _chosen(whole)
    layers = list(dict.fromkeys(row['layer'] for row in ordered))
    final = next(number for number in range(len(ordered), -1, -1) if _chosen([whole[0], *ordered[:number]]) != expected)
    costs = {(row['layer'], row['rate']): row['fisher'] for row in rows}
    lost = [whole[0]['map50_95'] - row['map50_95'] for row in ordered]
    return {
        'way': f'--preview --images {count}',
        'seconds': seconds,
        'found': len(expected & set(layers[: 2 * len(expected)])),
        'first': 2 * len(expected),
        'final': final + 1,
        'rank': float(stats.spearmanr(lost, [costs[row['layer'], row['rate']] for row in ordered]).statistic),
    }


def _text(results: Sequence[dict[str, Any]]) -> str:
    def line(result: dict[str, Any]) -> str:
        rest = ', '.join(f'{name} {value:.3g}' for name, value in result.items() if name not in ('way', 'seconds'))
        return (
            f'{result["way"]:24} {result["seconds"]:6.1f} s, {results[0]["seconds"] / result["seconds"]:4.1f} x: {rest}'
        )

    return '\n'.join(map(line, results))


if __name__ == '__main__':
    main()
