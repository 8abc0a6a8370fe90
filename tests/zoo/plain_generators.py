"""Generators, audio and volumes: transposed, dilated, one- and three-dimensional convolutions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._entry import register
from ._plain import affine, array, batch_norm, plain


def norm(p, x):
    return (x - p['mean']) * lax.rsqrt(p['var'] + 1e-5) * p['gamma'] + p['beta']


def generator(p, z):
    """DCGAN: a dense layer makes the first map."""
    x = z @ p['project']['w'] + p['project']['b']
    x = x.reshape(z.shape[0], 2, 2, -1)
    x = jax.nn.relu(norm(p['norm0'], x))
    x = lax.conv_transpose(x, p['up1']['w'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    x = jax.nn.relu(norm(p['norm1'], x))
    x = lax.conv_transpose(x, p['up2']['w'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return jnp.tanh(x + p['up2']['b'])


def generator_shapes():
    return {
        'project': affine(5, 2 * 2 * 8),
        'norm0': batch_norm(8),
        'up1': {'w': array(4, 4, 8, 6)},
        'norm1': batch_norm(6),
        'up2': affine(4, 4, 6, 3),
    }


@register('plain_generator', prunable=2, protected={'up2': 'output'})
def _():
    return plain(generator, generator_shapes(), (2, 5))


def fixed_generator(p, z):
    """The same with the width of the first map written into the code."""
    x = jnp.dot(z, p['project']['w']) + p['project']['b']
    x = jnp.reshape(x, (-1, 2, 2, 8))
    x = jax.nn.relu(norm(p['norm0'], x))
    x = lax.conv_transpose(x, p['up1']['w'], (2, 2), 'SAME')
    x = jax.nn.relu(norm(p['norm1'], x))
    return jnp.tanh(lax.conv_transpose(x, p['up2']['w'], (2, 2), 'SAME') + p['up2']['b'])


@register('plain_fixed_generator', prunable=1, protected={'project': '', 'up2': 'output'})
def _():
    return plain(fixed_generator, generator_shapes(), (2, 5))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Block:
    filter: Any
    gate: Any
    residual: Any
    skip: Any
    dilation: int = dataclasses.field(metadata={'static': True})


def causal(p, x, dilation=1):
    left = dilation * (p['w'].shape[0] - 1)
    y = lax.conv_general_dilated(
        x, p['w'], (1,), ((left, 0),), rhs_dilation=(dilation,), dimension_numbers=('NWC', 'WIO', 'NWC')
    )
    return y + p['b']


def wave_net(p, x):
    """Gated residual blocks of doubling dilation; all skips are added."""
    x = causal(p['input'], x)
    total = 0.0
    for block in p['blocks']:
        y = jnp.tanh(causal(block.filter, x, block.dilation)) * jax.nn.sigmoid(causal(block.gate, x, block.dilation))
        total = total + causal(block.skip, y)
        x = x + causal(block.residual, y)
    y = causal(p['mix'], jax.nn.relu(total))
    return causal(p['output'], jax.nn.relu(y))


def wave_block(dilation):
    return Block(affine(2, 6, 5), affine(2, 6, 5), affine(1, 5, 6), affine(1, 5, 8), dilation)


@register('plain_wave_net', prunable=6, protected={'output': 'output'})
def _():
    shapes = {
        'input': affine(2, 1, 6),
        'blocks': [wave_block(dilation) for dilation in (1, 2, 4)],
        'mix': affine(1, 8, 7),
        'output': affine(1, 7, 4),
    }
    return plain(wave_net, shapes, (2, 16, 1))


def volumes(p, x):
    """3-D convolutions, an inflated residual block and pooling over time and space."""
    layout = ('NDHWC', 'DHWIO', 'NDHWC')
    for layer in (p['conv1'], p['conv2']):
        x = lax.conv_general_dilated(x, layer['w'], (1, 1, 1), 'SAME', dimension_numbers=layout) + layer['b']
        x = lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, (1, 2, 2, 2, 1), (1, 2, 2, 2, 1), 'VALID')
    temporal = lax.conv_general_dilated(x, p['time']['w'], (1, 1, 1), 'SAME', dimension_numbers=layout)
    x = jnp.mean(jax.nn.relu(x + temporal + p['time']['b']), axis=(1, 2, 3))
    return jax.nn.log_softmax(x @ p['classes']['w'] + p['classes']['b'])


@register('plain_volumes', prunable=2, protected={'classes': 'output'})
def _():
    shapes = {
        'conv1': affine(3, 3, 3, 2, 4),
        'conv2': affine(3, 3, 3, 4, 6),
        'time': affine(3, 1, 1, 6, 6),
        'classes': affine(6, 3),
    }
    return plain(volumes, shapes, (1, 4, 8, 8, 2))


def tied_autoencoder(p, x):
    """The decoder uses the encoder's weights the other way round."""
    h = jnp.tanh(x @ p['w1'] + p['b1'])
    code = jnp.tanh(h @ p['w2'] + p['b2'])
    h = jnp.tanh(code @ p['w2'].T + p['c2'])
    return h @ p['w1'].T + p['c1']


@register('plain_tied_autoencoder', prunable=2, protected={})
def _():
    shapes = {'w1': array(9, 7), 'b1': array(7), 'w2': array(7, 4), 'b2': array(4), 'c2': array(7), 'c1': array(9)}
    return plain(tied_autoencoder, shapes, (2, 9))


def film(p, inputs):
    """Two inputs, two outputs: a vector scales and shifts the channels of an image's map."""
    image, vector = inputs
    x = lax.conv_general_dilated(image, p['stem']['w'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    condition = jax.nn.relu(vector @ p['embed']['w'] + p['embed']['b'])
    gamma, beta = jnp.split(condition @ p['film']['w'] + p['film']['b'], 2, axis=-1)
    x = jax.nn.relu(x * (1 + gamma[:, None, None]) + beta[:, None, None])
    logits = jnp.concatenate([x.mean((1, 2)), condition], axis=-1) @ p['logits']['w'] + p['logits']['b']
    image = lax.conv_transpose(x, p['decode']['w'], (2, 2), 'SAME') + p['decode']['b']
    return {'logits': logits, 'image': image}


@register('plain_film', prunable=2, protected={'logits': 'output', 'decode': 'output'})
def _():
    shapes = {
        'stem': {'w': array(3, 3, 3, 6)},
        'embed': affine(5, 4),
        'film': affine(4, 12),
        'logits': affine(10, 3),
        'decode': affine(2, 2, 6, 3),
    }
    return plain(lambda p, image, vector: film(p, (image, vector)), shapes, (2, 8, 8, 3), (2, 5))


def hyper_network(p, z):
    """A kernel made by another network (its widths stand in the code), and a kernel that is a product of two."""
    hidden = jnp.tanh(z.mean(0) @ p['hyper1']['w'] + p['hyper1']['b'])
    kernel = (hidden @ p['hyper2']['w'] + p['hyper2']['b']).reshape(5, 4)
    x = jnp.tanh(z @ kernel)
    return jnp.tanh(x @ (p['left'] @ p['right'])) @ p['last']


@register('plain_hyper_network', prunable=2, protected={'hyper2': '', 'last': 'output'})
def _():
    shapes = {
        'hyper1': affine(5, 6),
        'hyper2': affine(6, 20),
        'left': array(4, 3),
        'right': array(3, 7),
        'last': array(7, 2),
    }
    return plain(hyper_network, shapes, (2, 5))
