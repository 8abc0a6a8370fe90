"""How long does `jaxprune convert` take for a full-size PyTorch file, and how much memory at most?

    python benchmarks/convert_speed.py [FILE.pt] [--architecture yolov7-e6e] [--runs 2] [--json]

Without a file, one is made first: the tensors of the architecture in float16, at random, as `torch.save` would write
them. Every run is a process of its own, from its start to the directory on the disk; the fastest one counts, and the
largest memory. Processor time says how much of it was waiting for others.
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

import jax
import numpy as np

import weights_convert
from jaxprune import models


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        file = options.file or _random_file(options.architecture, folder / f'{options.architecture}.pt')
        runs = [_run(file, folder / f'model{index}', options.architecture) for index in range(options.runs)]
        megabytes = file.stat().st_size / 1e6
    result = {
        'file_megabytes': megabytes,
        'seconds': min(run['seconds'] for run in runs),
        'processor_seconds': min(run['processor_seconds'] for run in runs),
        'peak_megabytes': max(run['peak_megabytes'] for run in runs),
    }
    print(json.dumps(result) if options.json else '\n'.join(f'{key}: {value:.2f}' for key, value in result.items()))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('file', type=pathlib.Path, nargs='?')
    parser.add_argument('--architecture', default='yolov7-e6e', choices=models.architectures())
    parser.add_argument('--runs', type=int, default=2)
    parser.add_argument('--json', action='store_true')
    return parser.parse_args(arguments)


def _random_file(architecture: str, path: pathlib.Path) -> pathlib.Path:
    spec = models.build_spec(architecture)
    generator = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: generator.standard_normal(leaf.shape, np.float32) * np.float32(0.05), models.shapes(spec)
    )
    weights_convert.write_state_dict(spec, variables, path, dtype='float16')
    return path


def _run(file: pathlib.Path, output: pathlib.Path, architecture: str) -> dict[str, float]:
    command = [sys.executable, '-m', 'jaxprune.cli', 'convert', str(file), '-o', str(output), '--name', architecture]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    unit = 1 if sys.platform == 'darwin' else 1024  # bytes
    return {
        'seconds': time.perf_counter() - start,
        'processor_seconds': usage.ru_utime + usage.ru_stime,
        'peak_megabytes': usage.ru_maxrss * unit / 1e6,
    }


if __name__ == '__main__':
    main()
