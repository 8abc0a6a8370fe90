"""Networks of two or three layers with one feature each: `network(o, x)`.

`o` makes and applies layers by name, in PyTorch or in JAX; images are `[N, C, H, W]` in both, weights lie as in
PyTorch. This file imports neither.
"""

import zlib
from typing import Any

import numpy as np

IMAGE, SEQUENCE, VECTOR = (16, 3, 8, 8), (16, 5, 6), (16, 3)


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard deviation 0.6; variances are positive. They depend on the name and the shape only."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.6, shape)
    return np.abs(drawn) + 0.5 if name.endswith('var') else drawn


def inputs(network: Any) -> np.ndarray:
    """Example inputs of a network."""
    return np.random.default_rng(1).normal(size=SHAPES.get(network.__name__, IMAGE))


def head(o, x):
    return o.dense('head', x.mean((2, 3)), 4)


def residual(o, x):
    x = o.relu(o.conv('a', x, 8, 3))
    return head(o, x + o.relu(o.batch_norm('norm', o.conv('b', x, 8, 3))))


def sigmoid(o, x):
    """What produces zero is read as 0.5."""
    return head(o, o.sigmoid(o.conv('b', o.sigmoid(o.conv('a', x, 8)), 8)))


def depthwise(o, x):
    x = o.relu(o.conv('a', x, 8))
    return head(o, o.relu(o.conv('c', o.relu(o.conv('b', x, x.shape[1], 3, groups=x.shape[1])), 8)))


def flatten(o, x):
    x = o.relu(o.conv('a', x, 8, 3))
    return o.dense('head', o.relu(o.dense('b', o.flatten(x), 8)), 4)


def grouped(o, x):
    return head(o, o.relu(o.conv('b', o.relu(o.conv('a', x, 8)), 8, 3, groups=2)))


def transposed(o, x):
    return head(o, o.relu(o.transposed('b', o.relu(o.conv('a', x, 8)), 6)))


def grouped_transposed(o, x):
    return head(o, o.relu(o.transposed('b', o.relu(o.conv('a', x, 8)), 8, groups=2)))


def shuffle(o, x):
    x = o.relu(o.conv('b', o.relu(o.conv('a', x, 8)), 8, groups=2))
    n, _, h, w = x.shape
    x = x.reshape(n, 2, -1, h, w).swapaxes(1, 2).reshape(n, -1, h, w)
    return head(o, o.relu(o.conv('c', x, 8, 3, groups=2)))


def split(o, x):
    left, right = o.halves(o.relu(o.conv('a', x, 8)))
    return head(o, o.concat([left, o.relu(o.conv('b', right, 4, 3))]))


def pixel_shuffle(o, x):
    return head(o, o.relu(o.conv('b', o.relu(o.pixel_shuffle(o.conv('a', x, 16))), 8, 3)))


def twice(o, x):
    x = o.relu(o.conv('a', x, 8))
    return head(o, o.relu(o.conv('b', o.relu(o.conv('b', x, 8, 3)), 8, 3)))


def layer_norm(o, x):
    return o.dense('head', o.relu(o.layer_norm('norm', o.dense('a', x, 8))), 4)


def group_norm(o, x):
    return head(o, o.relu(o.group_norm('norm', o.conv('a', x, 8), 4)))


def softmax(o, x):
    return head(o, o.softmax(o.conv('a', x, 8), 1))


def cumulative(o, x):
    return head(o, o.relu(o.conv('a', x, 8)).cumsum(1))


def flipped(o, x):
    return head(o, o.relu(o.conv('a', x, 8)) + o.flip(o.relu(o.conv('b', x, 8))))


def attention(o, x):
    """Two heads."""
    x = o.dense('embed', x, 8)
    n, length, _ = x.shape
    q, k, v = (o.dense(name, x, 8).reshape(n, length, 2, -1).swapaxes(1, 2) for name in 'qkv')
    y = o.softmax(q @ k.swapaxes(-1, -2) / 2, -1) @ v
    return o.dense('head', (x + o.dense('out', y.swapaxes(1, 2).reshape(n, length, -1), 8)).mean(1), 4)


def loop(o, x):
    state = o.tanh(o.dense('in', x[:, 0], 8))
    for step in range(1, x.shape[1]):
        state = o.tanh(o.dense('in', x[:, step], 8) + o.dense('state', state, 8))
    return o.dense('head', state, 4)


def gru(o, x):
    return o.dense('head', o.gru('cell', o.relu(o.dense('a', x, 6)), 8), 4)


def lstm(o, x):
    return o.dense('head', o.lstm('cell', o.relu(o.dense('a', x, 6)), 8), 4)


SHAPES = {'layer_norm': VECTOR, 'attention': SEQUENCE, 'loop': SEQUENCE, 'gru': SEQUENCE, 'lstm': SEQUENCE}
ROWS = {
    'residual, batch norm': (residual,),
    'sigmoid in front of the reader': (sigmoid,),
    'depthwise; flatten': (depthwise, flatten),
    'grouped convolution': (grouped,),
    'transposed; grouped and transposed': (transposed, grouped_transposed),
    'channel shuffle': (shuffle,),
    'split in halves, concatenated': (split,),
    'pixel shuffle': (pixel_shuffle,),
    'one convolution used twice': (twice,),
    'layer norm; group norm, 2 channels each': (layer_norm, group_norm),
    'softmax over channels; cumulative sum over them': (softmax, cumulative),
    'channels flipped, then added': (flipped,),
    'attention by hand': (attention,),
    'cell in a loop; GRU; LSTM': (loop, gru, lstm),
}
