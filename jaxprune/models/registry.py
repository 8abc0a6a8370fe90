"""Architectures by name: `configs/models/*.yaml` to `ArchSpec`."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import yaml

from jaxprune import resources
from jaxprune.errors import UserError
from jaxprune.models import blocks, forms
from jaxprune.models import spec as specs
from jaxprune.models.detector import Detector, Variables, smallest_image


def architectures() -> tuple[str, ...]:
    """Names that `create` knows."""
    return tuple(sorted(file.stem for file in resources.path('models').glob('*.yaml')))


def build_spec(
    name: str, *, classes: int | Sequence[str] = 80, form: str = 'training', width_multiple: float = 1.0
) -> specs.ArchSpec:
    """The spec of a named architecture.

    Args:
      name: one of `architectures()`.
      classes: class names, or how many.
      form: `training`, `deploy` or `fused`.
      width_multiple: scales every channel count, rounded up to a multiple of 8.

    Raises:
      UserError: for an unknown name or form, no class, or a width multiple that is not positive.
    """
    if name not in architectures():
        raise UserError(f'unknown architecture {name!r}: choose one of {", ".join(architectures())}')
    if form not in specs.FORMS:
        raise UserError(f'unknown form {form!r}: choose one of {", ".join(specs.FORMS)}')
    if not 0 < width_multiple < 100:
        raise UserError(f'width multiple {width_multiple}: expected a positive number, such as 0.5')
    config = yaml.safe_load(resources.path('models', f'{name}.yaml').read_text())
    return forms.with_form(_training_spec(name, config, _class_names(classes), width_multiple), form)


def create(
    name: str,
    *,
    classes: int | Sequence[str] = 80,
    form: str = 'training',
    seed: int = 0,
    width_multiple: float = 1.0,
) -> tuple[Detector, Variables]:
    """A new model with random weights.

    Args:
      name: one of `architectures()`.
      classes: class names, or how many.
      form: `training`, `deploy` or `fused`.
      seed: of the random initial weights.
      width_multiple: scales every channel count, rounded up to a multiple of 8.

    Returns:
      The Flax module and its variables.

    Raises:
      UserError: for an unknown name or form, no class, a width multiple that is not positive, or a seed out of range.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f'seed {seed}: give a whole number from 0 to {2**32 - 1}')
    model = Detector(build_spec(name, classes=classes, form=form, width_multiple=width_multiple))
    return model, _init(model, np.uint32(seed))


@functools.partial(jax.jit, static_argnums=0)
def _init(model: Detector, seed: np.uint32) -> Variables:
    image = smallest_image(model.spec)
    return dict(model.init(jax.random.key(seed), jax.numpy.zeros(image.shape, image.dtype)))


def _class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    names = tuple(f'class {i}' for i in range(classes)) if isinstance(classes, int) else tuple(classes)
    if not names:
        raise UserError(f'classes {classes!r}: at least one class is needed')
    return names


def _training_spec(name: str, config: dict[str, Any], classes: tuple[str, ...], width: float) -> specs.ArchSpec:
    builder = blocks.Builder(config['activation'], width)
    named: dict[str, str] = {}
    last = specs.IMAGE
    for entry in config['layers']:
        block, options = next((key, value) for key, value in entry.items() if key not in ('from', 'as'))
        sources = entry.get('from', 'last')
        sources = [sources] if isinstance(sources, str) else sources
        inputs = [last if source == 'last' else named[source] for source in sources]
        options = {key: named[value] if key == 'skip' else value for key, value in options.items()}
        last = blocks.BLOCKS[block](builder, *inputs, **options)
        if 'as' in entry:
            named[entry['as']] = last
    detect = builder.next_module()
    outputs = tuple(
        builder.add(
            specs.Head,
            named[source],
            pytorch_name=f'{detect}.m.{level}',
            channels=len(config['anchors'][level]) * (5 + len(classes)),
            implicit=True,
        )
        for level, source in enumerate(config['heads'])
    )
    return specs.ArchSpec(
        name=name,
        form='training',
        classes=classes,
        anchors=tuple(tuple((float(w), float(h)) for w, h in level) for level in config['anchors']),
        strides=tuple(config['strides']),
        nodes=tuple(builder.nodes),
        outputs=outputs,
    )
