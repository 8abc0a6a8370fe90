"""Strict numerics for every test, quick compilation for most, and where the reference files are."""

import os
import pathlib
import unittest.mock

import jax
import numpy as np
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

os.environ['JAX_ENABLE_COMPILATION_CACHE'] = '0'  # processes that tests start keep nothing in the user's folders
os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)
QUICK = 'JAX_DISABLE_MOST_OPTIMIZATIONS'

ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / 'shared'
SMALL = ROOT / 'tests' / 'golden'
# Where files go to several processes, these go first, so that all end at the same time.
LONGEST = (
    'zoo/test_laws.py',
    'pruning/test_models.py',
    'pipeline/test_iterate.py',
    'checkpoint/test_model.py',
    'weights_convert/test_convert.py',
    'pipeline/test_original.py',
    'weights_convert/test_write.py',
)


def pytest_configure(config):
    config.addinivalue_line('markers', 'optimized: programs are compiled as users compile them')
    config.option.loadscopereorder = False  # pytest-xdist would put first what has most tests


def pytest_collection_modifyitems(items):
    places = {ROOT / 'tests' / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


@pytest.hookimpl(tryfirst=True)  # before its fixtures
def pytest_runtest_setup(item):
    """Nearly all that is compiled here runs once, for milliseconds, so that quick compilation is what counts."""
    quick = str(int(item.get_closest_marker('optimized') is None))
    if os.environ.get(QUICK) != quick:
        os.environ[QUICK] = quick  # for processes that the test starts
        jax.config.update(QUICK.lower(), quick == '1')
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _own_variables():
    """What a test, or a command in it, puts into the environment ends with the test."""
    with unittest.mock.patch.dict(os.environ):
        yield


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
