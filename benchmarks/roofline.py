"""How near is the forward pass to what the device can do, and which layers keep it from there?

    python benchmarks/roofline.py MODEL [--img 640] [--batch 32] [--dtype bfloat16]
        [--torch PYTHON --original FOLDER]

MODEL is a model directory or an architecture (random weights). The form `fused` up to the raw predictions runs on the
first device. Both ceilings are measured there in the same run: FLOP/s of the best large matrix product in the same
dtype, bytes/s of the better of `x = -x` and `x = y - x` on large arrays.

FLOPs are 2 per multiply-accumulate of the convolutions. Bytes: convolutions and heads read their weights and inputs and
write their output once, pooling and addition their inputs and output; activations, concatenation, upsampling and
reorganisation are free, because an ideal program does them on the way. A layer cannot take less than the larger of
FLOPs / ceiling and bytes / ceiling: the sum over the layers is the roofline. Layers are timed one by one, too, each
compiled alone (on an accelerator many times in one loop, so that the launch does not count). A layer whose data stay
in the cache can be faster than its roofline, which is that of the memory.

FOLDER is a clone of the PyTorch YOLOv7, PYTHON has PyTorch and what it needs: the same architecture there, channels
last, on a GPU fp16 with torch.compile, on a CPU fp32.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from scan_against_original import MALLOC

import jaxprune
from jaxprune import models
from jaxprune.models import layers
from jaxprune.models import spec as specs

REPEATS, SECONDS = 5, 0.1
LOOP = 50
"""How often a layer runs per launch on an accelerator, so that the launch does not count."""
STREAM_BYTES = 1 << 28
FREE = (specs.Concat, specs.Upsample, specs.Reorg)


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What the device can do at most: FLOP/s and bytes/s."""

    flops: float
    bytes: float

    def seconds(self, flops: float, size: float) -> float:
        """The least time for so many operations and bytes."""
        return max(flops / self.flops, size / self.bytes)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # PyTorch needs memory, too
    model, variables = models.to_form(*_model(options.model), 'fused')
    pytorch = _pytorch(model, variables, options) if options.torch else None
    dtype = jnp.dtype(options.dtype)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
    images = jax.random.uniform(jax.random.key(0), (options.batch, options.img, options.img, 3), dtype)
    with jax.default_matmul_precision('highest' if dtype == jnp.float32 else 'default'):
        ceilings = Ceilings(_flop_rate(dtype), _byte_rate(dtype))
        forward = jax.jit(model.apply).lower(variables, images).compile()
        seconds = _seconds(lambda: forward(variables, images))
        rows = _layers(model, variables, images, ceilings)
    result = _result(model, options, ceilings, seconds, rows) | {'xla': _counted_by_xla(forward), 'pytorch': pytorch}
    print(json.dumps(result) if options.json else _text(result))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='model directory, or one of ' + ', '.join(models.architectures()))
    parser.add_argument('--img', type=int, default=640)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--dtype', choices=('bfloat16', 'float32'), default='bfloat16')
    parser.add_argument('--torch', help='Python with PyTorch')
    parser.add_argument('--original', type=pathlib.Path, help='folder of the original code')
    parser.add_argument('--json', action='store_true')
    options = parser.parse_args(arguments)
    if bool(options.torch) != bool(options.original):
        parser.error('--torch and --original go together')
    return options


def _model(name: str) -> tuple[models.Detector, models.Variables]:
    return models.create(name) if name in models.architectures() else jaxprune.load(name)


def _seconds(call: Callable[[], Any]) -> float:
    """Time of a call in the best of some runs of many; the first calls, which compile, do not count."""
    for _ in range(3):
        jax.block_until_ready(call())
    count = max(1, round(SECONDS / _timed(call, 1)))
    return min(_timed(call, count) for _ in range(REPEATS))


def _timed(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        last = call()
    jax.block_until_ready(last)
    return (time.perf_counter() - start) / count


def _flop_rate(dtype: Any) -> float:
    """FLOP/s of the best matrix product: sides are doubled until one takes 50 ms."""
    best, seconds, side = 0.0, 0.0, 1024
    product = jax.jit(jnp.matmul)
    while seconds < 0.05 and side <= 1 << 14:
        left, right = (jax.random.normal(jax.random.key(seed), (side, side), dtype) for seed in range(2))
        seconds = _seconds(functools.partial(product, left, right))
        best, side = max(best, 2 * side**3 / seconds), 2 * side
    return best


def _byte_rate(dtype: Any) -> float:
    """Bytes/s, read and written: the better of `x = -x` (two streams) and `x = y - x` (three).

    In place, because pages that a system hands out for the first time cost more than what is written to them.
    """
    x, y = (jax.random.normal(jax.random.key(seed), (STREAM_BYTES // dtype.itemsize,), dtype) for seed in range(2))
    size = x.nbytes
    negate = jax.jit(lambda x, y: -x, donate_argnums=0, keep_unused=True)
    subtract = jax.jit(lambda x, y: y - x, donate_argnums=0)
    rates = []
    for function, streams in ((negate, 2), (subtract, 3)):

        def call(function: Any = function) -> Array:
            nonlocal x
            x = function(x, y)
            return x

        rates.append(streams * size / _seconds(call))
    return max(rates)


def _layers(
    model: models.Detector, variables: models.Variables, images: Array, ceilings: Ceilings
) -> list[dict[str, Any]]:
    """Every node of the spec, run alone on what the nodes before it give."""
    costs = models.spec_cost(model.spec, (images.shape[1], images.shape[2])).layers
    flops = {cost.name: 1e9 * cost.gflops * len(images) for cost in costs}
    times = 1 if jax.devices()[0].platform == 'cpu' else LOOP
    anchors = len(model.spec.anchors[0])
    values = {specs.IMAGE: images}
    rows = []
    for node in model.spec.nodes:
        own = variables['params'].get(node.name, {})
        inputs = [values[name] for name in node.inputs]
        plain = dataclasses.replace(node, name='', pytorch_name='', inputs=())  # equal ones are compiled once
        values[node.name] = output = _run(plain, anchors, 1, own, inputs)
        seconds = _seconds(functools.partial(_run, plain, anchors, times, own, inputs)) / times
        size = 0 if isinstance(node, FREE) else sum(leaf.nbytes for leaf in jax.tree.leaves((own, inputs, output)))
        ideal = ceilings.seconds(flops.get(node.name, 0), size)
        counted = {'flops': flops.get(node.name, 0), 'bytes': size, 'seconds': seconds, 'ideal_seconds': ideal}
        rows.append({'name': node.name, 'kind': _kind(node), 'shape': _shape(inputs, output), **counted})
    return rows


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(node: specs.Node, anchors: int, times: int, own: Any, inputs: list[Array]) -> Array:
    """A node's output, computed so many times."""

    def once(first: Array) -> Array:
        if not own:
            return layers.compute(node, [first, *inputs[1:]])
        module: Any = (
            layers.Head(node, anchors) if isinstance(node, specs.Head) else layers.Conv(cast(specs.Conv, node))
        )
        return cast(Array, module.apply({'params': own}, first))

    def again(_: Any, values: tuple[Array, Array]) -> tuple[Array, Array]:
        first, before = values
        # One number is read from the output before, so that XLA cannot take the rest out of the loop (0 x may be NaN).
        number = first.ravel()[:1] + 0 * before.ravel()[:1]
        first = lax.dynamic_update_slice(first, number.reshape((1,) * first.ndim), (0,) * first.ndim)
        return first, once(first)

    output = once(inputs[0])
    return lax.fori_loop(1, times, again, (inputs[0], output))[1] if times > 1 else output


def _kind(node: specs.Node) -> str:
    kernel, stride = getattr(node, 'kernel', (1, 1)), getattr(node, 'stride', (1, 1))
    size = f' {kernel[0]}x{kernel[1]}' if hasattr(node, 'kernel') else ''
    return node.op + size + (f' / {stride[0]}' if stride[0] > 1 else '')


def _shape(inputs: Iterable[Array], output: Array) -> str:
    read = ' + '.join('x'.join(map(str, each.shape[1:])) for each in inputs)
    return f'{read} -> {"x".join(map(str, output.shape[1:]))}'


def _counted_by_xla(program: Any) -> dict[str, float]:
    """What the compiler says of the whole program."""
    analysis = program.cost_analysis() or {}
    return {'flops': analysis.get('flops', 0.0), 'bytes': analysis.get('bytes accessed', 0.0)}


def _result(
    model: models.Detector, options: argparse.Namespace, ceilings: Ceilings, seconds: float, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    flops, size, ideal, alone = (sum(row[k] for row in rows) for k in ('flops', 'bytes', 'ideal_seconds', 'seconds'))
    return {
        'architecture': model.spec.name,
        'image_size': options.img,
        'batch': options.batch,
        'dtype': options.dtype,
        'device': jax.devices()[0].device_kind,
        'jax': jax.__version__,
        'ceilings': dataclasses.asdict(ceilings),
        'flops_per_image': flops / options.batch,
        'bytes_per_image': size / options.batch,
        'images_per_second': options.batch / seconds,
        'roofline_images_per_second': options.batch / ideal,
        'flops_images_per_second': options.batch * ceilings.flops / flops,
        'bytes_images_per_second': options.batch * ceilings.bytes / size,
        'reached': ideal / seconds,
        'layers_alone_by_forward': alone / seconds,
        'kinds': _kinds(rows, alone),
        'layers': sorted(rows, key=lambda row: row['ideal_seconds'] - row['seconds']),
    }


def _kinds(rows: Iterable[dict[str, Any]], alone: float) -> list[dict[str, Any]]:
    """Layers by kind, those that take longest first."""
    groups: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        groups[row['kind']].append(row)
    kinds = []
    for kind, members in groups.items():
        total = {key: sum(row[key] for row in members) for key in ('flops', 'bytes', 'seconds', 'ideal_seconds')}
        kinds.append({'kind': kind, 'layers': len(members), **total, 'share': total['seconds'] / alone})
    return sorted(kinds, key=lambda kind: -kind['seconds'])


def _pytorch(model: models.Detector, variables: models.Variables, options: argparse.Namespace) -> dict[str, Any]:
    script = pathlib.Path(__file__).parent / 'original' / 'forward.py'
    device = 'cpu' if jax.devices()[0].platform == 'cpu' else 'cuda'
    sizes = map(str, (len(model.spec.classes), options.img, options.batch, device))
    command = [options.torch, '-W', 'ignore', script, options.original.resolve(), model.spec.name, *sizes]
    environment = {**os.environ, **(MALLOC if device == 'cpu' else {})}
    printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    if result['parameters'] != parameters:
        raise SystemExit(f'not the same network: {parameters} parameters here, {result["parameters"]} in PyTorch')
    return result


def _text(result: dict[str, Any]) -> str:
    ceilings, dtype = result['ceilings'], result['dtype']
    lines = [
        f'{result["architecture"]}, batches of {result["batch"]} at {result["image_size"]}, {dtype}, '
        f'{result["device"]}, JAX {result["jax"]}',
        f'ceilings: {ceilings["flops"] / 1e9:.1f} GFLOP/s, {ceilings["bytes"] / 1e9:.1f} GB/s; '
        f'an image: {result["flops_per_image"] / 1e9:.2f} GFLOP, {result["bytes_per_image"] / 1e6:.1f} MB '
        f'(the compiler counts {result["xla"]["flops"] / result["batch"] / 1e9:.2f} and '
        f'{result["xla"]["bytes"] / result["batch"] / 1e6:.1f})',
        '',
        f'{"":34} {"images/s":>9}',
        f'{"forward pass":34} {result["images_per_second"]:9.1f}  {result["reached"]:.0%} of the roofline',
        f'{"roofline, layer by layer":34} {result["roofline_images_per_second"]:9.1f}',
        f'{"FLOP/s alone":34} {result["flops_images_per_second"]:9.1f}',
        f'{"bytes/s alone":34} {result["bytes_images_per_second"]:9.1f}',
    ]
    if pytorch := result['pytorch']:
        name = f'PyTorch {pytorch["torch"]}, {pytorch["dtype"]}{", compiled" if pytorch["compiled"] else ""}'
        times = result['images_per_second'] / pytorch['images_per_second']
        lines.append(f'{name:34} {pytorch["images_per_second"]:9.1f}  JAX is {times:.2f} times as fast')
    return '\n'.join([*lines, '', *_tables(result)])


def _tables(result: dict[str, Any]) -> list[str]:
    alone = sum(kind['seconds'] for kind in result['kinds'])
    lost = sum(max(0, row['seconds'] - row['ideal_seconds']) for row in result['layers'])
    head = f'{"time":>6} {"of roofline":>12}'
    lines = [f'one by one the layers take {result["layers_alone_by_forward"]:.2f} of the time of the whole']
    lines += [f'{"kind":18} {"layers":>6} {head}']
    for kind in result['kinds']:
        reached = kind['ideal_seconds'] / kind['seconds']
        lines.append(f'{kind["kind"]:18} {kind["layers"]:6d} {kind["share"]:6.1%} {reached:12.0%}')
    lines += ['', f'{"farthest from it":18} {"lost":>6} {head} {"GFLOP/s":>8} {"GB/s":>7}']
    for row in result['layers'][:10]:
        seconds = row['seconds']
        lines.append(
            f'{row["kind"]:18} {(seconds - row["ideal_seconds"]) / lost:6.1%} {seconds / alone:6.1%} '
            f'{row["ideal_seconds"] / seconds:12.0%} {row["flops"] / seconds / 1e9:8.1f} '
            f'{row["bytes"] / seconds / 1e9:7.1f}  {row["name"]} {row["shape"]}'
        )
    return lines


if __name__ == '__main__':
    main()
