"""Trees of every kind by path: JAX's own paths, the same leaves, the same type of tree back."""

import collections
import dataclasses
import types
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

from jaxprune import trees


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: Any
    name: str = dataclasses.field(default='conv', metadata={'static': True})


Pair = collections.namedtuple('Pair', ['first', 'second'])


class Own:
    """A class of one's own without names for its children."""

    def __init__(self, *parts):
        self.parts = parts


jax.tree_util.register_pytree_node(Own, lambda own: (own.parts, None), lambda _, parts: Own(*parts))


def nnx_state():
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    return nnx.split(model)[1]


TREES = {
    'nested dictionaries': {'b': {'y': np.ones(2), 'a': np.ones(3)}, 'a': {'kernel': np.ones(4)}},
    'tuples and lists': ([np.ones(1), (np.ones(2),)], np.ones(3)),
    'dataclasses': Layer({'w': np.ones(2), 'b': np.ones(1)}),
    'named tuples': Pair(np.ones(1), {'x': np.ones(2)}),
    'frozen dictionaries': FrozenDict({'b': {'y': np.ones(2)}, 'a': np.ones(3)}),
    'integer keys': {1: np.ones(1), 0: {2: np.ones(2)}},
    'no names': Own(np.ones(1), [np.ones(2)]),
    'ordered dictionaries': collections.OrderedDict(b=np.ones(1), a=np.ones(2)),
    'nnx': nnx_state(),
    'equinox': eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0)),
    'an array': np.ones(2),
}


def jax_paths(tree):
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf for path, leaf in found}


@pytest.mark.parametrize('name', TREES)
def test_paths_are_those_of_jax(name):
    flat, expected = trees.flatten(TREES[name]), jax_paths(TREES[name])
    assert set(flat) == set(expected)
    for path, leaf in expected.items():
        assert flat[path] is leaf
        assert trees.get(TREES[name], path) is leaf


@pytest.mark.parametrize('name', TREES)
def test_replacing_keeps_the_type(name):
    tree = TREES[name]
    arrays = {path: leaf for path, leaf in trees.flatten(tree).items() if hasattr(leaf, 'shape')}
    path = max(arrays)
    for new in (np.zeros(7), jax.ShapeDtypeStruct((7,), np.float32)):
        changed = trees.replace(tree, {path: new})
        assert changed is new if tree is arrays.get(()) else type(changed) is type(tree)
        assert jax.tree.structure(changed) == jax.tree.structure(tree)
        after = trees.flatten(changed)
        assert after[path] is new
        assert list(after) == list(trees.flatten(tree))
        assert all(after[other] is leaf for other, leaf in trees.flatten(tree).items() if other != path)
    assert trees.flatten(tree)[path] is arrays[path]


def test_dictionaries_keep_their_own_order():
    tree = TREES['nested dictionaries']
    assert list(trees.flatten(tree)) == [('b', 'y'), ('b', 'a'), ('a', 'kernel')]
    changed = trees.replace(tree, {('a', 'kernel'): np.zeros(1)})
    assert (list(changed), list(changed['b'])) == (['b', 'a'], ['y', 'a'])
    assert trees.unflatten(trees.flatten(tree)) == tree


def test_what_holds_no_array_stays():
    tree = {'w': np.ones(1), 'none': None, 'empty': {}, 'text': 'same'}
    assert list(trees.flatten(tree)) == [('w',), ('none',), ('text',)]
    assert trees.replace(tree, {('w',): 0}) == {'w': 0, 'none': None, 'empty': {}, 'text': 'same'}


def test_mappings_that_jax_does_not_know_become_dictionaries():
    tree = types.MappingProxyType({'a': types.MappingProxyType({'b': 1})})
    assert trees.flatten(tree) == {('a', 'b'): 1}
    assert trees.replace(tree, {('a', 'b'): 2}) == {'a': {'b': 2}}


@pytest.mark.parametrize('path', [('c',), ('a', 'none'), ('a', 'kernel', 'deeper'), ('a',)])
def test_paths_that_lead_nowhere(path):
    tree = TREES['nested dictionaries']
    with pytest.raises(KeyError, match='/'.join(path)):
        trees.replace(tree, {path: 0})
    if path != ('a',):
        with pytest.raises(KeyError):
            trees.get(tree, path)


def test_differences():
    tree, other = TREES['equinox'], eqx.nn.MLP(2, 3, 5, 1, use_final_bias=False, key=jax.random.key(0))
    assert trees.diff(tree, tree) == []
    assert trees.diff(tree, other) == [
        'shape: layers/0/weight is (5, 2), expected (4, 2)',
        'shape: layers/0/bias is (5,), expected (4,)',
        'shape: layers/1/weight is (3, 5), expected (3, 4)',
        'shape: layers/1/bias is (), expected (3,)',
    ]
    assert trees.diff({'a': np.ones(2)}, {'b': np.ones(3)}) == ['missing: a (2,)', 'unexpected: b (3,)']
