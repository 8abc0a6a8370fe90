"""Strict numerics for every test, and where the reference files are."""

import pathlib

import jax
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
def data() -> pathlib.Path:
    """Images and labels: the whole sets beside the checkout, or the few in it."""
    return SHARED / 'data' if SHARED.is_dir() else SMALL / 'data'
