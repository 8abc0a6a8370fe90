"""Convolutional networks as plain functions of nested dictionaries and lists."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from ._entry import register
from ._plain import affine, array, batch_norm, plain

NHWC = ('NHWC', 'HWIO', 'NHWC')


def conv2d(p, x, stride=1, dilation=1):
    y = lax.conv_general_dilated(
        x, p['w'], (stride, stride), 'SAME', rhs_dilation=(dilation, dilation), dimension_numbers=NHWC
    )
    return y + p['b'] if 'b' in p else y


def norm(p, x):
    return (x - p['mean']) / jnp.sqrt(p['var'] + 1e-5) * p['gamma'] + p['beta']


def linear(p, x):
    return x @ p['w'] + p['b']


def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')


def res_net(p, x):
    """Blocks in a list; a block has a projection or not."""
    x = jax.nn.relu(norm(p['stem_norm'], conv2d(p['stem'], x)))
    for i, block in enumerate(p['blocks']):
        stride = 2 if i > 0 and 'projection' in block else 1
        y = jax.nn.relu(norm(block['norm1'], conv2d(block['conv1'], x, stride)))
        y = norm(block['norm2'], conv2d(block['conv2'], y))
        shortcut = conv2d(block['projection'], x, stride) if 'projection' in block else x
        x = jax.nn.relu(y + shortcut)
    return linear(p['head'], jnp.mean(x, axis=(1, 2)))


def res_block(inputs, width):
    block = {
        'conv1': {'w': array(3, 3, inputs, width)},
        'norm1': batch_norm(width),
        'conv2': {'w': array(3, 3, width, width)},
        'norm2': batch_norm(width),
    }
    return block if inputs == width else block | {'projection': {'w': array(1, 1, inputs, width)}}


@register('plain_res_net', prunable=5, protected={'head': 'output'})
def _():
    blocks = [res_block(4, 4), res_block(4, 6), res_block(6, 6)]
    shapes = {'stem': {'w': array(3, 3, 3, 4)}, 'stem_norm': batch_norm(4), 'blocks': blocks, 'head': affine(6, 3)}
    return plain(res_net, shapes, (2, 8, 8, 3))


def u_net(p, x):
    skips = []
    for first, second in p['down']:
        x = jax.nn.relu(conv2d(second, jax.nn.relu(conv2d(first, x))))
        skips.append(x)
        x = max_pool(x)
    x = jax.nn.relu(conv2d(p['middle'], x))
    for (up, first, second), skip in zip(p['up'], reversed(skips), strict=True):
        x = lax.conv_transpose(x, up['w'], (2, 2), 'SAME', dimension_numbers=NHWC) + up['b']
        x = jnp.concatenate([skip, x], axis=-1)
        x = jax.nn.relu(conv2d(second, jax.nn.relu(conv2d(first, x))))
    return jax.nn.sigmoid(conv2d(p['mask'], x))


@register('plain_u_net', prunable=11, protected={'mask': 'output'})
def _():
    shapes = {
        'down': [(affine(3, 3, 1, 4), affine(3, 3, 4, 4)), (affine(3, 3, 4, 6), affine(3, 3, 6, 6))],
        'middle': affine(3, 3, 6, 8),
        'up': [
            (affine(2, 2, 8, 6), affine(3, 3, 12, 6), affine(3, 3, 6, 5)),
            (affine(2, 2, 5, 4), affine(3, 3, 8, 4), affine(3, 3, 4, 4)),
        ],
        'mask': affine(1, 1, 4, 1),
    }
    return plain(u_net, shapes, (2, 8, 8, 1))


def channels_first(p, x):
    """In PyTorch's layout: NCHW images, OIHW kernels, weights of linear layers with the output first."""
    layout = ('NCHW', 'OIHW', 'NCHW')
    for layer in p['features']:
        x = lax.conv_general_dilated(x, layer['weight'], (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout)
        x = jax.nn.leaky_relu(x + layer['bias'].reshape(1, -1, 1, 1), 0.1)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), 'VALID')
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(jnp.dot(x, p['fc1']['weight'].T) + p['fc1']['bias'])
    return jnp.dot(x, p['fc2']['weight'].T) + p['fc2']['bias']


def torch_layer(*sizes):
    return {'weight': array(*sizes), 'bias': array(sizes[0])}


@register('plain_channels_first', prunable=3, protected={'fc2': 'output'})
def _():
    features = [torch_layer(4, 3, 3, 3), torch_layer(6, 4, 3, 3)]
    shapes = {'features': features, 'fc1': torch_layer(8, 6 * 2 * 2), 'fc2': torch_layer(3, 8)}
    return plain(channels_first, shapes, (2, 3, 8, 8))


def pixel_shuffle(x, r):
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // (r * r), r, r)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * r, w * r, c // (r * r))


def super_resolution(p, x):
    """Two pixel shuffles; what comes out is added to the enlarged input."""
    b, h, w, c = x.shape
    y = jax.nn.relu(conv2d(p['first'], x))
    y = y + 0.1 * conv2d(p['block'][1], jax.nn.relu(conv2d(p['block'][0], y)))
    for up in p['up']:
        y = jax.nn.relu(pixel_shuffle(conv2d(up, y), 2))
    return jax.image.resize(x, (b, 4 * h, 4 * w, c), 'bilinear') + conv2d(p['last'], y)


@register('plain_pixel_shuffle', prunable=4, protected={'last': 'output'})
def _():
    shapes = {
        'first': affine(3, 3, 3, 6),
        'block': [affine(3, 3, 6, 5), affine(3, 3, 5, 6)],
        'up': [affine(3, 3, 6, 16), affine(3, 3, 4, 12)],
        'last': affine(3, 3, 3, 3),
    }
    return plain(super_resolution, shapes, (2, 4, 4, 3))


def squeeze_excite(p, x):
    """MobileNetV3's gate, with hard swish."""
    x = jax.nn.hard_swish(norm(p['norm'], conv2d(p['stem'], x, 2)))
    s = jnp.mean(x, axis=(1, 2), keepdims=True)
    s = jax.nn.relu(conv2d(p['reduce'], s))
    x = x * jax.nn.hard_sigmoid(conv2d(p['expand'], s))
    x = jax.nn.hard_swish(conv2d(p['project'], x))
    return linear(p['classes'], x.max(axis=(1, 2)))


@register('plain_squeeze_excite', prunable=3, protected={'classes': 'output'})
def _():
    shapes = {
        'stem': {'w': array(3, 3, 3, 8)},
        'norm': batch_norm(8),
        'reduce': affine(1, 1, 8, 4),
        'expand': affine(1, 1, 4, 8),
        'project': affine(1, 1, 8, 6),
        'classes': affine(6, 3),
    }
    return plain(squeeze_excite, shapes, (2, 8, 8, 3))


def with_itself(p, x):
    """CReLU, a pyramid of poolings, and the sum of both halves of a concatenation."""
    x = conv2d(p['a'], x)
    x = jax.nn.relu(jnp.concatenate([x, -x], axis=-1))
    x = jnp.tanh(conv2d(p['b'], x))
    x = jnp.concatenate([x, x, jnp.roll(x, 1, axis=2)], axis=-1)
    x = conv2d(p['c'], x)
    doubled = jnp.concatenate([x, x], axis=-1)
    half = doubled.shape[-1] // 2
    return conv2d(p['d'], doubled[..., :half] * doubled[..., half:])


@register('plain_with_itself', prunable=3, protected={'d': 'output'})
def _():
    shapes = {'a': affine(3, 3, 3, 5), 'b': affine(3, 3, 10, 4), 'c': affine(1, 1, 12, 5), 'd': affine(1, 1, 5, 2)}
    return plain(with_itself, shapes, (2, 8, 8, 3))


def standardised(p, x):
    mean = jnp.mean(p['w'], axis=(0, 1, 2), keepdims=True)
    std = jnp.std(p['w'], axis=(0, 1, 2), keepdims=True)
    return conv2d({'w': (p['w'] - mean) / (std + 1e-5) * p['gain'], 'b': p['b']}, x)


def weight_standardised(p, x):
    """A kernel is centred over its inputs, so all channels that it reads change it."""
    x = jax.nn.relu(conv2d(p['stem'], x))
    x = jax.nn.relu(standardised(p['first'], x))
    x = jax.nn.relu(standardised(p['second'], x))
    return linear(p['head'], x.mean((1, 2)))


@register(
    'plain_weight_standardised', prunable=1, protected={'stem': 'reduce_sum', 'first': 'reduce_sum', 'head': 'output'}
)
def _():
    first, second = affine(3, 3, 4, 6) | {'gain': array(6)}, affine(3, 3, 6, 5) | {'gain': array(5)}
    shapes = {'stem': affine(3, 3, 3, 4), 'first': first, 'second': second, 'head': affine(5, 2)}
    return plain(weight_standardised, shapes, (2, 8, 8, 3))


def equalised(p, x):
    kernel = p['w'] * (math.sqrt(2) / math.sqrt(math.prod(p['w'].shape[:-1])))
    return jax.nn.leaky_relu(conv2d({'w': kernel, 'b': p['b']}, x), 0.2)


def equalised_rate(p, x):
    """Kernels are scaled by the number of inputs, so the function depends on the width of what they read."""
    x = equalised(p['from_rgb'], x)
    x = equalised(p['conv'], x)
    x = jnp.mean(x, axis=(1, 2))
    return linear(p['score'], x)


@register('plain_equalised_rate', prunable=1, protected={'from_rgb': '', 'score': 'output'})
def _():
    shapes = {'from_rgb': affine(1, 1, 3, 6), 'conv': affine(3, 3, 6, 8), 'score': affine(8, 1)}
    return plain(equalised_rate, shapes, (2, 8, 8, 3))
