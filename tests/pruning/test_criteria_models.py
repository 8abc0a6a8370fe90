"""The scale of batch normalisation, wherever a model keeps it, and kernels of other layouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import trace
from jaxprune.pruning import CRITERIA, score

OF_WEIGHTS = sorted(name for name, criterion in CRITERIA.items() if criterion.needs == 'variables')


def _trace(apply, variables, *inputs):
    return trace(apply, jax.eval_shape(lambda: variables), *inputs)


def _plain(scale='scale', bias='bias', *, transposed=False):
    """A plain function: two layers, the first with a normalisation whose parameters have the given names."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(3, 5)), rng.normal(size=(5, 2))
    norm = {scale: rng.normal(size=5), bias: 9 + rng.normal(size=5), 'mean': rng.normal(size=5), 'var': np.ones(5)}
    variables = jax.tree.map(
        lambda leaf: leaf.astype(np.float32),
        {'first': {'kernel': first.T if transposed else first}, 'norm': norm, 'second': {'kernel': second}},
    )

    def apply(variables, x):
        norm, kernel = variables['norm'], variables['first']['kernel']
        x = x @ (kernel.T if transposed else kernel)
        x = (x - norm['mean'][None]) / jnp.sqrt(norm['var'][None]) * norm[scale][None] + norm[bias][None]
        return jax.nn.relu(x) @ variables['second']['kernel']

    return _trace(apply, variables, jnp.ones((2, 3))), variables


@pytest.mark.parametrize('scale', ['scale', 'weight', 'gamma'])
def test_bn_of_a_plain_function(scale):
    graph, variables = _plain(scale)
    found = score('bn', graph, graph.group_of('first'), variables)
    np.testing.assert_allclose(found, np.abs(variables['norm'][scale]), rtol=1e-6)


def test_scales_without_statistics_count_where_no_other_does():
    """A learned factor behind the normalisation is not its scale; without statistics there is no telling them apart."""
    rng = np.random.default_rng(0)
    vectors = {name: rng.normal(size=5).astype(np.float32) for name in ('scale', 'mean', 'var')}
    variables = {
        'first': {'kernel': np.ones((3, 5), np.float32)},
        'norm': vectors,
        'after': {'scale': rng.normal(size=5).astype(np.float32)},
        'second': {'kernel': np.ones((5, 2), np.float32)},
    }

    def apply(variables, x, statistics=True):
        x, norm = x @ variables['first']['kernel'], variables['norm']
        x = (x - norm['mean'][None]) / (1 + jnp.square(norm['var'][None])) if statistics else x
        x = jax.nn.relu(x * norm['scale'][None] * variables['after']['scale'][None])
        return x @ variables['second']['kernel']

    normalised = np.abs(vectors['scale'])
    for statistics, expected in ((True, normalised), (False, normalised + np.abs(variables['after']['scale']))):
        graph = _trace(functools.partial(apply, statistics=statistics), variables, jnp.ones((2, 3)))
        np.testing.assert_allclose(score('bn', graph, graph.group_of(0), variables), expected, rtol=1e-6)


def test_bn_takes_no_name_that_it_does_not_know():
    graph, variables = _plain('g', 'b')
    with pytest.raises(
        UserError, match=r'first has no batch.*only b, g, mean, var: call its scale one of scale, weight'
    ):
        score('bn', graph, graph.group_of('first'), variables)


def test_layout_of_the_kernel_does_not_matter():
    scores = [
        {name: score(name, graph, graph.group_of('first'), variables) for name in OF_WEIGHTS}
        for graph, variables in (_plain(), _plain(transposed=True))
    ]
    for name in OF_WEIGHTS:
        np.testing.assert_allclose(scores[0][name], scores[1][name], rtol=1e-6)


def _linen():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), name='first')(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True, name='bn')(x))
            return nn.Conv(2, (1, 1), name='second')(x)

    net = Net()
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    return net.apply, variables, ('params', 'bn', 'scale'), jnp.ones((1, 8, 8, 3))


def _nnx():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.bn = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.second = nnx.Conv(4, 2, (1, 1), rngs=rngs)

        def __call__(self, x):
            return self.second(nnx.relu(self.bn(self.first(x))))

    definition, state = nnx.split(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))
    return lambda state, x: nnx.merge(definition, state)(x), state, ('bn', 'scale', 'value'), jnp.ones((1, 8, 8, 3))


@pytest.mark.parametrize('make', [_linen, _nnx])
def test_bn_of_flax_modules(make):
    apply, shapes, path, images = make()
    graph = trace(apply, shapes, images)
    rng = np.random.default_rng(0)
    leaves = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in trees.flatten(shapes).items()}
    variables = trees.replace(shapes, leaves)
    found = score('bn', graph, graph.group_of(0), variables)
    np.testing.assert_allclose(found, np.abs(leaves[path]), rtol=1e-6)


def test_bn_of_equinox():
    eqx = pytest.importorskip('equinox')
    make = functools.partial(jax.random.key, 0)
    first, second = eqx.nn.Linear(3, 4, key=make()), eqx.nn.Linear(4, 2, key=make())
    norm = eqx.nn.GroupNorm(groups=4, channels=4)  # every channel by itself: batch norm's state would be apart
    norm = eqx.tree_at(lambda norm: norm.weight, norm, jnp.array([1.0, -2.0, 3.0, -4.0]))
    module = {'first': first, 'norm': norm, 'second': second}

    def apply(module, x):
        spread = jnp.broadcast_to(module['first'](x)[:, None], (4, 6))
        return module['second'](jnp.mean(module['norm'](spread), axis=1))

    arrays, rest = eqx.partition(module, eqx.is_array)
    graph = trace(lambda arrays, x: apply(eqx.combine(arrays, rest), x), arrays, jnp.ones(3))
    np.testing.assert_array_equal(score('bn', graph, graph.group_of('first'), arrays), [1, 2, 3, 4])
