"""Random weights for a new model."""

import math

import numpy as np

from jaxprune import trees
from jaxprune.models import spec as specs
from jaxprune.models.detector import Variables, shapes


def initial_variables(spec: specs.ArchSpec, seed: int) -> Variables:
    """Kernels with a variance of 1 / (number of inputs of a filter), normalisation that changes nothing, rare objects.

    Drawn on the host, because compiling a generator for every kernel of a large network takes half a minute.
    """
    rng = np.random.default_rng(seed)
    priors = {name: _prior(spec, level % len(spec.strides)) for level, name in enumerate(spec.outputs + spec.auxiliary)}
    flat = trees.flatten(shapes(spec))
    return trees.unflatten({path: _leaf(rng, path, flat[path].shape, priors) for path in sorted(flat)})


def _leaf(
    rng: np.random.Generator, path: trees.Path, shape: tuple[int, ...], priors: dict[str, np.ndarray]
) -> np.ndarray:
    match path[-1]:
        case 'kernel':
            return rng.standard_normal(shape, np.float32) * np.float32(1 / math.sqrt(math.prod(shape[:-1])))
        case 'implicit_add':
            return 0.02 * rng.standard_normal(shape, np.float32)
        case 'implicit_multiply':
            return 1 + 0.02 * rng.standard_normal(shape, np.float32)
        case 'scale' | 'var':
            return np.ones(shape, np.float32)
    prior = priors.get(path[1], np.zeros(1, np.float32))
    return np.tile(prior, shape[0] // len(prior))


def _prior(spec: specs.ArchSpec, level: int) -> np.ndarray:
    """Bias of one anchor: 8 objects per 640-pixel image, classes equally rare (RetinaNet, section 3.3)."""
    objectness = math.log(8 / (640 / spec.strides[level]) ** 2)
    klass = math.log(0.6 / (len(spec.classes) - 0.99))
    return np.array((0.0,) * 4 + (objectness,) + (klass,) * len(spec.classes), np.float32)
