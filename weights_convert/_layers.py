"""From the simple PyTorch modules to nodes of a spec.

Every kind of module has one function in `TRANSLATORS`; it appends what the module computes and returns the name of the
node with its output. All numbers come from the modules' settings and tensor shapes, never from a configuration. Where
the tensors go follows from the nodes (`_names.links`).
"""

from typing import Any

from jaxprune.models import spec as specs
from weights_convert._activations import activation_name
from weights_convert._errors import ConversionError
from weights_convert._modules import Module
from weights_convert._translation import Translation, Translator, one


def _conv(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """YOLOv7's Conv: convolution, BN unless it is fused, activation."""
    return _convolution(translation, module, inputs, 'conv', activation_name(module.child('act')))


def _plain_convolution(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    return _convolution(translation, module, inputs, '', 'identity')


def _convolution(translation: Translation, module: Module, inputs: tuple[str, ...], child: str, activation: str) -> str:
    """The `nn.Conv2d` that is the module itself or the submodule `child`, and `bn` beside it where that is."""
    conv, bn = (module.child(child), module.children.get('bn')) if child else (module, None)
    if bn is not None and bn.kind == 'nn.Identity':
        bn = None
    if ('bias' in conv.tensors) == (bn is not None):
        raise ConversionError(f'{conv.place}: expected either a bias or batch normalisation, found both or neither')
    options = {'epsilon': None if bn is None else _epsilon(bn), 'activation': activation, 'pytorch_conv': child}
    return translation.add(specs.Conv, module.path, (one(module, inputs),), **options, **convolution_settings(conv))


def convolution_settings(conv: Module) -> dict[str, Any]:
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


def _repconv(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """RepConv with its branches, or, where they have been folded, one convolution."""
    activation = activation_name(module.child('act'))
    if 'rbr_reparam' in module.children:
        return _convolution(translation, module, inputs, 'rbr_reparam', activation)
    dense, dense_bn = _branch(module, 'rbr_dense', kernel=3)
    pointwise, pointwise_bn = _branch(module, 'rbr_1x1', kernel=1)
    identity = module.children.get('rbr_identity')
    settings, other = convolution_settings(dense), convolution_settings(pointwise)
    epsilons = {_epsilon(bn) for bn in (dense_bn, pointwise_bn, identity) if bn is not None}
    if any(settings[key] != other[key] for key in ('channels', 'stride')) or len(epsilons) != 1:
        raise ConversionError(f'{module.place}: its branches differ in channels, stride or epsilon')
    return translation.add(
        specs.RepConv,
        module.path,
        (one(module, inputs),),
        channels=settings['channels'],
        stride=settings['stride'],
        identity=identity is not None,
        epsilon=epsilons.pop(),
        activation=activation,
    )


def _branch(module: Module, name: str, *, kernel: int) -> tuple[Module, Module]:
    """Convolution and batch normalisation of one branch of a RepConv."""
    branch = module.child(name)
    conv, bn = branch.child('0'), branch.child('1')
    settings = convolution_settings(conv)
    expected = {'kernel': (kernel,) * 2, 'padding': (kernel // 2,) * 2, 'dilation': (1, 1), 'groups': 1}
    wrong = [key for key, value in expected.items() if settings[key] != value]
    if wrong or 'bias' in conv.tensors:
        raise ConversionError(
            f'{conv.place}: {wrong or ["bias"]} not as in a RepConv, which has {expected} and no bias'
        )
    return conv, bn


def _max_pool(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    return pool(translation, module.path, one(module, inputs), module)


def _wrapped_pool(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """YOLOv7's MP and SP, which hold one pooling."""
    return pool(translation, module.path, one(module, inputs), module.child('m'))


def pool(translation: Translation, path: str, source: str, module: Module) -> str:
    """A `nn.MaxPool2d`, under another path where it is read more than once."""
    if module.kind != 'nn.MaxPool2d':
        raise ConversionError(f'{module.place}: expected a torch.nn.MaxPool2d')
    module.require(dilation=1, ceil_mode=False, return_indices=False)
    sizes = {'kernel': module.pair('kernel_size'), 'stride': module.pair('stride')}
    return translation.add(specs.MaxPool, path, (source,), padding=module.pair('padding', minimum=0), **sizes)


def _upsample(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    module.require(mode='nearest', size=None)
    factor = module.attributes.get('scale_factor')
    factors = tuple(factor) if isinstance(factor, tuple | list) else (factor, factor)
    whole = [size for size in range(1, 65) if factors == (size, size)]
    if not whole:
        raise ConversionError(f'{module.place}: only a whole scale_factor is supported')
    return translation.add(specs.Upsample, module.path, (one(module, inputs),), factor=whole[0])


def _concat(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    module.require(d=1)
    return translation.add(specs.Concat, module.path, inputs)


def _shortcut(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    if len(inputs) != 2:  # more are not added in PyTorch either
        raise ConversionError(f'{module.place} reads {len(inputs)} layers, expected two')
    return translation.add(specs.Add, module.path, inputs)


def _reorg(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    return translation.add(specs.Reorg, module.path, (one(module, inputs),))


def _sequential(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """A chain, as YOLOv7 makes of a layer that is repeated."""
    return translation.chain(module, one(module, inputs), *module.children)


def _identity(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    return one(module, inputs)


TRANSLATORS: dict[str, Translator] = {
    'Conv': _conv,
    'RepConv': _repconv,
    'Concat': _concat,
    'Shortcut': _shortcut,
    'ReOrg': _reorg,
    'MP': _wrapped_pool,
    'SP': _wrapped_pool,
    'nn.Conv2d': _plain_convolution,
    'nn.MaxPool2d': _max_pool,
    'nn.Upsample': _upsample,
    'nn.Sequential': _sequential,
    'nn.Identity': _identity,
}
