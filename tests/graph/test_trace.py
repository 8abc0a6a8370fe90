"""Naming of layers, several kernels in one layer, Flax modules, and what `trace` refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxprune import graph
from jaxprune.errors import UserError


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.float32)


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True)(x)


class Rep(nn.Module):
    """RepVGG block: two kernels and an identity branch with its own scale."""

    width: int

    @nn.compact
    def __call__(self, x):
        total = Norm(name='bn')(nn.Conv(self.width, (3, 3), use_bias=False, name='dense')(x))
        total += nn.Conv(self.width, (1, 1), name='pointwise')(x)
        return nn.silu(total + Norm(name='identity')(x) if x.shape[-1] == self.width else total)


class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + self.param('offset', nn.initializers.normal(), (x.shape[-1],))[None, None, None]
        x = nn.Conv(6, (1, 1), name='conv')(x)
        return x.reshape(*x.shape[:-1], 2, 3)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name='stem')(x))
        x = jnp.concatenate([x, Rep(4, name='rep')(x)], -1)
        return Head(name='head')(Rep(8, name='wide')(x))


LAYERS = [(name, (name,)) for name in ('stem', 'rep', 'wide', 'head')]
IMAGE = shape(1, 4, 4, 3)


@pytest.fixture(scope='module')
def variables():
    return jax.eval_shape(Net().init, jax.random.key(0), IMAGE)


def edges(found):
    names = [layer.name for layer in found.layers]
    return {(names[edge.producer], names[edge.consumer], edge.offset, edge.channels) for edge in found.edges}


def test_a_branch_on_a_width_is_protected(variables):
    found = graph.trace(Net().apply, variables, IMAGE, layers=LAYERS)
    assert 'does not run at other widths' in found.layers[0].reason or 'other widths' in found.layers[0].reason


def test_layers_with_several_kernels(variables):
    # The blocks compare a shape with their field `width`, so at other widths they would have no identity branch.
    found = graph.trace(Net().apply, variables, IMAGE, layers=LAYERS, prove=False)
    assert edges(found) == {
        ('stem', 'rep', 0, 4),
        ('stem', 'wide', 0, 4),
        ('rep', 'wide', 4, 4),
        ('wide', 'head', 0, 8),
    }
    assert [(layer.index, layer.name, layer.channels, layer.prunable) for layer in found.layers] == [
        (0, 'stem', 4, True),
        (1, 'rep', 4, True),
        (2, 'wide', 8, True),
        (3, 'head', 6, False),
    ]
    assert found.layers[3].reason == 'its channels are the output of the model'
    # The identity branches join what they read with what their layer makes: all three are one group of four channels.
    assert [group.layers for group in found.groups] == [('stem', 'rep', 'wide'), ('head',)]
    assert [found.group_of(key).index for key in ('stem', 2, 'head')] == [0, 0, 1]


def test_slots_of_a_layer(variables):
    found = graph.trace(Net().apply, variables, IMAGE, layers=LAYERS)
    slots = {('/'.join(slot.path), slot.axis): slot for slot in found.group_of('rep').slots}
    places = {key: slot.indices.tolist() for key, slot in slots.items()}
    twice = [[channel, channel + 4] for channel in range(4)]
    assert places['params/stem/kernel', 3] == [[0], [1], [2], [3]]
    assert places['params/rep/dense/kernel', 2] == [[0], [1], [2], [3]]
    assert places['params/wide/dense/kernel', 2] == places['params/wide/dense/kernel', 3] == twice
    assert places['batch_stats/wide/identity/BatchNorm_0/var', 0] == places['params/head/offset', 0] == twice
    roles = {key: (slot.role, slot.layer) for key, slot in slots.items()}
    assert roles['params/rep/pointwise/kernel', 2] == ('read', 'rep')
    assert roles['params/rep/pointwise/kernel', 3] == ('produce', 'rep')
    assert roles['params/head/conv/kernel', 2] == ('read', 'head')
    assert roles['params/head/offset', 0] == ('along', 'head')
    assert roles['batch_stats/rep/identity/BatchNorm_0/mean', 0] == ('along', 'rep')
    assert len(slots) == 1 + 1 + 2 * (2 + 2 + 4 + 1 + 4) + 2


def test_modules_are_layers_by_default(variables):
    found = graph.trace(Net().apply, variables, IMAGE)
    names = ['stem', 'rep/dense', 'rep/pointwise', 'wide/dense', 'wide/pointwise', 'head/conv']
    assert [layer.name for layer in found.layers] == names
    assert ('stem', 'wide/dense', 4, 4) in edges(found)


def test_json(variables):
    plain = graph.trace(Net().apply, variables, IMAGE, layers=LAYERS, prove=False).to_json()
    assert plain['layers'][0] == {'index': 0, 'name': 'stem', 'channels': 4, 'prunable': True}
    assert plain['edges'][0] == {'producer': 0, 'consumer': 1, 'offset': 0, 'channels': 4}


def test_masks_among_the_variables_are_sliced_too():
    def apply(p, x):
        return (x @ p['params']['a']['kernel'] * p['masks']['b']['input'][None]) @ p['params']['b']['kernel']

    params = {'a': {'kernel': shape(3, 5)}, 'b': {'kernel': shape(5, 2)}}
    found = graph.trace(
        apply,
        {'params': params, 'masks': {'b': {'input': shape(5)}}},
        shape(2, 3),
        layers=[('a', ('a',)), ('b', ('b',))],
    )
    assert edges(found) == {('a', 'b', 0, 5)}
    assert ('masks', 'b', 'input') in {slot.path for slot in found.group_of('a').slots}


def test_layer_without_kernel_or_producer():
    def apply(p, x):
        depthwise = p['a']['kernel']
        x = lax.conv_general_dilated(
            x, depthwise, (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC'), feature_group_count=3
        )
        return x * p['b']['scale'][None, None]

    variables = {'a': {'kernel': shape(3, 1, 3)}, 'b': {'scale': shape(3)}}
    found = graph.trace(apply, variables, shape(1, 5, 3), layers=[('a', ('a',)), ('b', ('b',))])
    assert not any(layer.prunable for layer in found.layers)
    assert 'input of the model' in found.layers[0].reason
    assert 'no convolution' in found.layers[1].reason
    with pytest.raises(UserError, match='no channels of its own'):
        found.group_of('b')


@pytest.mark.parametrize(
    ('layers', 'message'),
    [
        ([*LAYERS, ('tail', ('tail',))], "'tail'.*fits no leaf"),
        ([*LAYERS[:3], ('stem', ('head',))], "'stem' stands there twice"),
        (LAYERS[:3], 'no entry covers the kernel params/head/conv/kernel'),
    ],
)
def test_layers_that_do_not_fit(variables, layers, message):
    with pytest.raises(UserError, match=message):
        graph.trace(Net().apply, variables, IMAGE, layers=layers)


def test_unknown_layer_and_empty_variables(variables):
    found = graph.trace(Net().apply, variables, IMAGE, layers=LAYERS)
    for key in ('model_7', 4, -1):
        with pytest.raises(UserError, match='does not exist: give an index from 0 to 3'):
            found.group_of(key)
    with pytest.raises(UserError, match='variables are empty'):
        graph.trace(lambda p, x: x, {}, IMAGE)


def test_nothing_is_computed(variables):
    huge = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    found = graph.trace(Net().apply, huge, shape(1024, 100_000, 100_000, 3), layers=LAYERS)
    assert len(found.edges) == 4
