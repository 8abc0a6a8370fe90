"""Small networks as plain functions whose widths follow from the shapes of their parameters.

All channels of them but those that are the network's output can be removed.
"""

import dataclasses
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

SIDE = 6


@dataclasses.dataclass(frozen=True)
class Net:
    """`kernels`: layer -> shape and what stands beside its output; `edges`: producer, consumer, offset, channels.

    `free`: layers whose channels can be removed, where those are not just the producers of the edges.
    """

    apply: Callable
    kernels: dict[str, tuple]
    edges: set[tuple[str, str, int, int]] | None
    free: Collection[str] = ()
    image: tuple[int, ...] = (2, SIDE, SIDE, 3)

    def parameters(self, seed=0):
        rng = np.random.default_rng(seed)
        shapes = {name: _shapes(spec) for name, spec in self.kernels.items()}
        return {name: {key: _draw(rng, key, shape) for key, shape in each.items()} for name, each in shapes.items()}

    def input(self, seed=1):
        return np.random.default_rng(seed).normal(size=self.image)


def _shapes(spec):
    """`(3, 3, 4, 8, 'bn')` or, for parameters of other kinds, a dictionary of shapes."""
    if isinstance(spec, dict):
        return spec
    shape = tuple(part for part in spec if isinstance(part, int))
    beside = {'bn': ('scale', 'offset', 'mean', 'var'), 'bias': ('bias',)}
    return {'kernel': shape} | {key: shape[-1:] for part in spec if isinstance(part, str) for key in beside[part]}


def _draw(rng, key, shape):
    return rng.uniform(0.5, 2, shape) if key == 'var' else rng.normal(size=shape) / np.sqrt(max(np.prod(shape[:-1]), 1))


def rows(vector, rank=4):
    return vector.reshape((1,) * (rank - 1) + (-1,))


def norm(p, x):
    return (x - rows(p['mean'], x.ndim)) * lax.rsqrt(rows(p['var'], x.ndim) + 1e-3) * rows(p['scale'], x.ndim) + rows(
        p['offset'], x.ndim
    )


def conv(p, x, *, stride=1, groups=1, layout=('NHWC', 'HWIO', 'NHWC'), **options):
    strides = (stride,) * (x.ndim - 2)
    y = lax.conv_general_dilated(
        x, p['kernel'], strides, 'SAME', dimension_numbers=layout, feature_group_count=groups, **options
    )
    y = norm(p, y) if 'var' in p else y
    return y + rows(p['bias'], x.ndim) if 'bias' in p else y


def unit(p, x, **options):
    return jax.nn.silu(conv(p, x, **options))


def dense(p, x):
    y = x @ p['kernel']
    return y + rows(p['bias'], y.ndim) if 'bias' in p else y


def pool(x, window=3, stride=1):
    sizes = ((1, window, window, 1), (1, stride, stride, 1), 'SAME')
    return lax.reduce_window(x, -jnp.inf, lax.max, *sizes)


def upsample(x, k=2):
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, k, w, k, c)).reshape(b, h * k, w * k, c)


def mean(x):
    return x.mean((1, 2))


def chain(p, x):
    return conv(p['c'], jax.nn.relu6(3 + conv(p['b'], unit(p['a'], x, stride=2))))


def branches(p, x):
    x = unit(p['a'], x)
    left, right = unit(p['b'], x), jax.nn.leaky_relu(conv(p['c'], x))
    return conv(p['d'], jnp.concatenate([right, x, left], -1))


def twice(p, x):
    x = unit(p['a'], x)
    return conv(p['b'], jnp.concatenate([x, x], -1))


def pyramid(p, x):
    x = unit(p['a'], x)
    return conv(p['b'], jnp.concatenate([x, y := pool(x), pool(y)], -1))


def residual(p, x):
    x = unit(p['a'], x)
    x = x + conv(p['c'], unit(p['b'], x))
    x = jax.nn.relu(x + conv(p['d'], x))
    return conv(p['e'], x)


def repvgg(p, x):
    x = unit(p['a'], x)
    x = jax.nn.silu(conv(p['dense'], x) + conv(p['point'], x) + norm(p['identity'], x))
    return conv(p['b'], x)


def scaled(p, x):
    """Nearest by broadcasting, by gather and by repeat; bilinear; average pooling."""
    x = upsample(unit(p['a'], x))
    b, h, w, c = x.shape
    x = jax.image.resize(x, (b, 2 * h, w, c), 'nearest')
    x = jnp.repeat(conv(p['b'], x, stride=2), 2, axis=1)
    x = jax.image.resize(x, (b, 5, 4, x.shape[-1]), 'bilinear')
    return conv(p['c'], lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID') / 4)


def flatten(p, x):
    x = pool(unit(p['a'], x), 3, 3)
    return dense(p['c'], jnp.tanh(dense(p['b'], x.reshape(x.shape[0], -1))))


def channels_first(p, x):
    layout = ('NCHW', 'OIHW', 'NCHW')
    swap = {'kernel': p['b']['kernel'].transpose(3, 2, 0, 1)}
    x = unit(p['a'], x).transpose(0, 3, 1, 2)
    x = lax.conv_general_dilated(x, swap['kernel'], (2, 2), 'SAME', dimension_numbers=layout)
    return dense(p['c'], x.reshape(x.shape[0], -1))


def tokens(p, x):
    x = unit(p['a'], x)
    b, h, w, c = x.shape
    y = jnp.einsum('bnc,cd->bnd', x.reshape(b, h * w, c), p['b']['kernel'])
    y = y.reshape(b, h * w * y.shape[-1]).reshape(b, h, w, y.shape[-1])
    return conv(p['c'], y)


def depthwise(p, x):
    x = unit(p['a'], x)
    x = unit(p['dw'], x, groups=x.shape[-1])
    return dense(p['b'], mean(x))


def squeeze_excite(p, x):
    x = unit(p['a'], x)
    gate = jax.nn.sigmoid(dense(p['up'], jax.nn.leaky_relu(dense(p['down'], mean(x)))))
    return conv(p['b'], x * gate[:, None, None, :])


def gated(p, x):
    left, right = jnp.split(conv(p['a'], x), 2, axis=-1)
    return conv(p['b'], left * jax.nn.sigmoid(right))


def implicit(p, x):
    x = unit(p['a'], x)
    x = x + rows(p['before']['vector'])
    return conv(p['b'], x) * rows(p['after']['vector'])


def transposed(p, x):
    x = lax.conv_transpose(unit(p['a'], x), p['b']['kernel'], (2, 2), 'SAME')
    x = conv(p['c'], jax.nn.gelu(x), rhs_dilation=(2, 2))
    return x.reshape(x.shape[0], -1)


def one_dimensional(p, x):
    layout = ('NWC', 'WIO', 'NWC')
    return conv(p['b'], unit(p['a'], x, layout=layout), layout=layout)


def shared(p, x):
    x = unit(p['a'], x)
    x = unit(p['b'], unit(p['b'], x))
    return conv(p['c'], x)


def dense_net(p, x):
    x = unit(p['a'], x)
    for name in ('b', 'c'):
        x = jnp.concatenate([x, conv(p[name], jax.nn.elu(norm(p['n' + name], x)))], -1)
    return conv(p['d'], x)


def parted(p, x):
    left, right = unit(p['a'], x), unit(p['b'], x)
    x = jnp.concatenate([left, right], -1)
    width = left.shape[-1]
    return conv(p['c'], x[..., :width]) + conv(p['d'], x[..., width:])


@jax.custom_vjp
def scaled_identity(x):
    return x * 2


scaled_identity.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 2,))


def bodies(p, x):
    x = jax.jit(lambda x: unit(p['a'], x))(x)
    x = jax.checkpoint(lambda x: jnp.clip(conv(p['b'], x), -1, 1))(scaled_identity(x))
    return conv(p['c'], lax.stop_gradient(jax.nn.relu(x + 1)))


def changed_kernel(p, x):
    gain = rows(p['a']['gain'])
    x = lax.conv_general_dilated(x, p['a']['kernel'] * gain, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    kernel = p['b']['kernel'].astype(x.dtype).T * 0.5 / 3.0
    return mean(jax.nn.silu(x)) @ kernel


def spatial(p, x):
    x = unit(p['a'], x)
    x = jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0)), mode='reflect')
    x = jnp.flip(x, 1) + jnp.cumsum(x, 2)
    x = jnp.where(x > 0, jnp.sort(x, 1), x**2)
    x = lax.dynamic_slice_in_dim(jax.nn.softmax(x, axis=(1, 2)), 1, 3, axis=1)
    x = jnp.pad(x.mean(1, keepdims=True).squeeze(1)[:, None], ((0, 0), (0, 0), (0, 0), (1, 2)))
    return conv(p['b'], x)


def summed(p, x):
    """The sum of all channels, read by nobody who has parameters."""
    x = mean(unit(p['a'], x))
    return dense(p['b'], x * jnp.tanh(x.sum(1, keepdims=True)))


def uneven(p, x):
    """The channels of one layer meet those of two others."""
    x = mean(x)
    return dense(p['b'], jnp.tanh(jnp.concatenate([dense(p['a'], x), dense(p['c'], x)], -1) + dense(p['d'], x)))


def scanned(p, x):
    """A recurrent layer that begins with zeros."""
    x = dense(p['a'], mean(x))

    def step(h, x):
        h = jnp.tanh(dense(p['r'], h) + x)
        return h, h.sum(0)

    h, outputs = lax.scan(step, jnp.zeros_like(x), jnp.stack([x, 2 * x, -x]))
    return dense(p['b'], h + rows(outputs.sum(0), 2))


def looped(p, x):
    x = lax.fori_loop(0, 3, lambda _, x: jnp.tanh(conv(p['r'], x)), unit(p['a'], x))
    return lax.cond(x.shape[0] > 1, lambda x: conv(p['b'], x), lambda x: conv(p['c'], x), x)


def autoencoder(p, x):
    """One kernel writes the code and reads it."""
    x = jnp.tanh(dense(p['c'], mean(x)))
    return dense(p['b'], jax.nn.softplus(x @ p['a']['kernel']) @ p['a']['kernel'].T)


def changed_reader(p, x):
    """The kernels that read are not zero where their parameters are, so the channel has to be."""
    x = jax.nn.silu(dense(p['a'], mean(x)))
    return x @ jnp.exp(p['b']['kernel']) + x @ (p['c']['kernel'] / jnp.linalg.norm(p['c']['kernel'], axis=0)[None])


def attention(p, x):
    """Kernels with an axis of heads; scores without a scale, so that the size of a head is free as well."""
    b, h, w, c = x.shape
    x = x.reshape(b, h * w, c)
    q, k, v = (jnp.einsum('bnc,chd->bnhd', x, p[name]['kernel']) + p[name]['bias'][None, None] for name in 'qkv')
    weights = jax.nn.softmax(jnp.einsum('bnhd,bmhd->bhnm', q, k), axis=-1)
    return jnp.einsum('bnhd,hdo->bno', jnp.einsum('bhnm,bmhd->bnhd', weights, v), p['o']['kernel'])


def fused_attention(p, x):
    """Queries, keys and values of one kernel; the code fixes the number of heads."""
    b, h, w, c = x.shape
    qkv = dense(p['qkv'], x.reshape(b, h * w, c)).reshape(b, h * w, 3, 2, -1)
    q, k, v = jnp.moveaxis(qkv, 2, 0)
    weights = jax.nn.softmax(jnp.einsum('bnhd,bmhd->bhnm', q, k), axis=-1)
    return jnp.einsum('bhnm,bmhd->bnhd', weights, v).reshape(b, h * w, -1) @ p['o']['kernel']


def head_size_fixed(p, x):
    """The code fixes the size of a head, so whole heads go."""
    b, h, w, c = x.shape
    x = x.reshape(b, h * w, c)
    q, k, v = (dense(p[name], x).reshape(b, h * w, -1, 2) for name in 'qkv')
    weights = jax.nn.softmax(jnp.einsum('bnhd,bmhd->bhnm', q, k) / np.sqrt(2), axis=-1)
    return jnp.einsum('bhnm,bmhd->bnhd', weights, v).reshape(b, h * w, -1) @ p['o']['kernel']


def shuffled(p, x):
    """Groups of channels, a channel shuffle between them, and a split in halves."""
    x = conv(p['g'], unit(p['a'], x), groups=2)
    b, h, w, c = x.shape
    x = jax.nn.relu(x.reshape(b, h, w, 2, c // 2).swapaxes(3, 4).reshape(b, h, w, c))
    left, right = jnp.split(x, 2, axis=-1)
    return conv(p['b'], jnp.concatenate([left, jnp.tanh(right)], -1))


def pixel_shuffle(p, x):
    """Channels first among the parts of an axis, and read in the order of PyTorch."""
    x = unit(p['a'], x)
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)
    return conv(p['b'], x)


def every_second(p, x):
    """Even and odd channels, as in a rotary embedding."""
    x = unit(p['a'], x)
    return conv(p['b'], x[..., ::2] * jnp.tanh(x[..., 1::2]))


def embedded(p, x):
    tokens = jnp.argmax(x, axis=-1).reshape(x.shape[0], -1)
    return dense(p['b'], jnp.tanh(p['table']['kernel'][tokens] + p['place']['vector'][None]))


C3 = (3, 3)
NETS = {
    'chain': Net(
        chain,
        {'a': (*C3, 3, 5, 'bn'), 'b': (*C3, 5, 4, 'bias'), 'c': (1, 1, 4, 3)},
        {('a', 'b', 0, 5), ('b', 'c', 0, 4)},
    ),
    'branches': Net(
        branches,
        {'a': (*C3, 3, 5, 'bn'), 'b': (1, 1, 5, 4), 'c': (1, 1, 5, 3, 'bn'), 'd': (1, 1, 12, 2)},
        {('a', 'b', 0, 5), ('a', 'c', 0, 5), ('c', 'd', 0, 3), ('a', 'd', 3, 5), ('b', 'd', 8, 4)},
    ),
    'twice': Net(twice, {'a': (*C3, 3, 4, 'bn'), 'b': (1, 1, 8, 2)}, {('a', 'b', 0, 4), ('a', 'b', 4, 4)}),
    'pyramid': Net(
        pyramid, {'a': (*C3, 3, 4, 'bn'), 'b': (1, 1, 12, 2)}, {('a', 'b', 0, 4), ('a', 'b', 4, 4), ('a', 'b', 8, 4)}
    ),
    'residual': Net(
        residual,
        {
            'a': (*C3, 3, 5, 'bn'),
            'b': (*C3, 5, 4, 'bn'),
            'c': (*C3, 4, 5, 'bn'),
            'd': (1, 1, 5, 5, 'bias'),
            'e': (1, 1, 5, 2),
        },
        {(p, c, 0, 5) for p, c in [('a', 'b'), ('a', 'd'), ('a', 'e'), ('c', 'd'), ('c', 'e'), ('d', 'e')]}
        | {('b', 'c', 0, 4)},
    ),
    'repvgg': Net(
        repvgg,
        {
            'a': (*C3, 3, 4, 'bn'),
            'dense': (*C3, 4, 4, 'bn'),
            'point': (1, 1, 4, 4, 'bn'),
            'identity': {'scale': (4,), 'offset': (4,), 'mean': (4,), 'var': (4,)},
            'b': (1, 1, 4, 2),
        },
        {(p, c, 0, 4) for p, c in [('a', 'dense'), ('a', 'point'), ('a', 'b'), ('dense', 'b'), ('point', 'b')]},
    ),
    'scaled': Net(
        scaled, {'a': (*C3, 3, 4, 'bn'), 'b': (*C3, 4, 5), 'c': (1, 1, 5, 2)}, {('a', 'b', 0, 4), ('b', 'c', 0, 5)}
    ),
    'flatten': Net(
        flatten,
        {'a': (*C3, 3, 4, 'bn'), 'b': (16, 5, 'bias'), 'c': (5, 2)},
        {('a', 'b', start, 4) for start in (0, 4, 8, 12)} | {('b', 'c', 0, 5)},
    ),
    'channels_first': Net(
        channels_first,
        {'a': (*C3, 3, 4, 'bn'), 'b': (*C3, 4, 3), 'c': (27, 2)},
        {('a', 'b', 0, 4)}
        # A run of consecutive channels goes over each border between two channels, which take nine places each.
        | {('b', 'c', start, 1 + (start in (8, 17))) for start in range(27) if start not in (9, 18)},
    ),
    'tokens': Net(
        tokens, {'a': (*C3, 3, 4, 'bn'), 'b': (4, 5), 'c': (1, 1, 5, 2)}, {('a', 'b', 0, 4), ('b', 'c', 0, 5)}
    ),
    'depthwise': Net(
        depthwise,
        {'a': (*C3, 3, 4, 'bn'), 'dw': (*C3, 1, 4, 'bn'), 'b': (4, 2)},
        {('a', 'dw', 0, 4), ('dw', 'b', 0, 4)},
    ),
    'depthwise_twofold': Net(
        depthwise,
        {'a': (*C3, 3, 4, 'bn'), 'dw': (*C3, 1, 8, 'bias'), 'b': (8, 2)},
        {
            ('a', 'dw', 0, 1),
            ('a', 'dw', 1, 2),
            ('a', 'dw', 3, 2),
            ('a', 'dw', 5, 2),
            ('a', 'dw', 7, 1),
            ('dw', 'b', 0, 8),
        },
    ),
    'squeeze_excite': Net(
        squeeze_excite,
        {'a': (*C3, 3, 4, 'bn'), 'down': (4, 3, 'bias'), 'up': (3, 4, 'bias'), 'b': (1, 1, 4, 2)},
        {('a', 'down', 0, 4), ('down', 'up', 0, 3), ('up', 'b', 0, 4), ('a', 'b', 0, 4)},
    ),
    'gated': Net(gated, {'a': (*C3, 3, 8, 'bn'), 'b': (1, 1, 4, 2)}, {('a', 'b', 0, 4)}),
    'implicit': Net(
        implicit,
        {'a': (*C3, 3, 4, 'bn'), 'b': (1, 1, 4, 6, 'bias'), 'before': {'vector': (4,)}, 'after': {'vector': (6,)}},
        {('a', 'b', 0, 4)},
    ),
    'transposed': Net(
        transposed, {'a': (*C3, 3, 4, 'bn'), 'b': (*C3, 4, 5), 'c': (*C3, 5, 2)}, {('a', 'b', 0, 4), ('b', 'c', 0, 5)}
    ),
    'one_dimensional': Net(
        one_dimensional, {'a': (3, 3, 4, 'bn'), 'b': (3, 4, 2)}, {('a', 'b', 0, 4)}, image=(2, 7, 3)
    ),
    'shared': Net(
        shared,
        {'a': (*C3, 3, 4, 'bn'), 'b': (*C3, 4, 4, 'bn'), 'c': (1, 1, 4, 2)},
        {('a', 'b', 0, 4), ('b', 'b', 0, 4), ('b', 'c', 0, 4)},
    ),
    'dense_net': Net(
        dense_net,
        {
            'a': (*C3, 3, 4, 'bn'),
            'nb': {'scale': (4,), 'offset': (4,), 'mean': (4,), 'var': (4,)},
            'b': (*C3, 4, 3),
            'nc': {'scale': (7,), 'offset': (7,), 'mean': (7,), 'var': (7,)},
            'c': (*C3, 7, 2),
            'd': (1, 1, 9, 2),
        },
        {('a', 'b', 0, 4), ('a', 'c', 0, 4), ('a', 'd', 0, 4), ('b', 'c', 4, 3), ('b', 'd', 4, 3), ('c', 'd', 7, 2)},
    ),
    'parted': Net(
        parted,
        {'a': (*C3, 3, 4, 'bn'), 'b': (*C3, 3, 3), 'c': (1, 1, 4, 2), 'd': (1, 1, 3, 2)},
        {('a', 'c', 0, 4), ('b', 'd', 0, 3)},
    ),
    'bodies': Net(
        bodies, {'a': (*C3, 3, 4, 'bn'), 'b': (*C3, 4, 3), 'c': (1, 1, 3, 2)}, {('a', 'b', 0, 4), ('b', 'c', 0, 3)}
    ),
    'changed_kernel': Net(
        changed_kernel, {'a': {'kernel': (*C3, 3, 4), 'gain': (4,)}, 'b': (2, 4)}, {('a', 'b', 0, 4)}
    ),
    'summed': Net(summed, {'a': (*C3, 3, 5, 'bias'), 'b': (5, 2)}, {('a', 'b', 0, 5)}),
    'uneven': Net(
        uneven,
        {'a': (3, 2, 'bias'), 'c': (3, 4), 'd': (3, 6), 'b': (6, 3)},
        {('a', 'b', 0, 2), ('c', 'b', 2, 4), ('d', 'b', 0, 6)},
    ),
    'scanned': Net(
        scanned,
        {'a': (3, 5), 'r': (5, 5, 'bias'), 'b': (5, 2)},
        {('a', 'r', 0, 5), ('r', 'r', 0, 5), ('a', 'b', 0, 5), ('r', 'b', 0, 5)},
    ),
    'looped': Net(
        looped,
        {'a': (*C3, 3, 4), 'r': (*C3, 4, 4, 'bn'), 'b': (1, 1, 4, 2), 'c': (1, 1, 4, 2)},
        {('a', 'r', 0, 4), ('r', 'r', 0, 4), *((p, c, 0, 4) for p in 'ar' for c in 'bc')},
    ),
    'autoencoder': Net(
        autoencoder,
        {'c': (3, 4), 'a': (4, 6), 'b': (4, 2)},
        {('c', 'a', 0, 4), ('a', 'a', 0, 6), ('a', 'b', 0, 4)},
    ),
    'changed_reader': Net(changed_reader, {'a': (3, 5), 'b': (5, 2), 'c': (5, 2)}, None, free='a'),
    'attention': Net(
        attention,
        {**{name: {'kernel': (3, 4, 3), 'bias': (4, 3)} for name in 'qkv'}, 'o': {'kernel': (4, 3, 2)}},
        None,
        free='qkv',
    ),
    'fused_attention': Net(fused_attention, {'qkv': (3, 24, 'bias'), 'o': (8, 2)}, None, free=('qkv',)),
    'head_size_fixed': Net(head_size_fixed, {**dict.fromkeys('qkv', (3, 8, 'bias')), 'o': (8, 2)}, None, free='qkv'),
    'shuffled': Net(shuffled, {'a': (*C3, 3, 8, 'bn'), 'g': (*C3, 4, 12), 'b': (1, 1, 12, 2)}, None, free='ag'),
    'pixel_shuffle': Net(pixel_shuffle, {'a': (*C3, 3, 16, 'bn'), 'b': (1, 1, 4, 2)}, None, free='a'),
    'every_second': Net(every_second, {'a': (*C3, 3, 8, 'bn'), 'b': (1, 1, 4, 2)}, None, free='a'),
    'embedded': Net(
        embedded, {'table': {'kernel': (3, 5)}, 'place': {'vector': (36, 5)}, 'b': (5, 2)}, {('table', 'b', 0, 5)}
    ),
    'spatial': Net(spatial, {'a': (*C3, 3, 4, 'bn'), 'b': (1, 1, 7, 2)}, {('a', 'b', 1, 4)}),
}


@pytest.fixture(params=NETS)
def net(request):
    return NETS[request.param]
