"""Does `jaxprune scan --estimate` say how long a scan takes and how much memory?

    python benchmarks/estimated_scans.py MODEL_DIR DATA.yaml [--scan='OPTIONS' ...]

Every estimate and every scan is the command in a fresh process that finds no compiled programs on the disk.
`--scan='--img 320 --metric loss'` says which scan; several can be given. The ratios are what was said to what it took.
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

SCANS = (
    '--img 256',
    '--img 640 --batch 8 --images 24 --rates 0.5',
    '--img 416 --batch 1 --images 20 --rates 0.5 --metric distance',
    '--img 256 --batch 16 --rates 0.25 0.5 --metric loss',
    '--img 320 --batch 4 --images 8 --rates 0.5 --layers 8 18 40',
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    results = [_compared(options, scan) for scan in options.scan or SCANS]
    print(json.dumps(results) if options.json else '\n'.join(map(_text, results)))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=pathlib.Path)
    parser.add_argument('data', type=pathlib.Path)
    parser.add_argument('--scan', action='append', metavar='OPTIONS')
    parser.add_argument('--json', action='store_true')
    return parser.parse_args(arguments)


def _compared(options: argparse.Namespace, scan: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        given = [str(options.model), '--data', str(options.data), *scan.split()]
        said = json.loads(_run(folder, 'estimate', *given, '--estimate', '--json')[0])
        _, seconds, size = _run(folder, 'scan', *given, '-o', f'{folder}/table.jsonl')
    return {
        'scan': scan,
        'cells': said['cells'],
        'said_seconds': said['seconds'],
        'seconds': seconds,
        'said_bytes': said['host_bytes'],
        'bytes': size,
    }


def _run(folder: str, cache: str, *arguments: str) -> tuple[str, float, int]:
    """What the command prints, its wall time, and its largest resident memory in bytes."""
    environment = {**os.environ, 'JAXPRUNE_CACHE': f'{folder}/{cache}'}
    command = [sys.executable, '-c', 'from jaxprune.cli import main; main()', 'scan', *arguments]
    with tempfile.TemporaryFile('w+') as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f'{" ".join(arguments)}: failed')
        output.seek(0)
        return output.read(), seconds, usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def _text(result: dict[str, Any]) -> str:
    return (
        f'{result["scan"]} ({result["cells"]} cells): said {result["said_seconds"]:.0f} s,'
        f' took {result["seconds"]:.0f} s: {result["said_seconds"] / result["seconds"]:.2f};'
        f' said {result["said_bytes"] / 1e9:.2f} GB, took {result["bytes"] / 1e9:.2f} GB:'
        f' {result["said_bytes"] / result["bytes"]:.2f}'
    )


if __name__ == '__main__':
    main()
