"""The criteria's numbers against Torch-Pruning's, for one group of one small network."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxprune import trees
from jaxprune.graph import trace
from jaxprune.pruning import score
from jaxprune.pruning._gather import gather_gates

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden/pruning/criteria.npz'  # made by make_golden_criteria.py


class Net(nn.Module):
    """Convolution, batch normalisation, ReLU, convolution."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), padding=1, name='first')(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5, name='norm')(x))
        return nn.Conv(3, (3, 3), padding='VALID', name='second')(x)


@pytest.fixture(scope='module')
def arrays():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope='module')
def variables(arrays):
    leaves = {tuple(name.split('/')): array for name, array in arrays.items()}
    return trees.unflatten({path: leaf for path, leaf in leaves.items() if path[0] in ('params', 'batch_stats')})


@pytest.fixture(scope='module')
def graph(arrays, variables):
    return trace(Net().apply, variables, arrays['image'])


@pytest.mark.parametrize('name', ['l1', 'l2', 'bn', 'lamp', 'fpgm'])
def test_of_weights(arrays, variables, graph, name):
    expected = arrays[f'importance/{name}']
    expected = np.sqrt(expected) if name == 'l2' else expected  # Torch-Pruning's is squared
    found = score(name, graph, graph.group_of('first'), variables)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_of_gradients(arrays, variables, graph):
    def loss(variables, batch):
        images, labels = batch
        logits = jax.nn.log_softmax(jnp.mean(Net().apply(variables, images), axis=(1, 2)))
        return -jnp.mean(jnp.take_along_axis(logits, labels[:, None], axis=1))

    batch = (arrays['image'], arrays['label'].astype(np.int32))
    evidence = gather_gates(graph, loss, variables, [batch])
    found = score('taylor', graph, graph.group_of('first'), variables, evidence=evidence)
    expected = arrays['importance/taylor']
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    fisher = score('fisher', graph, graph.group_of('first'), variables, evidence=evidence)
    np.testing.assert_allclose(fisher, np.square(expected) / 2, rtol=1e-4, atol=1e-6)  # of one example
