"""Architectures by name: `configs/models/*.yaml` to `ArchSpec`."""

from collections.abc import Sequence
from typing import Any

import jax
import yaml

from jaxprune import resources
from jaxprune.errors import UserError
from jaxprune.models import blocks, forms
from jaxprune.models import spec as specs
from jaxprune.models.detector import Detector, Variables
from jaxprune.models.initial import initial_variables


def architectures() -> tuple[str, ...]:
    """Names that `create` knows."""
    return tuple(sorted(file.stem for file in resources.path('models').glob('*.yaml')))


def build_spec(
    name: str,
    *,
    classes: int | Sequence[str] = 80,
    form: str = 'training',
    width_multiple: float = 1.0,
    activation: str | None = None,
) -> specs.ArchSpec:
    """The spec of a named architecture.

    Args:
      name: one of `architectures()`.
      classes: class names, or how many.
      form: `training`, `deploy` or `fused`.
      width_multiple: scales every channel count, rounded up to a multiple of 8.
      activation: of every convolution, in place of the architecture's own.

    Raises:
      UserError: for an unknown name, form or activation, no class, or a width multiple that is not positive.
    """
    if name not in architectures():
        raise UserError(f'unknown architecture {name!r}: choose one of {", ".join(architectures())}')
    if form not in specs.FORMS:
        raise UserError(f'unknown form {form!r}: choose one of {", ".join(specs.FORMS)}')
    if not 0 < width_multiple < 100:
        raise UserError(f'width multiple {width_multiple}: expected a positive number, such as 0.5')
    auxiliary = form == 'training'  # the other forms number their modules as if there had never been any
    spec = _spec(name, _class_names(classes), width_multiple, auxiliary=auxiliary)
    return forms.with_form(spec if activation is None else forms.with_activation(spec, activation), form)


def create(
    name: str,
    *,
    classes: int | Sequence[str] = 80,
    form: str = 'training',
    seed: int = 0,
    width_multiple: float = 1.0,
    activation: str | None = None,
) -> tuple[Detector, Variables]:
    """A new model with random weights.

    Args:
      name: one of `architectures()`.
      classes: class names, or how many.
      form: `training`, `deploy` or `fused`.
      seed: of the random initial weights.
      width_multiple: scales every channel count, rounded up to a multiple of 8.
      activation: of every convolution, in place of the architecture's own.

    Returns:
      The Flax module and its variables.

    Raises:
      UserError: for an unknown name, form or activation, no class, a width multiple that is not positive, or a seed out
        of range.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f'seed {seed}: give a whole number from 0 to {2**32 - 1}')
    options: Any = {'classes': classes, 'form': form, 'width_multiple': width_multiple, 'activation': activation}
    model = Detector(build_spec(name, **options))
    return model, jax.tree.map(jax.numpy.asarray, initial_variables(model.spec, seed))


def _class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    names = tuple(f'class {i}' for i in range(classes)) if isinstance(classes, int) else tuple(classes)
    if not names:
        raise UserError(f'classes {classes!r}: at least one class is needed')
    return names


def _config(name: str) -> dict[str, Any]:
    """A configuration file; one that names a `base` has that one's entries, but for its own."""
    config: dict[str, Any] = yaml.safe_load(resources.path('models', f'{name}.yaml').read_text())
    return {**_config(config.pop('base')), **config} if 'base' in config else config


def _spec(name: str, classes: tuple[str, ...], width: float, *, auxiliary: bool) -> specs.ArchSpec:
    """The training form, with or without its auxiliary heads and what only they read."""
    config = _config(name)
    builder = blocks.Builder(config['activation'], width)
    _add_blocks(builder, config['layers'] + (config.get('auxiliary_layers', []) if auxiliary else []))
    detect = builder.next_module()

    def head(source: str, level: int, *, part: str, implicit: bool) -> str:
        channels = len(config['anchors'][level]) * (5 + len(classes))
        pytorch_name = f'{detect}.{part}.{level}'
        return builder.add(
            specs.Head, builder.named[source], pytorch_name=pytorch_name, channels=channels, implicit=implicit
        )

    lead = [head(source, level, part='m', implicit=True) for level, source in enumerate(config['heads'])]
    sources = config.get('auxiliary_heads', []) if auxiliary else []
    return specs.ArchSpec(
        name=name,
        form='training',
        classes=classes,
        anchors=tuple(tuple((float(w), float(h)) for w, h in level) for level in config['anchors']),
        strides=tuple(config['strides']),
        outputs=tuple(lead),
        auxiliary=tuple(head(source, level, part='m2', implicit=False) for level, source in enumerate(sources)),
        nodes=tuple(builder.nodes),
    )


def _add_blocks(builder: blocks.Builder, entries: Sequence[dict[str, Any]]) -> None:
    last = specs.IMAGE
    for entry in entries:
        block, options = next((key, value) for key, value in entry.items() if key not in ('from', 'as'))
        sources = entry.get('from', 'last')
        sources = [sources] if isinstance(sources, str) else sources
        inputs = [last if source == 'last' else builder.named[source] for source in sources]
        options = {key: builder.named[value] if key == 'skip' else value for key, value in options.items()}
        last = blocks.BLOCKS[block](builder, *inputs, **options)
        if 'as' in entry:
            builder.named[entry['as']] = last
