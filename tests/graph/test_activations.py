"""What the first reader of a group reads, against the values that Flax itself captures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxprune import graph


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.Conv(4, (3, 3), name='stem')(x))
        x = nn.relu(nn.Conv(5, (3, 3), name='next')(x))
        x = jax.jit(lambda x: nn.max_pool(x, (2, 2), (2, 2)))(x)
        x = nn.tanh(nn.Dense(6, name='dense')(x.reshape(x.shape[0], -1)))
        return nn.Dense(2, name='head')(x)


@pytest.fixture(scope='module')
def run():
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    variables = Net().init(jax.random.key(1), x)
    found = graph.trace(Net().apply, variables, x[:1])
    values = jax.jit(lambda v, x: graph.activations(Net().apply, v, x, graph=found))(variables, x)
    _, captured = Net().apply(variables, x, capture_intermediates=True)
    return values, {name: each['__call__'][0] for name, each in captured['intermediates'].items() if name != '__call__'}


def test_values(run):
    values, made = run
    np.testing.assert_allclose(values['stem'], nn.silu(made['stem']), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values['dense'], jnp.tanh(made['dense']), rtol=1e-5, atol=1e-6)
    assert 'head' not in values


def test_several_places_of_a_channel(run):
    values, made = run
    pooled = nn.max_pool(nn.relu(made['next']), (2, 2), (2, 2))
    np.testing.assert_allclose(values['next'], pooled.reshape(3, 16, 5), rtol=1e-5, atol=1e-6)
