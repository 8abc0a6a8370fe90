"""Is a pruned model as much faster in onnxruntime as it is smaller?

    python benchmarks/onnx_speed.py MODEL_A MODEL_B [--img 256] [--batch 1] [--threads 1] [--runs 60]

A model is a directory that jaxprune wrote or an `.onnx` file. Both run in one process on the CPU, in turn, so that
whatever else the machine does meets both alike; medians are compared. FLOPs are counted in the ONNX graphs. The last
line is the part of the FLOP ratio that arrives as speed.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

import jaxprune
from jaxprune import models
from jaxprune.export import export_onnx


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        files = [_onnx_file(path, pathlib.Path(folder) / f'{index}.onnx', options)
                 for index, path in enumerate((options.model_a, options.model_b))]  # fmt: skip
        gflops = [_gflops(file) for file in files]
        seconds = _median_seconds([_session(file, options.threads) for file in files], options.runs)
    flop_ratio, time_ratio = gflops[0] / gflops[1], seconds[0] / seconds[1]
    result = {
        'gflops': gflops,
        'milliseconds': [1e3 * value for value in seconds],
        'flop_ratio': flop_ratio,
        'time_ratio': time_ratio,
        'time_ratio_by_flop_ratio': time_ratio / flop_ratio,
    }
    print(json.dumps(result) if options.json else _text(result))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model_a', type=pathlib.Path)
    parser.add_argument('model_b', type=pathlib.Path)
    parser.add_argument('--img', type=int, nargs='+', default=[256], help='size, or height and width')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--runs', type=int, default=60)
    parser.add_argument('--json', action='store_true')
    return parser.parse_args(arguments)


def _onnx_file(path: pathlib.Path, target: pathlib.Path, options: argparse.Namespace) -> pathlib.Path:
    if path.suffix == '.onnx':
        return path
    model, variables = models.to_form(*jaxprune.load(path), 'fused')
    size = (options.img[0], options.img[-1])
    return export_onnx(model.spec, variables, target, image_size=size, batch=options.batch)


def _gflops(path: pathlib.Path) -> float:
    """2 per multiply-accumulate of the convolutions and per output element of each upsampling, for one image."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        elements = int(np.prod(shapes[node.output[0]][1:]))
        if node.op_type == 'Conv':
            total += 2 * elements * int(np.prod(weights[node.input[1]][1:]))
        elif node.op_type == 'Resize':
            total += 2 * elements
    return total / 1e9


def _session(path: pathlib.Path, threads: int) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, settings, providers=['CPUExecutionProvider'])


def _median_seconds(sessions: Sequence[Any], runs: int, warmup: int = 5) -> list[float]:
    """Median time of one call per session, the sessions taking turns."""
    generator = np.random.default_rng(0)
    inputs = [generator.random(session.get_inputs()[0].shape, np.float32) for session in sessions]
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(runs + warmup):
        for session, images, measured in zip(sessions, inputs, times, strict=True):
            start = time.perf_counter()
            session.run(None, {'images': images})
            measured.append(time.perf_counter() - start)
    return [statistics.median(measured[warmup:]) for measured in times]


def _text(result: dict[str, Any]) -> str:
    rows = [
        f'{name}: {gflops:.3f} GFLOPs, {milliseconds:.2f} ms'
        for name, gflops, milliseconds in zip('AB', result['gflops'], result['milliseconds'], strict=True)
    ]
    return '\n'.join([
        *rows,
        f'ratio of the FLOPs: {result["flop_ratio"]:.3f}',
        f'ratio of the times: {result["time_ratio"]:.3f}',
        f'ratio of the times / ratio of the FLOPs: {result["time_ratio_by_flop_ratio"]:.3f}',
    ])  # fmt: skip


if __name__ == '__main__':
    main()
