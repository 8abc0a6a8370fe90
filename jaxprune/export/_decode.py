"""Decoding inside the ONNX graph: raw heads to boxes in pixels, objectness and class probabilities.

YOLOv7's rule: with s the sigmoid, a cell's box has its centre at (2·s - 0.5 + cell)·stride and the size (2·s)²·anchor.
"""

import numpy as np

from jaxprune.export._graph import GraphBuilder
from jaxprune.models.spec import ArchSpec

OUTPUT = 'output'


def predictions(spec: ArchSpec, image_size: tuple[int, int]) -> int:
    """Number of boxes that the network predicts for an image of `image_size` (rows, columns)."""
    levels = zip(spec.anchors, spec.strides, strict=True)
    return sum(len(anchors) * cells(image_size, stride).shape[0] for anchors, stride in levels)


def cells(image_size: tuple[int, int], stride: int) -> np.ndarray:
    """Column and row of every cell of one level, row by row: [h·w, 2] float32."""
    rows, columns = np.indices((image_size[0] // stride, image_size[1] // stride))
    return np.stack([columns.ravel(), rows.ravel()], axis=-1).astype(np.float32)


def add_decode(builder: GraphBuilder, spec: ArchSpec, image_size: tuple[int, int]) -> str:
    """Appends the decoding of all heads: [N, predictions, 5+C], over levels, anchors, rows and columns."""
    values = 5 + len(spec.classes)
    levels = [_flatten(builder, level, len(anchors), values) for level, anchors in enumerate(spec.anchors)]
    raw = builder.add('Concat', levels, 'raw', axis=1)
    probabilities = builder.add('Sigmoid', [raw], 'probabilities')
    centre, size, scores = (
        _slice(builder, probabilities, name, start, stop)
        for name, start, stop in (('centre', 0, 2), ('size', 2, 4), ('scores', 4, values))
    )
    scale, shift, anchor = _box_constants(builder, spec, image_size)
    boxes = [
        builder.add('Add', [builder.add('Mul', [centre, scale], 'centre_scaled'), shift], 'centre_pixels'),
        builder.add('Mul', [builder.add('Mul', [size, size], 'size_squared'), anchor], 'size_pixels'),
    ]
    return builder.add('Concat', [*boxes, scores], OUTPUT, axis=-1)


def _flatten(builder: GraphBuilder, level: int, anchors: int, values: int) -> str:
    """[N, A·(5+C), h, w] -> [N, A·h·w, 5+C]; a zero in a shape keeps that axis, so the batch may be dynamic."""
    name = f'head_{level}'
    split = builder.constant(f'shape_split_{anchors}', np.array([0, anchors, values, -1], np.int64))
    joined = builder.constant('shape_joined', np.array([0, -1, values], np.int64))
    by_anchor = builder.add('Reshape', [name, split], f'{name}_by_anchor')
    values_last = builder.add('Transpose', [by_anchor], f'{name}_values_last', perm=(0, 1, 3, 2))
    return builder.add('Reshape', [values_last, joined], f'{name}_flat')


def _slice(builder: GraphBuilder, value: str, output: str, start: int, stop: int) -> str:
    bounds = [builder.constant(f'int_{bound}', np.array([bound], np.int64)) for bound in (start, stop, -1)]
    return builder.add('Slice', [value, *bounds], output)


def _box_constants(builder: GraphBuilder, spec: ArchSpec, image_size: tuple[int, int]) -> list[str]:
    """Per prediction: factor and shift of the centre, factor of the size; [predictions, 1 or 2] float32."""
    scales, shifts, sizes = [], [], []
    for anchors, stride in zip(spec.anchors, spec.strides, strict=True):
        grid = cells(image_size, stride)
        scales.append(np.full((len(anchors) * len(grid), 1), 2 * stride, np.float32))
        shifts.append(np.tile((grid - np.float32(0.5)) * np.float32(stride), (len(anchors), 1)))
        sizes.append(np.repeat(4 * np.asarray(anchors, np.float32), len(grid), axis=0))
    columns = (('centre_scale', scales), ('centre_shift', shifts), ('size_scale', sizes))
    return [builder.constant(name, np.concatenate(column)) for name, column in columns]
