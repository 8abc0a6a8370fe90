"""The repeated blocks of the YOLOv7 family, each written once: functions that append to a spec's nodes.

A builder counts modules as the PyTorch implementation does: every simple block is one entry of its module list, so that
names and the published layer order agree; `sppcspc` and `down_csp` are one entry each, with convolutions inside.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from jaxprune.models import spec as specs


@dataclasses.dataclass
class Builder:
    """Nodes so far, and the settings that all of them share.

    Attributes:
      activation, epsilon: of every convolution.
      width_multiple: scales every channel count.
      nodes: so far, in order.
      widths: channels of every node's output, and of the image.
      named: nodes that the configuration gave a name.
      modules: entries of the PyTorch module list so far.
    """

    activation: str
    width_multiple: float = 1.0
    epsilon: float = 1e-3
    nodes: list[specs.Node] = dataclasses.field(default_factory=list)
    widths: dict[str, int] = dataclasses.field(default_factory=lambda: {specs.IMAGE: 3})
    named: dict[str, str] = dataclasses.field(default_factory=dict)
    modules: int = 0

    def next_module(self) -> str:
        """PyTorch name of the next entry of the module list."""
        self.modules += 1
        return f'model.{self.modules - 1}'

    def add(self, cls: type[specs.Node], *inputs: str, pytorch_name: str | None = None, **options: Any) -> str:
        """Appends a node and returns its name."""
        pytorch_name = pytorch_name or self.next_module()
        name = pytorch_name.replace('.', '_')
        node = cls(name=name, pytorch_name=pytorch_name, inputs=inputs, **options)
        self.nodes.append(node)
        self.widths[name] = node.width([self.widths[source] for source in inputs])
        return name

    def scaled(self, channels: int) -> int:
        """Channels times the width multiple, rounded up to a multiple of 8."""
        return math.ceil(channels * self.width_multiple / 8) * 8


def conv(
    b: Builder, x: str, *, channels: int, kernel: int = 1, stride: int = 1, pytorch_name: str | None = None
) -> str:
    """Convolution with "same" padding, batch normalisation and the spec's activation."""
    return _conv(b, x, b.scaled(channels), kernel=kernel, stride=stride, pytorch_name=pytorch_name)


def _conv(b: Builder, x: str, channels: int, *, kernel: int, stride: int, pytorch_name: str | None) -> str:
    return b.add(
        specs.Conv,
        x,
        pytorch_name=pytorch_name,
        channels=channels,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        epsilon=b.epsilon,
        activation=b.activation,
    )


def repconv(b: Builder, x: str, *, channels: int, identity: bool) -> str:
    """RepVGG convolution (Ding et al., CVPR 2021)."""
    return b.add(
        specs.RepConv, x, channels=b.scaled(channels), identity=identity, epsilon=b.epsilon, activation=b.activation
    )


def max_pool(
    b: Builder, x: str, *, kernel: int = 2, stride: int = 2, padding: int = 0, pytorch_name: str | None = None
) -> str:
    """Maximum over a square window."""
    window: dict[str, Any] = {'kernel': (kernel, kernel), 'stride': (stride, stride), 'padding': (padding, padding)}
    return b.add(specs.MaxPool, x, pytorch_name=pytorch_name, **window)


def concat(b: Builder, *inputs: str, pytorch_name: str | None = None) -> str:
    """Channels of all inputs."""
    return b.add(specs.Concat, *inputs, pytorch_name=pytorch_name)


def elan(b: Builder, x: str, *, width: int, inner: int, depth: int, channels: int, tap: int = 1) -> str:
    """Efficient layer aggregation (YOLOv7, section 3.1): two 1x1 branches, `depth` 3x3 convolutions after the second.

    Every `tap`-th convolution, counted back from the last, is concatenated with both branches, newest first.
    """
    first = conv(b, x, channels=width)
    chain = [conv(b, x, channels=width)]
    for _ in range(depth):
        chain.append(conv(b, chain[-1], channels=inner, kernel=3))
    return conv(b, concat(b, *chain[::-1][::tap], first), channels=channels)


def e_elan(b: Builder, x: str, *, second: str | None = None, **options: int) -> str:
    """Extended ELAN (YOLOv7, section 3.1) as YOLOv7-E6E has it: two `elan` side by side, added.

    `second` names the output of the second one, for what reads it alone.
    """
    outputs = [elan(b, x, **options) for _ in range(2)]
    if second:
        b.named[second] = outputs[1]
    return add(b, *outputs[::-1])


def add(b: Builder, *inputs: str) -> str:
    """Sum of all inputs."""
    return b.add(specs.Add, *inputs)


def reorg(b: Builder, x: str) -> str:
    """Every 2x2 block of pixels into channels."""
    return b.add(specs.Reorg, x)


def down(b: Builder, x: str, *, width: int, skip: str | None = None) -> str:
    """Halves the resolution by pooling and by a strided convolution, side by side; joins `skip`, where there is one."""
    pooled = conv(b, max_pool(b, x), channels=width)
    strided = conv(b, conv(b, x, channels=width), channels=width, kernel=3, stride=2)
    return concat(b, strided, pooled, *([skip] if skip else []))


def down_csp(b: Builder, x: str, *, channels: int) -> str:
    """Halves the resolution as `down` does, in one module: half of the channels strided, half pooled."""
    module, half = b.next_module(), b.scaled(channels) // 2

    def part(name: str, x: str, channels: int, kernel: int = 1, stride: int = 1) -> str:
        return _conv(b, x, channels, kernel=kernel, stride=stride, pytorch_name=f'{module}.{name}')

    strided = part('cv2', part('cv1', x, b.widths[x]), half, kernel=3, stride=2)
    pooled = part('cv3', max_pool(b, x, pytorch_name=f'{module}.mp'), half)
    return concat(b, strided, pooled, pytorch_name=f'{module}.join')


def up(b: Builder, x: str, *, width: int, skip: str) -> str:
    """Narrows, doubles the resolution and joins the narrowed `skip`."""
    enlarged = b.add(specs.Upsample, conv(b, x, channels=width), factor=2)
    return concat(b, conv(b, skip, channels=width), enlarged)


def spp(b: Builder, x: str, *, width: int) -> str:
    """Spatial pyramid pooling of YOLOv7-tiny, between two 1x1 branches."""
    aside = conv(b, x, channels=width)
    narrow = conv(b, x, channels=width)
    pools = [max_pool(b, narrow, kernel=k, stride=1, padding=k // 2) for k in (5, 9, 13)]
    pooled = conv(b, concat(b, *pools[::-1], narrow), channels=width)
    return conv(b, concat(b, pooled, aside), channels=width)


def sppcspc(b: Builder, x: str, *, channels: int) -> str:
    """Spatial pyramid pooling in a cross stage partial block: one module with the convolutions cv1 to cv7."""
    module = b.next_module()

    def part(name: str, x: str, kernel: int = 1) -> str:
        return conv(b, x, channels=channels, kernel=kernel, pytorch_name=f'{module}.{name}')

    cv1 = part('cv1', x)
    aside = part('cv2', x)
    cv4 = part('cv4', part('cv3', cv1, 3))
    pools = [
        max_pool(b, cv4, kernel=k, stride=1, padding=k // 2, pytorch_name=f'{module}.m.{i}')
        for i, k in enumerate((5, 9, 13))
    ]
    pooled = part('cv5', concat(b, cv4, *pools, pytorch_name=f'{module}.pyramid'))
    joined = concat(b, part('cv6', pooled, 3), aside, pytorch_name=f'{module}.join')
    return part('cv7', joined)


BLOCKS: dict[str, Callable[..., str]] = {
    'conv': conv,
    'repconv': repconv,
    'max_pool': max_pool,
    'concat': concat,
    'add': add,
    'reorg': reorg,
    'elan': elan,
    'e_elan': e_elan,
    'down': down,
    'down_csp': down_csp,
    'up': up,
    'spp': spp,
    'sppcspc': sppcspc,
}
