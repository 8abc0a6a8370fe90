"""Loads every network of the zoo and sets how many plans each is tested with."""

import importlib
import pathlib

import jax
import pytest

FOLDER = pathlib.Path(__file__).parent


def load():
    """Entries by name; a module of the zoo registers its entries when it is imported."""
    for kind in ('linen', 'nnx', 'plain', 'equinox'):
        for file in sorted(FOLDER.glob(f'{kind}_*.py')):
            importlib.import_module(f'{__package__}.{file.stem}')
    return importlib.import_module(f'{__package__}._entry').REGISTRY


def pytest_addoption(parser):
    parser.addoption('--plans', type=int, default=10, help='random plans per network of the zoo')


def pytest_generate_tests(metafunc):
    if 'entry' in metafunc.fixturenames:
        metafunc.parametrize('entry', [pytest.param(entry, id=name) for name, entry in load().items()])
    if 'approximate_entry' in metafunc.fixturenames:
        entries = [entry for entry in load().values() if entry.approximate]
        metafunc.parametrize('approximate_entry', entries, ids=[entry.name for entry in entries])


@pytest.fixture(autouse=True)
def double_precision():
    """Float64 throughout; the promotion of types and ranks that the networks' authors, and Flax itself, rely on."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
        yield


@pytest.fixture(scope='session')
def plans(request):
    # The option is known where this folder is named on the command line.
    return request.config.getoption('--plans', 10)
