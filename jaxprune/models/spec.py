"""`ArchSpec`: an architecture as data.

A spec is a list of named nodes in an order in which they can be computed. A node says which operation it is, which
nodes it reads and, where it produces channels of its own, how many. Everything else (input widths, costs, exported
graphs) is derived from that, so a pruned network is the same spec with other channel counts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from jaxprune.errors import UserError

IMAGE = 'image'
FORMS = ('training', 'deploy', 'fused')
VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One operation: `name` is its module's name, `inputs` are names of earlier nodes or `IMAGE`."""

    op: ClassVar[str]
    name: str
    pytorch_name: str
    inputs: tuple[str, ...]

    def width(self, inputs: Sequence[int]) -> int:
        """Number of channels of the output, from those of the inputs."""
        return sum(inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer(Node):
    """A node with `channels` of its own, one per filter."""

    channels: int

    def width(self, inputs: Sequence[int]) -> int:
        """Its own channels, whatever it reads."""
        return self.channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conv(Layer):
    """Convolution, then batch normalisation (or a bias, where `epsilon` is None), then an activation.

    Attributes:
      kernel, stride, padding, dilation: (rows, columns); zeros are padded on both sides.
      epsilon: of the batch normalisation; None where there is none and the convolution has a bias.
      activation: `silu`, `leaky_relu:0.1` (with its slope), `relu`, `relu6`, `hardswish` or `identity`.
      pytorch_conv: name of the `nn.Conv2d` within the PyTorch module; empty where it is that module itself.
    """

    op: ClassVar[str] = 'conv'
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    epsilon: float | None = None
    activation: str = 'identity'
    pytorch_conv: str = 'conv'


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepConv(Layer):
    """RepVGG convolution: 3×3 with BN plus 1×1 with BN plus, if `identity`, BN of the input; then an activation."""

    op: ClassVar[str] = 'repconv'
    stride: tuple[int, int] = (1, 1)
    identity: bool = False
    epsilon: float
    activation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaxPool(Node):
    """Maximum over a window; the padding never wins."""

    op: ClassVar[str] = 'max_pool'
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upsample(Node):
    """Nearest-neighbour enlargement by a whole factor."""

    op: ClassVar[str] = 'upsample'
    factor: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Concat(Node):
    """Channels of all inputs, one after the other."""

    op: ClassVar[str] = 'concat'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Add(Node):
    """Sum of inputs with equal shapes."""

    op: ClassVar[str] = 'add'

    def width(self, inputs: Sequence[int]) -> int:
        """That of any input."""
        return inputs[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reorg(Node):
    """Every 2x2 block of pixels into channels: four times the channels at half the resolution.

    First all channels of the blocks' upper left pixels, then lower left, upper right, lower right.
    """

    op: ClassVar[str] = 'reorg'

    def width(self, inputs: Sequence[int]) -> int:
        """Four times that of the input."""
        return 4 * inputs[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head(Layer):
    """1×1 convolution with bias that predicts `anchors · (5 + classes)` values per cell.

    With `implicit` (YOLOR's ImplicitA and ImplicitM), a learned vector is added to its input and another multiplies its
    output.
    """

    op: ClassVar[str] = 'head'
    implicit: bool = False


NODES: dict[str, type[Node]] = {cls.op: cls for cls in (Conv, RepConv, MaxPool, Upsample, Concat, Add, Reorg, Head)}


def needed(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[Node, ...]:
    """The nodes that some of the outputs depend on, in order."""
    wanted = set(outputs)
    for node in reversed(nodes):
        wanted.update(node.inputs if node.name in wanted else ())
    return tuple(node for node in nodes if node.name in wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """A detector's architecture.

    Attributes:
      name: of the architecture, such as `yolov7-tiny`.
      form: `training`, `deploy` or `fused`.
      classes: class names.
      anchors: per level, per anchor: (width, height) in pixels.
      strides: per level, in pixels.
      nodes: in the layer order of the published tables (the PyTorch module order, heads last), which is also an
        order in which they can be computed.
      outputs: names of the heads, level by level.
      auxiliary: names of the auxiliary heads, level by level, which only the loss of a training form reads.
    """

    name: str
    form: str
    classes: tuple[str, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    strides: tuple[int, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    auxiliary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen = {IMAGE}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in seen]
            if missing or node.name in seen:
                raise UserError(
                    f'spec {self.name!r}: node {node.name!r} reads {missing} before it is defined, or stands twice'
                )
            seen.add(node.name)
        if self.form not in FORMS:
            raise UserError(f'spec {self.name!r}: form {self.form!r} is not one of {", ".join(FORMS)}')
        self._check_groups()
        self._check_heads()

    def _check_groups(self) -> None:
        """Raises `UserError` for a convolution whose channels cannot be divided into its groups."""
        widths = self.widths()
        for node in self.nodes:
            groups = getattr(node, 'groups', 1)
            if groups < 1 or widths[node.inputs[0]] % groups or widths[node.name] % groups:
                raise UserError(
                    f'spec {self.name!r}: {node.name!r} has {groups} groups, into which the {widths[node.inputs[0]]} '
                    f'channels that it reads or its own {widths[node.name]} cannot be divided'
                )

    def _check_heads(self) -> None:
        """Raises `UserError` where levels, classes and heads do not fit together."""
        levels = {len(self.anchors), len(self.strides), len(self.outputs), len(self.auxiliary) or len(self.outputs)}
        if len(levels) != 1 or not self.outputs:
            raise UserError(f'spec {self.name!r}: its anchors, strides and heads are not for the same number of levels')
        if not self.classes or not all(isinstance(name, str) and name.isprintable() for name in self.classes):
            raise UserError(f'spec {self.name!r}: its classes are not names, or have characters that cannot be shown')
        heads = {node.name: node.channels for node in self.nodes if isinstance(node, Head)}
        for index, name in enumerate((*self.outputs, *self.auxiliary)):
            expected = len(self.anchors[index % len(self.outputs)]) * (5 + len(self.classes))
            if heads.get(name) != expected:
                raise UserError(
                    f'spec {self.name!r}: {name!r} is not a head of {expected} channels, which its anchors and '
                    f'{len(self.classes)} classes need'
                )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The nodes that have channels of their own; a layer's index is its place here."""
        return tuple(node for node in self.nodes if isinstance(node, Layer))

    @property
    def max_stride(self) -> int:
        """Pixels by which an image's height and width must be divisible."""
        return max(self.strides)

    def widths(self) -> dict[str, int]:
        """Number of channels of every node's output, and of the image."""
        return _widths(self.nodes)

    def resize(self, widths: Mapping[str, int]) -> Self:
        """The same architecture with other channel counts for the layers named in `widths`.

        A depthwise convolution stays one: it has as many groups as channels to read.
        """
        nodes = tuple(
            dataclasses.replace(node, channels=int(widths[node.name]))
            if isinstance(node, Layer) and node.name in widths
            else node
            for node in self.nodes
        )
        before, after = self.widths(), _widths(nodes)
        depthwise = {
            node.name: after[node.inputs[0]]
            for node in self.nodes
            if isinstance(node, Conv) and node.groups == before[node.inputs[0]]
        }
        nodes = tuple(
            dataclasses.replace(node, groups=depthwise[node.name])
            if isinstance(node, Conv) and node.name in depthwise
            else node
            for node in nodes
        )
        return dataclasses.replace(self, nodes=nodes)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `json` can write and `from_json` reads back."""
        plain = dataclasses.asdict(self)
        plain['nodes'] = [{'op': node.op, **dataclasses.asdict(node)} for node in self.nodes]
        return {'version': VERSION, **plain}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote; a version from the future or an unknown operation is a `UserError`."""
        fields = dict(plain)
        version = fields.pop('version', None)
        if version != VERSION:
            raise UserError(f'spec version {version!r} cannot be read here (this program reads version {VERSION})')
        try:
            nodes = tuple(_node(node) for node in fields.pop('nodes'))
            return cls(nodes=nodes, **{key: _freeze(value) for key, value in fields.items()})
        except (KeyError, TypeError) as error:
            raise UserError(f'spec is not complete or has an unknown entry: {error}') from error


def _widths(nodes: Sequence[Node]) -> dict[str, int]:
    widths = {IMAGE: 3}
    for node in nodes:
        widths[node.name] = node.width([widths[name] for name in node.inputs])
    return widths


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


def _node(plain: Mapping[str, Any]) -> Node:
    fields = {key: _freeze(value) for key, value in plain.items()}
    return NODES[fields.pop('op')](**fields)
