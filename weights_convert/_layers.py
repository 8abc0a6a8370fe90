"""From PyTorch modules to nodes of a spec, and to the links that say where their tensors go.

Every kind of module has one function in `TRANSLATORS`; it appends what the module computes and returns the name of the
node with its output. All numbers come from the modules' settings and tensor shapes, never from a configuration.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxprune.models import spec as specs
from weights_convert import _names
from weights_convert._errors import ConversionError
from weights_convert._modules import Module

_ACTIVATIONS = {
    'nn.SiLU': 'silu',
    'nn.ReLU': 'relu',
    'nn.ReLU6': 'relu6',
    'nn.Hardswish': 'hardswish',
    'nn.Identity': 'identity',
    'SiLU': 'silu',
    'Hardswish': 'hardswish',
}


@dataclasses.dataclass
class Translation:
    """What has been translated so far; `detect` is the detection module, once it has been met."""

    nodes: list[specs.Node] = dataclasses.field(default_factory=list)
    links: list[_names.Link] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    detect: Module | None = None

    def add(self, cls: type[specs.Node], path: str, inputs: tuple[str, ...], **options: Any) -> str:
        """Appends a node for the module at `path` and returns its name."""
        name = path.replace('.', '_')
        self.nodes.append(cls(name=name, pytorch_name=path, inputs=inputs, **options))
        return name


def translate(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str | None:
    """Appends what `module` computes from the nodes `inputs`; returns its output, None for the detection module.

    Raises:
      ConversionError: a module or a setting that is not supported.
    """
    if module.kind not in TRANSLATORS:
        supported = ', '.join(TRANSLATORS)
        raise ConversionError(f'{module.place}: this module is not supported; supported are {supported}')
    several = module.kind in ('Concat', 'Detect', 'IDetect')
    if len(inputs) != 1 and not several:
        raise ConversionError(f'{module.place} reads {len(inputs)} layers, expected one')
    return TRANSLATORS[module.kind](translation, module, inputs)


def _conv(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """YOLOv7's Conv: convolution, BN unless it is fused, activation."""
    bn = module.children.get('bn')
    return _convolution(
        translation, module.path, inputs, module.child('conv'), bn=bn, activation=_activation(module.child('act'))
    )


def _plain_convolution(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    return _convolution(translation, module.path, inputs, module)


def _convolution(
    translation: Translation,
    path: str,
    inputs: tuple[str, ...],
    conv: Module,
    *,
    bn: Module | None = None,
    activation: str = 'identity',
) -> str:
    settings = _settings(conv)
    if bn is not None and bn.kind == 'nn.Identity':
        bn = None
    if ('bias' in conv.tensors) == (bn is not None):
        raise ConversionError(f'{conv.place}: expected either a bias or batch normalisation, found both or neither')
    epsilon = None if bn is None else _epsilon(bn)
    name = translation.add(specs.Conv, path, inputs, epsilon=epsilon, activation=activation, **settings)
    translation.links += _names.convolution(conv.path, (name, 'conv'), bias=bn is None)
    translation.links += _names.normalisation(bn.path, (name, 'bn')) if bn is not None else ()
    return name


def _settings(conv: Module) -> dict[str, Any]:
    """Fields of `specs.Conv` as a `nn.Conv2d` has them."""
    if conv.kind != 'nn.Conv2d':
        raise ConversionError(f'{conv.place}: expected a torch.nn.Conv2d')
    conv.require(padding_mode='zeros', transposed=False)
    channels, _, *kernel = conv.tensor('weight', 4).shape
    groups, _ = conv.pair('groups')
    if channels % groups:
        raise ConversionError(f'{conv.place}: {channels} filters cannot be divided into {groups} groups')
    return {
        'channels': channels,
        'kernel': tuple(kernel),
        'stride': conv.pair('stride'),
        'padding': conv.pair('padding', minimum=0),
        'dilation': conv.pair('dilation'),
        'groups': groups,
    }


def _epsilon(bn: Module) -> float:
    if bn.kind not in ('nn.BatchNorm2d', 'nn.SyncBatchNorm'):
        raise ConversionError(f'{bn.place}: expected a torch.nn.BatchNorm2d')
    return bn.number('eps')


def _activation(module: Module) -> str:
    if module.kind == 'nn.LeakyReLU':
        return f'leaky_relu:{module.number("negative_slope")}'
    if module.kind not in _ACTIVATIONS:
        supported = ', '.join(['nn.LeakyReLU', *_ACTIVATIONS])
        raise ConversionError(f'{module.place}: this activation is not supported; supported are {supported}')
    return _ACTIVATIONS[module.kind]


def _repconv(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """RepConv with its branches, or, where they have been folded, one convolution."""
    activation = _activation(module.child('act'))
    if 'rbr_reparam' in module.children:
        return _convolution(translation, module.path, inputs, module.child('rbr_reparam'), activation=activation)
    dense, dense_bn = _branch(module, 'rbr_dense', kernel=3)
    pointwise, pointwise_bn = _branch(module, 'rbr_1x1', kernel=1)
    identity = module.children.get('rbr_identity')
    normalisations = [bn for bn in (dense_bn, pointwise_bn, identity) if bn is not None]
    settings, other = _settings(dense), _settings(pointwise)
    epsilons = {_epsilon(bn) for bn in normalisations}
    if any(settings[key] != other[key] for key in ('channels', 'stride')) or len(epsilons) != 1:
        raise ConversionError(f'{module.place}: its branches differ in channels, stride or epsilon')
    name = translation.add(
        specs.RepConv,
        module.path,
        inputs,
        channels=settings['channels'],
        stride=settings['stride'],
        identity=identity is not None,
        epsilon=epsilons.pop(),
        activation=activation,
    )
    for branch, conv, bn in (('dense', dense, dense_bn), ('pointwise', pointwise, pointwise_bn)):
        translation.links += _names.convolution(conv.path, (name, branch, 'conv'), bias=False)
        translation.links += _names.normalisation(bn.path, (name, branch, 'bn'))
    translation.links += _names.normalisation(identity.path, (name, 'identity')) if identity is not None else ()
    return name


def _branch(module: Module, name: str, *, kernel: int) -> tuple[Module, Module]:
    """Convolution and batch normalisation of one branch of a RepConv."""
    branch = module.child(name)
    conv, bn = branch.child('0'), branch.child('1')
    settings = _settings(conv)
    expected = {'kernel': (kernel,) * 2, 'padding': (kernel // 2,) * 2, 'dilation': (1, 1), 'groups': 1}
    wrong = [key for key, value in expected.items() if settings[key] != value]
    if wrong or 'bias' in conv.tensors:
        raise ConversionError(
            f'{conv.place}: {wrong or ["bias"]} not as in a RepConv, which has {expected} and no bias'
        )
    return conv, bn


def _max_pool(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    return _pool(translation, module.path, inputs, module)


def _wrapped_pool(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """YOLOv7's MP and SP, which hold one pooling."""
    return _pool(translation, module.path, inputs, module.child('m'))


def _pool(translation: Translation, path: str, inputs: tuple[str, ...], pool: Module) -> str:
    if pool.kind != 'nn.MaxPool2d':
        raise ConversionError(f'{pool.place}: expected a torch.nn.MaxPool2d')
    pool.require(dilation=1, ceil_mode=False, return_indices=False)
    sizes = {'kernel': pool.pair('kernel_size'), 'stride': pool.pair('stride')}
    return translation.add(specs.MaxPool, path, inputs, padding=pool.pair('padding', minimum=0), **sizes)


def _upsample(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    module.require(mode='nearest', size=None)
    factor = module.attributes.get('scale_factor')
    factors = tuple(factor) if isinstance(factor, tuple | list) else (factor, factor)
    whole = [size for size in range(1, 65) if factors == (size, size)]
    if not whole:
        raise ConversionError(f'{module.place}: only a whole scale_factor is supported')
    return translation.add(specs.Upsample, module.path, inputs, factor=whole[0])


def _concat(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    module.require(d=1)
    return translation.add(specs.Concat, module.path, inputs)


def _sppcspc(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """Cross stage partial block with spatial pyramid pooling: seven convolutions, in the order of their names."""

    def part(name: str, source: str) -> str:
        return _conv(translation, module.child(name), (source,))

    cv1 = part('cv1', inputs[0])
    aside = part('cv2', inputs[0])
    cv4 = part('cv4', part('cv3', cv1))
    pools = [_max_pool(translation, pool, (cv4,)) for pool in module.child('m').children.values()]
    pyramid = translation.add(specs.Concat, f'{module.path}.pyramid', (cv4, *pools))
    cv6 = part('cv6', part('cv5', pyramid))
    return part('cv7', translation.add(specs.Concat, f'{module.path}.join', (cv6, aside)))


def _sequential(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str | None:
    """A chain, as YOLOv7 makes of a layer that is repeated."""
    output: str | None = inputs[0]
    for child in module.children.values():
        output = translate(translation, child, _known((output,), child))
    return output


def _known(inputs: tuple[str | None, ...], module: Module) -> tuple[str, ...]:
    known = tuple(name for name in inputs if name is not None)
    if len(known) != len(inputs):
        raise ConversionError(f'{module.place} reads the predictions of the detection module')
    return known


def _identity(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    return inputs[0]


def _detect(translation: Translation, module: Module, inputs: tuple[str, ...]) -> None:
    """Detect, or IDetect with YOLOR's implicit vectors: a head per level."""
    convs = tuple(module.child('m').children.values())
    if translation.detect is not None or len(convs) != len(inputs) or not convs:
        raise ConversionError(
            f'{module.place}: expected one detection module, with as many heads as layers that it reads'
        )
    translation.detect = module
    for level, (conv, source) in enumerate(zip(convs, inputs, strict=True)):
        translation.outputs.append(_head(translation, conv, source, implicit_vectors(module, level)))


def implicit_vectors(module: Module, level: int) -> tuple[Module, Module] | None:
    """ImplicitA and ImplicitM of a level; None for a Detect and where YOLOv7's `fuse` has folded them into the head."""
    forward = module.attributes.get('forward')
    folded = 'fuseforward' in getattr(forward, 'arguments', ())
    if module.kind != 'IDetect' or folded:
        return None
    return module.child('ia').child(str(level)), module.child('im').child(str(level))


def _head(translation: Translation, conv: Module, source: str, vectors: tuple[Module, Module] | None) -> str:
    settings = _settings(conv)
    expected = {'kernel': (1, 1), 'stride': (1, 1), 'padding': (0, 0), 'groups': 1}
    if any(settings[key] != value for key, value in expected.items()) or 'bias' not in conv.tensors:
        raise ConversionError(f'{conv.place}: a head is a 1x1 convolution with bias')
    name = translation.add(
        specs.Head, conv.path, (source,), channels=settings['channels'], implicit=vectors is not None
    )
    translation.links += _names.convolution(conv.path, (name, 'conv'), bias=True)
    for vector, leaf in zip(vectors or (), ('implicit_add', 'implicit_multiply'), strict=False):
        translation.links += _names.implicit(vector.path, (name, leaf))
    return name


TRANSLATORS: dict[str, Callable[[Translation, Module, tuple[str, ...]], str | None]] = {
    'Conv': _conv,
    'RepConv': _repconv,
    'Concat': _concat,
    'MP': _wrapped_pool,
    'SP': _wrapped_pool,
    'SPPCSPC': _sppcspc,
    'Detect': _detect,
    'IDetect': _detect,
    'nn.Conv2d': _plain_convolution,
    'nn.MaxPool2d': _max_pool,
    'nn.Upsample': _upsample,
    'nn.Sequential': _sequential,
    'nn.Identity': _identity,
}
