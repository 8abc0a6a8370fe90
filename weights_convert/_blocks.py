"""From PyTorch modules that are made of others (spatial pyramids, bottlenecks, ...) to nodes of a spec.

The nodes stand in the order of the submodules' names (cv1, cv2, ...) as far as one can be computed after the other.
"""

from jaxprune.models import spec as specs
from weights_convert._layers import pool
from weights_convert._modules import Module
from weights_convert._translation import Translation, Translator, one


def _join(translation: Translation, module: Module, *sources: str, name: str = 'join') -> str:
    return translation.add(specs.Concat, f'{module.path}.{name}', sources)


def _sppcspc(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """Cross stage partial block with spatial pyramid pooling: seven convolutions."""
    source = one(module, inputs)
    cv1 = translation.chain(module, source, 'cv1')
    aside = translation.chain(module, source, 'cv2')
    cv4 = translation.chain(module, cv1, 'cv3', 'cv4')
    cv6 = translation.chain(module, _pyramid(translation, module, cv4), 'cv5', 'cv6')
    return translation.chain(module, _join(translation, module, cv6, aside), 'cv7')


def _spp(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """Spatial pyramid pooling between two convolutions."""
    cv1 = translation.chain(module, one(module, inputs), 'cv1')
    return translation.chain(module, _pyramid(translation, module, cv1), 'cv2')


def _pyramid(translation: Translation, module: Module, source: str) -> str:
    """The source and what each pooling in the list `m` makes of it."""
    pools = [translation.follow(child, source) for child in module.child('m').children.values()]
    return _join(translation, module, source, *pools, name='pyramid')


def _sppf(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """The same pyramid by one pooling, three times over."""
    outputs = [translation.chain(module, one(module, inputs), 'cv1')]
    for index in range(3):
        outputs.append(pool(translation, f'{module.path}.m.{index}', outputs[-1], module.child('m')))
    return translation.chain(module, _join(translation, module, *outputs, name='pyramid'), 'cv2')


def _downc(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """Halves the resolution by a strided convolution and by pooling, side by side."""
    source = one(module, inputs)
    strided = translation.chain(module, source, 'cv1', 'cv2')
    pooled = translation.chain(module, source, 'mp', 'cv3')
    return _join(translation, module, strided, pooled)


def _stem(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """Quarters the resolution: convolution, then a strided convolution beside a pooling."""
    cv1 = translation.chain(module, one(module, inputs), 'cv1')
    strided = translation.chain(module, cv1, 'cv2', 'cv3')
    return translation.chain(module, _join(translation, module, strided, translation.chain(module, cv1, 'pool')), 'cv4')


def _focus(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """Blocks of pixels into channels, then a convolution."""
    blocks = translation.add(specs.Reorg, f'{module.path}.reorg', (one(module, inputs),))
    return translation.chain(module, blocks, 'conv')


def _ghost_conv(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """A convolution, and beside its output what a depthwise one makes of it (Han et al., CVPR 2020)."""
    cv1 = translation.chain(module, one(module, inputs), 'cv1')
    return _join(translation, module, cv1, translation.chain(module, cv1, 'cv2'))


def _ghost(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    conv = translation.chain(module, one(module, inputs), 'conv')
    shortcut = translation.chain(module, one(module, inputs), 'shortcut')
    return translation.add(specs.Add, f'{module.path}.add', (conv, shortcut))


def _residual(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """Two or three convolutions (Bottleneck, Res), with the input added where the module says so."""
    source, parts = one(module, inputs), [name for name in ('cv1', 'cv2', 'cv3') if name in module.children]
    output = translation.chain(module, source, *parts)
    if module.flag('add'):
        return translation.add(specs.Add, f'{module.path}.add', (source, output))
    return output


def _csp_a(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """Cross stage partial block: a chain of bottlenecks beside one convolution."""
    source = one(module, inputs)
    cv1 = translation.chain(module, source, 'cv1')
    aside = translation.chain(module, source, 'cv2')
    return translation.chain(module, _join(translation, module, translation.chain(module, cv1, 'm'), aside), 'cv3')


def _csp_b(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """The same, with both branches after the first convolution."""
    cv1 = translation.chain(module, one(module, inputs), 'cv1')
    aside = translation.chain(module, cv1, 'cv2')
    return translation.chain(module, _join(translation, module, translation.chain(module, cv1, 'm'), aside), 'cv3')


def _csp_c(translation: Translation, module: Module, inputs: tuple[str, ...]) -> str:
    """The same as the first, with a convolution after the chain."""
    source = one(module, inputs)
    cv1 = translation.chain(module, source, 'cv1')
    aside = translation.chain(module, source, 'cv2')
    return translation.chain(
        module, _join(translation, module, translation.chain(module, cv1, 'm', 'cv3'), aside), 'cv4'
    )


_RESIDUALS = ('Bottleneck', 'Res', 'ResX', 'RepBottleneck', 'RepRes', 'RepResX')

TRANSLATORS: dict[str, Translator] = {
    'SPPCSPC': _sppcspc,
    'DownC': _downc,
    'SPP': _spp,
    'SPPF': _sppf,
    'Stem': _stem,
    'Focus': _focus,
    'GhostConv': _ghost_conv,
    'Ghost': _ghost,
    'GhostSPPCSPC': _sppcspc,
    'GhostStem': _stem,
    **dict.fromkeys(_RESIDUALS, _residual),
    **{f'{name}CSPA': _csp_a for name in (*_RESIDUALS, 'Ghost')},
    **{f'{name}CSPB': _csp_b for name in (*_RESIDUALS, 'Ghost')},
    **{f'{name}CSPC': _csp_c for name in (*_RESIDUALS, 'Ghost')},
}
