"""A function that branches on a width which only one plan has."""

import jax
import jax.numpy as jnp
import pytest

import jaxprune
from jaxprune import pruning
from jaxprune.errors import UserError

SHAPES = {'a': jax.ShapeDtypeStruct((3, 12), jnp.float32), 'b': jax.ShapeDtypeStruct((12, 8), jnp.float32)}
SHAPES['c'] = jax.ShapeDtypeStruct((8, 2), jnp.float32)
X = jax.ShapeDtypeStruct((1, 3), jnp.float32)


def apply(p, x):
    x = jax.nn.silu(x @ p['a'])
    y = jax.nn.silu(x @ p['b'])
    return (x + y if x.shape == y.shape else y) @ p['c']


def plan(**kept):
    found = jaxprune.trace(apply, SHAPES, X)
    layers = [
        pruning.PlanLayer('ab'.index(name), name, SHAPES[name].shape[1], (*range(n),)) for name, n in kept.items()
    ]
    return jaxprune.Plan(tuple(layers)).on(found)


@pytest.mark.parametrize('kept', [{'a': 7, 'b': 5}, {'a': 4}, {}])
def test_other_widths(kept):
    jaxprune.verify(apply, SHAPES, plan(**kept), X)


@pytest.mark.parametrize('kept', [{'a': 8}, {'a': 5, 'b': 5}])
def test_a_residual_appears(kept):
    with pytest.raises(UserError, match=r'add \(test_verify.py:\d+:\d+\)|another operation'):
        jaxprune.verify(apply, SHAPES, plan(**kept), X)


def test_unbound_plan():
    with pytest.raises(UserError, match=r'plan\.on\(graph\)'):
        jaxprune.verify(apply, SHAPES, jaxprune.Plan(), X)
