"""How long does it take to trace a full-size detector, and to slice it?

    python benchmarks/trace_and_slice.py [--architecture yolov7-e6e] [--keep 0.5] [--runs 3] [--json]

Every run is a process of its own, in which nothing was traced or compiled before; imports are not counted. Medians.
Tracing takes shapes only. Slicing starts from the plan that keeps half of every group, with variables in NumPy and in
JAX arrays. Processor time says how much of it was waiting for others.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import jaxprune
from jaxprune import graph, models


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.only:
        print(json.dumps(STEPS[options.only](options)))
        return
    result = {name: _median([_run(name, options) for _ in range(options.runs)]) for name in STEPS}
    if options.json:
        print(json.dumps(result))
        return
    print(f'{options.architecture}, training form, keep {options.keep}')
    print(f'{"":22} {"seconds":>8} {"processor":>10}')
    for name, row in result.items():
        print(f'{name:22} {row["seconds"]:8.2f} {row["processor_seconds"]:10.2f}')


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--architecture', default='yolov7-e6e', choices=models.architectures())
    parser.add_argument('--keep', type=float, default=0.5)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--only', choices=tuple(STEPS), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _run(name: str, options: argparse.Namespace) -> dict[str, float]:
    settings = ['--architecture', options.architecture, '--keep', str(options.keep)]
    command = [sys.executable, __file__, '--only', name, *settings]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _median(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _network(options: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    spec = models.build_spec(options.architecture, form='training')
    forward = functools.partial(models.Detector(spec).apply, auxiliary=True)
    return spec, forward, models.shapes(spec), jax.ShapeDtypeStruct((1, 128, 128, 3), np.float32)


def _timed(function: Callable[[], Any]) -> dict[str, float]:
    start, processor = time.perf_counter(), time.process_time()
    function()
    return {'seconds': time.perf_counter() - start, 'processor_seconds': time.process_time() - processor}


def _jaxpr(options: argparse.Namespace) -> dict[str, float]:
    _, forward, shapes, image = _network(options)
    return _timed(lambda: jax.make_jaxpr(forward)(shapes, image))


def _trace(options: argparse.Namespace, *, prove: bool) -> dict[str, float]:
    spec, forward, shapes, image = _network(options)
    layers = [(node.name, (node.name,)) for node in spec.layers]
    return _timed(lambda: graph.trace(forward, shapes, image, layers=layers, prove=prove))


def _slice(options: argparse.Namespace, *, kind: Callable[[Any], Any]) -> dict[str, float]:
    _, forward, shapes, image = _network(options)
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), shapes)
    connections = graph.trace(forward, shapes, image, prove=False)
    plan = jaxprune.select_channels(connections, variables, criterion='random', keep=options.keep)
    variables = jax.block_until_ready(jax.tree.map(kind, variables))
    return _timed(lambda: jax.block_until_ready(jaxprune.slice(variables, plan)))


STEPS = {
    'jax.make_jaxpr alone': _jaxpr,
    'trace, prove=False': functools.partial(_trace, prove=False),
    'trace, prove=True': functools.partial(_trace, prove=True),
    'slice, NumPy': functools.partial(_slice, kind=np.asarray),
    'slice, JAX': functools.partial(_slice, kind=jax.numpy.asarray),
}


if __name__ == '__main__':
    main()
