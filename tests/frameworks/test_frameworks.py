"""What holds for every framework: which models there are, and that only that of the model is imported."""

import pathlib
import subprocess
import sys

import pytest

from jaxprune.errors import UserError
from jaxprune.frameworks import resize

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_a_function_takes_its_widths_from_its_parameters():
    def plain(variables, x):
        return variables @ x

    assert resize(plain, {}) is plain


@pytest.mark.parametrize('model', [3, {'params': 1}, object()])
def test_a_model_of_another_kind(model):
    with pytest.raises(UserError, match=f'cannot resize a {type(model).__name__}: give a Flax Linen'):
        resize(model, {})


def test_no_framework_is_imported_for_a_function():
    code = (
        'import sys, jax, jax.numpy as jnp\n'
        'from jaxprune.frameworks import following, resize\n'
        'f = following(resize(lambda v, x: v @ x, {}))\n'
        'assert jax.eval_shape(f, jnp.ones((3, 2)), jnp.ones(2)).shape == (3,)\n'
        'assert not {"flax", "equinox"} & set(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
