"""Strict numerics for every test, and where the reference files are."""

import pathlib

import jax
import numpy as np
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / 'shared'
SMALL = ROOT / 'tests' / 'golden'


@pytest.fixture(scope='session')
def golden() -> pathlib.Path:
    """Outputs of the PyTorch implementations: all of them beside the checkout, or the small copies in it."""
    return SHARED / 'golden' if SHARED.is_dir() else SMALL


@pytest.fixture(scope='session')
def find(golden):
    """The path of a file among the reference files; those too large to be copied into the repository may be missing."""

    def path(name: str) -> pathlib.Path:
        if not (golden / name).exists():
            pytest.skip(f'{name} is not beside this checkout')
        return golden / name

    return path


@pytest.fixture(scope='session')
def data() -> pathlib.Path:
    """Images and labels: the whole sets beside the checkout, or the few in it."""
    return SHARED / 'data' if SHARED.is_dir() else SMALL / 'data'


@pytest.fixture(scope='session')
def random_model():
    """Makes `(spec, variables)`: a narrow model, all its variables and statistics far from their initial values."""
    from jaxprune import models, trees

    def draw(rng, path, shape):
        if path[-1] == 'kernel':
            return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        if path[-1] in ('scale', 'var', 'implicit_multiply'):
            return rng.uniform(0.5, 1.5, size=shape)
        return rng.normal(size=shape) * 0.3

    def make(name, form='training', seed=0):
        spec = models.build_spec(name, classes=2, form=form, width_multiple=0.125)
        rng = np.random.default_rng(seed)
        shapes = trees.flatten(models.shapes(spec))
        flat = {path: draw(rng, path, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
        return spec, trees.unflatten(flat)

    return make
