"""From YOLOv7's detection modules to the heads of a spec."""

from jaxprune.models import spec as specs
from weights_convert._errors import ConversionError
from weights_convert._layers import convolution_settings
from weights_convert._modules import Module
from weights_convert._translation import Translation, Translator


def _detect(translation: Translation, module: Module, inputs: tuple[str, ...]) -> None:
    """Detect, or IDetect with YOLOR's implicit vectors: a head per level."""
    _add_heads(translation, module, inputs, ())


def _auxiliary_detect(translation: Translation, module: Module, inputs: tuple[str, ...]) -> None:
    """IAuxDetect: an IDetect, and for every level another head, which is there for training only."""
    _add_heads(translation, module, inputs, tuple(module.child('m2').children.values()))


def _add_heads(
    translation: Translation, module: Module, inputs: tuple[str, ...], auxiliary: tuple[Module, ...]
) -> None:
    lead = tuple(module.child('m').children.values())
    fits = len(inputs) == len(lead) + len(auxiliary) and len(auxiliary) in (0, len(lead))
    if translation.detect is not None or not fits or not lead:
        raise ConversionError(
            f'{module.place}: expected one detection module, with as many heads as layers that it reads'
        )
    translation.detect = module
    implicit = has_implicit_vectors(module)
    for conv, source in zip(lead, inputs, strict=False):
        translation.outputs.append(_head(translation, conv, source, implicit=implicit))
    if implicit:  # a module whose vectors have been folded no longer computes these
        for conv, source in zip(auxiliary, inputs[len(lead) :], strict=True):
            translation.auxiliary.append(_head(translation, conv, source, implicit=False))


def has_implicit_vectors(module: Module) -> bool:
    """Whether a detection module applies ImplicitA and ImplicitM; YOLOv7's `fuse` folds them and leaves them there."""
    return module.kind in ('IDetect', 'IAuxDetect') and not module.is_fused


def _head(translation: Translation, conv: Module, source: str, *, implicit: bool) -> str:
    settings = convolution_settings(conv)
    expected = {'kernel': (1, 1), 'stride': (1, 1), 'padding': (0, 0), 'groups': 1}
    if any(settings[key] != value for key, value in expected.items()) or 'bias' not in conv.tensors:
        raise ConversionError(f'{conv.place}: a head is a 1x1 convolution with bias')
    return translation.add(specs.Head, conv.path, (source,), channels=settings['channels'], implicit=implicit)


TRANSLATORS: dict[str, Translator] = {'Detect': _detect, 'IDetect': _detect, 'IAuxDetect': _auxiliary_detect}
