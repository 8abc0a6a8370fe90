"""The networks in JAX, masked and sliced by jaxprune."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxprune

from . import networks

LAYOUT = ('NCHW', 'OIHW', 'NCHW')


class Ops:
    """Layers on a dictionary of parameters, which an empty one is filled with."""

    relu, sigmoid, softmax = staticmethod(jax.nn.relu), staticmethod(jax.nn.sigmoid), staticmethod(jax.nn.softmax)
    tanh = staticmethod(jnp.tanh)
    halves = staticmethod(lambda x: jnp.split(x, 2, 1))
    concat = staticmethod(lambda parts: jnp.concatenate(parts, 1))
    flip = staticmethod(lambda x: jnp.flip(x, 1))
    flatten = staticmethod(lambda x: x.reshape(len(x), -1))

    def __init__(self, params: dict[str, Any]):
        self.params, self.empty = params, not params

    def _layer(self, name: str, **shapes: tuple[int, ...]) -> list[Any]:
        if self.empty:
            made = {leaf: jnp.asarray(networks.weights(f'{name}.{leaf}', shape)) for leaf, shape in shapes.items()}
            self.params.setdefault(name, made)
        return [self.params[name][leaf] for leaf in shapes]

    def conv(self, name, x, width, size=1, *, groups=1):
        """Convolution, padded so that the size stays."""
        weight, bias = self._layer(name, weight=(width, x.shape[1] // groups, size, size), bias=(width,))
        options = {'dimension_numbers': LAYOUT, 'feature_group_count': groups}
        return lax.conv_general_dilated(x, weight, (1, 1), 'SAME', **options) + bias[:, None, None]

    def transposed(self, name, x, width, *, groups=1):
        """Transposed convolution that doubles the size; its weight is `[in, out / groups, 2, 2]`."""
        weight, bias = self._layer(name, weight=(x.shape[1], width // groups, 2, 2), bias=(width,))
        weight = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        weight = jnp.flip(weight.reshape(-1, *weight.shape[2:]), (2, 3))
        options = {'lhs_dilation': (2, 2), 'dimension_numbers': LAYOUT, 'feature_group_count': groups}
        return lax.conv_general_dilated(x, weight, (1, 1), ((1, 1), (1, 1)), **options) + bias[:, None, None]

    def dense(self, name, x, width):
        """Of the last axis."""
        weight, bias = self._layer(name, weight=(width, x.shape[-1]), bias=(width,))
        return x @ weight.T + bias

    def batch_norm(self, name, x):
        """Of axis 1, in evaluation mode."""
        leaves = dict.fromkeys(('weight', 'bias', 'running_mean', 'running_var'), (x.shape[1],))
        weight, bias, mean, variance = (leaf[:, None, None] for leaf in self._layer(name, **leaves))
        return (x - mean) * lax.rsqrt(variance + 1e-5) * weight + bias

    def layer_norm(self, name, x):
        """Of the last axis."""
        weight, bias = self._layer(name, weight=x.shape[-1:], bias=x.shape[-1:])
        return _normalised(x, (-1,)) * weight + bias

    def group_norm(self, name, x, groups):
        """Of axis 1."""
        weight, bias = self._layer(name, weight=(x.shape[1],), bias=(x.shape[1],))
        parts = _normalised(x.reshape(len(x), groups, -1, *x.shape[2:]), (2, 3, 4))
        return parts.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]

    def pixel_shuffle(self, x):
        """Four channels become two by two pixels."""
        n, _, h, w = x.shape
        return x.reshape(n, -1, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, -1, 2 * h, 2 * w)

    def gru(self, name, x, width):
        """The last state; gates in the order of PyTorch."""
        w_in, w_state, b_in, b_state = self._cell(name, x, width, 3)

        def step(state, now):
            parts = zip(
                jnp.split(now @ w_in.T + b_in, 3, -1), jnp.split(state @ w_state.T + b_state, 3, -1), strict=True
            )
            (r, hr), (z, hz), (n, hn) = parts
            z = jax.nn.sigmoid(z + hz)
            return (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * state, None

        return lax.scan(step, jnp.zeros((len(x), w_state.shape[1])), x.swapaxes(0, 1))[0]

    def lstm(self, name, x, width):
        """The last state."""
        w_in, w_state, b_in, b_state = self._cell(name, x, width, 4)

        def step(carry, now):
            state, memory = carry
            i, f, g, o = jnp.split(now @ w_in.T + b_in + state @ w_state.T + b_state, 4, -1)
            memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(memory), memory), None

        start = jnp.zeros((len(x), w_state.shape[1]))
        return lax.scan(step, (start, start), x.swapaxes(0, 1))[0][0]

    def _cell(self, name, x, width, gates):
        rows = gates * width
        shapes = {'weight_ih_l0': (rows, x.shape[-1]), 'weight_hh_l0': (rows, width)}
        return self._layer(name, **shapes, bias_ih_l0=(rows,), bias_hh_l0=(rows,))


def _normalised(x, axes):
    return (x - x.mean(axes, keepdims=True)) * lax.rsqrt(x.var(axes, keepdims=True) + 1e-5)


def study(network: Any) -> dict[str, Any]:
    """What came of the network, and its output before."""
    params: dict[str, Any] = {}
    x = jnp.asarray(networks.inputs(network))
    whole = network(Ops(params), x)
    return {
        'result': _pruned(lambda params, x: network(Ops(params), x), params, x),
        'output': np.ravel(whole)[:4].tolist(),
    }


def _pruned(apply, params, x):
    graph = jaxprune.trace(apply, params, x)
    hidden = [group for group in graph.groups if 'head' not in group.layers]
    if all(group.protected for group in hidden):
        return 'protected'
    plan = jaxprune.select_channels(graph, params, keep=0.5)
    kept = [group.name for group in hidden if group.protected]
    masked, sliced = apply(jaxprune.mask(params, plan), x), apply(jaxprune.slice(params, plan), x)
    difference = float(jnp.abs(masked - sliced).max() / jnp.abs(masked).max())
    return f'{difference} ({", ".join(kept)} protected)' if kept else difference


def results() -> dict[str, dict[str, Any]]:
    """By name of the network."""
    jax.config.update('jax_enable_x64', True)
    return {network.__name__: study(network) for row in networks.ROWS.values() for network in row}
