"""A function that branches on a width which only one plan has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune import pruning
from jaxprune.errors import UserError

SHAPES = {'a': jax.ShapeDtypeStruct((3, 12), jnp.float32), 'b': jax.ShapeDtypeStruct((12, 8), jnp.float32)}
SHAPES['c'] = jax.ShapeDtypeStruct((8, 2), jnp.float32)
X = jax.ShapeDtypeStruct((1, 3), jnp.float32)
REFUSED = r'add \(test_verify.py:\d+:\d+\)|another operation'


def apply(p, x):
    x = jax.nn.silu(x @ p['a'])
    y = jax.nn.silu(x @ p['b'])
    return (x + y if x.shape == y.shape else y) @ p['c']


def arrays():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape.shape).astype(np.float32) for name, shape in SHAPES.items()}


def plan(**kept):
    found = jaxprune.trace(apply, SHAPES, X)
    layers = [
        pruning.PlanLayer('ab'.index(name), name, SHAPES[name].shape[1], (*range(n),)) for name, n in kept.items()
    ]
    return jaxprune.Plan(tuple(layers)).on(found)


@pytest.mark.parametrize('kept', [{'a': 7, 'b': 5}, {'a': 4}, {}])
def test_other_widths(kept):
    jaxprune.verify(plan(**kept))


@pytest.mark.parametrize('kept', [{'a': 8}, {'a': 5, 'b': 5}])
def test_a_residual_appears(kept):
    with pytest.raises(UserError, match=REFUSED):
        jaxprune.verify(plan(**kept))


def test_unbound_plan():
    with pytest.raises(UserError, match=r'plan\.on\(graph\)'):
        jaxprune.verify(jaxprune.Plan())


def test_chosen_widths_are_verified():
    graph = jaxprune.trace(apply, SHAPES, X)
    two_thirds = {'a': 8 / 12, 'b': 1}
    assert len(jaxprune.select_channels(graph, arrays(), keep={'a': 0.5, 'b': 0.5}).keep['a']) == 6
    with pytest.raises(UserError, match=REFUSED):
        jaxprune.select_channels(graph, arrays(), keep=two_thirds)
    with pytest.raises(UserError, match=REFUSED):
        pruning.plan_rates(graph, arrays(), {'a': 4 / 12})
    assert len(jaxprune.select_channels(graph, arrays(), keep=two_thirds, verify=False).keep['a']) == 8
    assert len(pruning.plan_rates(graph, arrays(), {'a': 4 / 12}, verify=False).keep['a']) == 8


def test_a_graph_that_proves_nothing_is_not_verified():
    graph = jaxprune.trace(apply, SHAPES, X, prove=False)
    chosen = jaxprune.select_channels(graph, arrays(), keep={'a': 8 / 12})
    assert len(chosen.keep['a']) == 8
    with pytest.raises(UserError, match='prove=False'):
        jaxprune.verify(chosen)


def test_a_function_that_has_changed_since():
    """What a setting changes at all widths is no difference between them."""
    mode = {'double': False}

    def changing(p, x):
        return jnp.tanh(x @ p['a'] * (2 if mode['double'] else 1)) @ p['b']

    graph = jaxprune.trace(changing, {'a': SHAPES['a'], 'b': SHAPES['b']}, X)
    mode['double'] = True
    assert len(jaxprune.select_channels(graph, arrays(), keep=0.5).keep['a']) == 6


def test_arrays_are_not_held():
    variables = {name: jnp.asarray(leaf) for name, leaf in arrays().items()}
    graph = jaxprune.trace(apply, variables, jnp.ones((1, 3)))
    held = jax.tree.leaves(graph.walk.program.arguments)
    assert len(held) == 4
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in held)
    assert 'walk' not in repr(graph)


def test_weak_types_stay():
    """A number in half precision: at other widths, too, it must not become an array of single precision."""
    variables = {name: leaf.astype(jnp.float16) for name, leaf in arrays().items()}
    scaled = {**variables, 's': jnp.asarray(2.0)}
    graph = jaxprune.trace(lambda p, x: jnp.tanh(x @ p['a'] * p['s']) @ p['b'], scaled, jnp.ones((1, 3), jnp.float16))
    assert graph.group_of('a').protected is None
