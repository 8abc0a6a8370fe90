"""Values and gradients against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxprune.models import backward


def array(*shape):
    return jnp.asarray(np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape) / 100, jnp.float32)


def check(ours, theirs, *arguments):
    value, back = jax.vjp(ours, *arguments)
    wanted, back_wanted = jax.vjp(theirs, *arguments)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    gradient = array(*wanted.shape)
    for one, two in zip(back(gradient), back_wanted(gradient), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('kernel', 'stride', 'padding'),
    [
        ((2, 2), (2, 2), (0, 0)),
        ((3, 3), (2, 2), (1, 1)),
        ((5, 5), (1, 1), (2, 2)),
        ((13, 13), (1, 1), (6, 6)),
        ((2, 3), (1, 2), (0, 1)),
    ],
)
def test_max_pool(kernel, stride, padding):
    check(
        lambda x: backward.max_pool(x, kernel, stride, padding),
        lambda x: nn.max_pool(x, kernel, stride, [(pad, pad) for pad in padding]),
        array(2, 8, 6, 3),
    )


def test_equal_values_share_no_gradient():
    _, back = jax.vjp(lambda x: backward.max_pool(x, (2, 2), (2, 2), (0, 0)), jnp.zeros((1, 4, 4, 1)))
    (gradient,) = back(jnp.ones((1, 2, 2, 1)))
    assert gradient.sum() == 4 and set(np.unique(gradient)) == {0, 1}


@pytest.mark.parametrize(('size', 'stride'), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_conv(size, stride):
    def run(function):
        layer = nn.Conv(
            5, (size, size), strides=stride, padding=size // 2, use_bias=False, conv_general_dilated=function
        )
        return lambda x, kernel: layer.apply({'params': {'kernel': kernel}}, x)

    check(run(backward.conv), run(None), array(2, 6, 4, 3), array(size, size, 3, 5))
