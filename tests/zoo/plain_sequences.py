"""Recurrent networks and control flow: scan, while, fori and cond around layers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ._entry import register
from ._plain import affine, array, plain


def linear(p, x):
    return jnp.dot(x, p['w']) + p['b']


class LSTM(NamedTuple):
    """One kernel holds all four gates."""

    wx: Any
    wh: Any
    b: Any


def lstm(p, x):
    """Frames are embedded, then run through two layers; every width comes from a shape."""
    x = jnp.swapaxes(jax.nn.relu(linear(p['embed'], x)), 0, 1)
    for cell in p['cells']:

        def step(carry, frame, cell=cell):
            h, c = carry
            i, f, g, o = jnp.split(frame @ cell.wx + h @ cell.wh + cell.b, 4, axis=-1)
            c = jax.nn.sigmoid(f + 1.0) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((x.shape[1], cell.wh.shape[0]), x.dtype)
        _, x = lax.scan(step, (start, start), x)
    return linear(p['head'], x[-1])


@register('plain_lstm', prunable=3, protected={'head': 'output'})
def _():
    cells = [
        LSTM(array(inputs, 4 * width), array(width, 4 * width), array(4 * width)) for inputs, width in ((6, 5), (5, 4))
    ]
    return plain(lstm, {'embed': affine(3, 6), 'cells': cells, 'head': affine(4, 2)}, (2, 8, 3))


HIDDEN = 6


def gru(p, x):
    """A convolution makes the features; the state's width stands in the code."""
    x = lax.conv_general_dilated(x, p['conv']['w'], (2,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC'))
    x = jax.nn.relu(x + p['conv']['b'])

    def step(h, frame):
        z = jax.nn.sigmoid(frame @ p['gru']['wz'] + h @ p['gru']['uz'] + p['gru']['bz'])
        r = jax.nn.sigmoid(frame @ p['gru']['wr'] + h @ p['gru']['ur'] + p['gru']['br'])
        n = jnp.tanh(frame @ p['gru']['wn'] + (r * h) @ p['gru']['un'] + p['gru']['bn'])
        h = (1 - z) * h + z * n
        return h, h

    _, hidden = lax.scan(step, jnp.zeros((x.shape[0], HIDDEN), x.dtype), jnp.moveaxis(x, 1, 0), unroll=2)
    return linear(p['frames'], jnp.moveaxis(hidden, 0, 1))


@register('plain_gru', prunable=1, protected={'gru/*': '', 'frames': 'output'})
def _():
    gates = {f'w{gate}': array(5, HIDDEN) for gate in 'zrn'} | {f'u{gate}': array(HIDDEN, HIDDEN) for gate in 'zrn'}
    shapes = {
        'conv': affine(3, 3, 5),
        'gru': gates | {f'b{gate}': array(HIDDEN) for gate in 'zrn'},
        'frames': affine(HIDDEN, 2),
    }
    return plain(gru, shapes, (2, 12, 3))


def control_flow(p, image):
    """A layer repeated by `fori_loop`, by `while_loop`, and one of two chosen by `cond`."""
    x = jax.nn.relu(linear(p['embed'], image))
    x = lax.fori_loop(0, 3, lambda _, y: jnp.tanh(linear(p['repeated'], y)), x)
    _, x = lax.while_loop(
        lambda state: state[0] < 2,
        lambda state: (state[0] + 1, state[1] + jnp.sin(linear(p['again'], state[1]))),
        (0, x),
    )
    x = lax.cond(image.mean() > 0, lambda y: linear(p['yes'], y), lambda y: linear(p['no'], y), x)
    return linear(p['head'], jax.nn.gelu(x))


@register('plain_control_flow', prunable=2, protected={'head': 'output'})
def _():
    shapes = {
        'embed': affine(3, 6),
        'repeated': affine(6, 6),
        'again': affine(6, 6),
        'yes': affine(6, 5),
        'no': affine(6, 5),
        'head': affine(5, 2),
    }
    return plain(control_flow, shapes, (2, 3))


def equilibrium(p, x):
    """A layer is repeated until its channels stop to change: how often, and by how much, depends on all of them."""
    injected = linear(p['inject'], jax.nn.relu(linear(p['embed'], x)))

    def changing(state):
        _, gap, count = state
        return (gap > 1e-3) & (count < 5)

    def improve(state):
        y, gap, count = state
        step = (jnp.tanh(0.3 * linear(p['repeated'], y) + injected) - y) / (1.0 + gap)
        return y + step, jnp.abs(step).mean(), count + 1

    x, _, _ = lax.while_loop(changing, improve, (injected, jnp.abs(injected).mean(), 0))
    return linear(p['head'], x)


@register('plain_equilibrium', prunable=1, protected={'inject': '', 'repeated': '', 'head': 'output'})
def _():
    shapes = {'embed': affine(3, 5), 'inject': affine(5, 6), 'repeated': affine(6, 6), 'head': affine(6, 2)}
    return plain(equilibrium, shapes, (2, 3))


def stacked_layers(p, x):
    """Residual blocks whose weights lie on top of each other, so that the program stays small."""

    def block(x, layer):
        hidden = jax.nn.silu(x @ layer['w1'] + layer['b1'])
        return x + hidden @ layer['w2'] * layer['gain'], None

    x, _ = lax.scan(jax.checkpoint(block), x @ p['embed'], p['layers'])
    return x @ p['head']


@register('plain_stacked_layers', prunable=2, protected={'head': 'output'})
def _():
    layers = {'w1': array(3, 6, 8), 'b1': array(3, 8), 'w2': array(3, 8, 6), 'gain': array(3, 6)}
    return plain(stacked_layers, {'embed': array(4, 6), 'layers': layers, 'head': array(6, 3)}, (2, 8, 4))
