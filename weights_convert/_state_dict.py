"""From tensors alone to a spec: the architecture is the one of the registry whose tensors have these names."""

import dataclasses
import functools
import re
from collections.abc import Mapping

from jaxprune import models
from jaxprune.models import spec as specs
from weights_convert import _names
from weights_convert._differences import two_sided
from weights_convert._errors import ConversionError
from weights_convert._tensors import TensorRef
from weights_convert._tree import Read, anchors_of

_WRAPPERS = frozenset({'module', '_orig_mod', '_fsdp_wrapped_module'})
_LAYER = re.compile(r'(.*?)(?:^|(?<=\.))(?:model\.)?\d+\.')
_NOT_NEEDED = ('num_batches_tracked', 'anchors', 'anchor_grid', 'n_averaged')


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """An architecture in one form.

    Attributes:
      spec: with the registry's channel counts.
      needed: names of its tensors.
      ignored: beginnings of names of tensors that may be there and that nothing reads.
    """

    spec: specs.ArchSpec
    needed: dict[str, _names.Link]
    ignored: tuple[str, ...]

    def differences(self, names: Mapping[str, TensorRef]) -> tuple[list[str], list[str]]:
        """Names that are missing, and that are unexpected."""
        missing = [name for name in self.needed if name not in names]
        return missing, [name for name in names if name not in self.needed and not self._is_ignored(name)]

    def _is_ignored(self, name: str) -> bool:
        return name.rpartition('.')[2] in _NOT_NEEDED or name.startswith(self.ignored)


def network_names(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """The tensors under the names that they have in the network, such as `model.0.conv.weight`.

    Wrappers (DataParallel's `module`, torch.compile's `_orig_mod`) and whatever stands before the layers is taken off;
    tensors of other modules beside the network, such as a loss, are left out.
    """
    inner = {'.'.join(part for part in name.split('.') if part not in _WRAPPERS): ref for name, ref in tensors.items()}
    prefix = next((match[1] for name in inner if (match := _LAYER.match(name))), '')
    own = [name for name in inner if name.startswith(prefix)]
    if 2 * len(own) < len(inner):  # of another kind of network: not a prefix
        return dict(tensors)
    plain = {name.removeprefix(prefix): inner[name] for name in own}
    renamed = {f'model.{name}' if name[:1].isdigit() else name: ref for name, ref in plain.items()}
    if len(renamed) < len(own) or len(inner) < len(tensors):
        raise ConversionError('two networks in one state_dict; keep only one of them')
    return renamed


def state_dict_spec(tensors: Mapping[str, TensorRef], read: Read, *, name: str | None) -> specs.ArchSpec:
    """The architecture whose tensors have the names given, with channel counts from their shapes.

    Args:
      tensors: by their names in the network.
      read: gives the values of a tensor.
      name: of an architecture, to choose that one; any other name is what the spec is called.

    Raises:
      ConversionError: no architecture has these names, or several that compute different things.
    """
    architectures = (name,) if name in models.architectures() else models.architectures()
    candidates = [candidate for architecture in architectures for candidate in _candidates(architecture)]
    differences = [candidate.differences(tensors) for candidate in candidates]
    fitting = [candidate for candidate, sides in zip(candidates, differences, strict=True) if not any(sides)]
    if not fitting:
        nearest, sides = min(
            zip(candidates, differences, strict=True), key=lambda pair: sum(len(side) for side in pair[1])
        )
        raise ConversionError(
            f'only tensors (a state_dict), whose names fit no architecture here; the nearest is {nearest.spec.name} '
            f'({nearest.spec.form}): {two_sided(*sides)}; save the whole model with torch.save(model, ...) instead'
        )
    different = {candidate.spec.nodes: candidate.spec.name for candidate in reversed(fitting)}
    if len(different) > 1:
        known = ', '.join(sorted(set(different.values())))
        raise ConversionError(f'only tensors (a state_dict), whose names fit {known}; choose one of them with --name')
    return _resized(fitting[0], tensors, read, name)


@functools.cache
def _candidates(architecture: str) -> tuple[_Candidate, ...]:
    """Every form, numbered as a deploy configuration does and, without auxiliary heads, as the training form does."""
    training = models.build_spec(architecture, form='training')
    found = [training]
    for form in ('deploy', 'fused'):
        found += [models.build_spec(architecture, form=form), models.with_form(training, form)]
    return tuple(_candidate(spec, training) for spec in dict.fromkeys(found))


def _candidate(spec: specs.ArchSpec, training: specs.ArchSpec) -> _Candidate:
    """YOLOv7's `fuse` leaves the implicit vectors, which it has folded, and the auxiliary heads where they were."""
    ignored: tuple[str, ...] = ()
    if spec.form == 'fused':
        detect = spec.outputs[0]
        module = next(node.pytorch_name for node in spec.layers if node.name == detect).rpartition('.m.')[0]
        kept = {node.pytorch_name for node in spec.layers}
        dropped = [node.pytorch_name for node in training.layers if node.pytorch_name not in kept]
        ignored = (f'{module}.ia.', f'{module}.im.', *(f'{path}.' for path in dropped))
        ignored = ignored if spec.outputs == training.outputs else ignored[:2]
    return _Candidate(spec, {link.tensor: link for link in _names.links(spec)}, ignored)


def _resized(candidate: _Candidate, tensors: Mapping[str, TensorRef], read: Read, name: str | None) -> specs.ArchSpec:
    spec = candidate.spec
    widths: dict[str, int] = {}
    for link in candidate.needed.values():
        shape = tensors[link.tensor].shape
        _names.check_axes(link.tensor, shape, link.layout)
        if link.layout == _names.KERNEL:
            widths.setdefault(link.path[1], shape[0])
    anchors = _anchors(spec, tensors, read)
    channels = {widths[output] for output in (*spec.outputs, *spec.auxiliary)}
    values, rest = divmod(min(channels), len(anchors[0]))
    if len(channels) != 1 or rest or values < 6 or len(anchors) != len(spec.outputs):
        raise ConversionError(f'its heads have {sorted(channels)} rows, which do not fit {len(anchors[0])} anchors')
    classes = tuple(str(index) for index in range(values - 5))
    nodes = tuple(
        dataclasses.replace(node, channels=widths[node.name]) if isinstance(node, specs.Layer) else node
        for node in spec.nodes
    )
    return dataclasses.replace(spec, name=name or spec.name, classes=classes, anchors=anchors, nodes=nodes)


def _anchors(
    spec: specs.ArchSpec, tensors: Mapping[str, TensorRef], read: Read
) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Those in the file, if there are any; else the registry's."""
    place = next((name for name in tensors if name.endswith('.anchor_grid')), None)
    if place is None:
        return spec.anchors
    if len(tensors[place].shape) != 6 or 0 in tensors[place].shape:
        raise ConversionError(f'{place} has shape {tensors[place].shape}, expected 6 axes')
    return anchors_of(read(tensors[place]), place)
