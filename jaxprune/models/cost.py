"""Parameters and GFLOPs, counted as in the published tables."""

import dataclasses

import jax

from jaxprune.models import layers
from jaxprune.models import spec as specs
from jaxprune.models.detector import Detector, Variables, check_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer contributes: folded parameters (implicits included) and GFLOPs."""

    index: int
    name: str
    pytorch_name: str
    in_channels: int
    channels: int
    parameters_published: int
    gflops: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model costs.

    Attributes:
      parameters: entries of `params` as stored, without running statistics.
      parameters_published: entries after batch normalisation and RepConv branches are folded into the convolutions;
        those of ImplicitA and ImplicitM still count.
      gflops: 1e-9 times: 2 per multiply-accumulate of the folded convolutions, 2 per output element of nearest
        upsampling; auxiliary heads do not count (the layers that only feed them do, as in the published figures).
      layers: the same, layer by layer, in published index order (upsampling belongs to no layer).
    """

    parameters: int
    parameters_published: int
    gflops: float
    layers: tuple[LayerCost, ...]


def count(model: Detector, variables: Variables, image_size: int | tuple[int, int] = 640) -> Cost:
    """Counts a model's parameters, and its operations for one image.

    Args:
      model: what `create` or `load` returned.
      variables: its variables.
      image_size: side of a square image, or (height, width), in pixels.

    Raises:
      UserError: for an image size that the stride does not divide.
    """
    stored = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    return dataclasses.replace(spec_cost(model.spec, image_size), parameters=stored)


def spec_cost(spec: specs.ArchSpec, image_size: int | tuple[int, int] = 640) -> Cost:
    """`count` of a spec alone; `parameters` is what a folded model without implicits stores."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_size(spec, height, width)
    widths = spec.widths()
    sizes = {specs.IMAGE: (height, width)}
    rows: list[LayerCost] = []
    upsampling = 0
    for node in spec.nodes:
        sizes[node.name] = _size(node, sizes[node.inputs[0]])
        if isinstance(node, specs.Layer):
            size = (0, 0) if node.name in spec.auxiliary else sizes[node.name]  # evaluation never runs these
            rows.append(_layer_cost(len(rows), node, widths[node.inputs[0]], size))
        elif isinstance(node, specs.Upsample):
            upsampling += 2 * widths[node.name] * _area(sizes[node.name])
    published = sum(row.parameters_published for row in rows)
    return Cost(
        parameters=published - sum(_implicits(node, widths) for node in spec.layers),
        parameters_published=published,
        gflops=sum(row.gflops for row in rows) + upsampling / 1e9,
        layers=tuple(rows),
    )


def _layer_cost(index: int, node: specs.Layer, inputs: int, size: tuple[int, int]) -> LayerCost:
    kernel = {'conv': getattr(node, 'kernel', (1, 1)), 'repconv': (3, 3), 'head': (1, 1)}[node.op]
    weights = _area(kernel) * inputs // getattr(node, 'groups', 1) * node.channels
    return LayerCost(
        index=index,
        name=node.name,
        pytorch_name=node.pytorch_name,
        in_channels=inputs,
        channels=node.channels,
        parameters_published=weights + node.channels + _implicits(node, {node.inputs[0]: inputs}),
        gflops=2 * weights * _area(size) / 1e9,
    )


def _implicits(node: specs.Node, widths: dict[str, int]) -> int:
    return widths[node.inputs[0]] + node.channels if isinstance(node, specs.Head) and node.implicit else 0


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _size(node: specs.Node, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a node's output."""
    match node:
        case specs.Upsample():
            return size[0] * node.factor, size[1] * node.factor
        case specs.RepConv():
            node = layers.branches(node)[0]
        case specs.Concat() | specs.Add() | specs.Head():
            return size
        case specs.Reorg():
            return size[0] // 2, size[1] // 2
    assert isinstance(node, specs.Conv | specs.MaxPool)
    dilations = getattr(node, 'dilation', (1, 1))
    rows, columns = (
        (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, pad, dilation in zip(
            size, node.kernel, node.stride, node.padding, dilations, strict=True
        )
    )
    return rows, columns
