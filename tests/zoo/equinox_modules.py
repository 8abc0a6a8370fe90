"""Equinox modules, written for one example and mapped over the batch; the module itself is the variables."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import frameworks

from ._entry import Case, register


def case(make, *inputs):
    """A module made by a key; leaves that are no arrays, such as activations, stay in it."""
    structs = tuple(jax.ShapeDtypeStruct(sizes, np.float64) for sizes in inputs)

    def apply(model, *inputs):
        return jax.vmap(model)(*inputs)

    model = eqx.filter_eval_shape(make, jax.random.key(0))
    return Case(apply, model, structs, lambda small: frameworks.following(apply), model)


@register('equinox_mlp', prunable=2, protected={'layers/2': 'output'})
def _():
    return case(lambda key: eqx.nn.MLP(4, 3, width_size=6, depth=2, key=key), (5, 4))


class CNN(eqx.Module):
    """From the example of Equinox: functions stand among the layers of a list."""

    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 5, kernel_size=3, key=keys[0]),
            eqx.nn.MaxPool2d(kernel_size=2, stride=2),
            jax.nn.relu,
            eqx.nn.Conv2d(5, 4, kernel_size=2, key=keys[1]),
            jnp.ravel,
            eqx.nn.Linear(16, 8, key=keys[2]),
            jax.nn.sigmoid,
            eqx.nn.Linear(8, 3, key=keys[3]),
            jax.nn.log_softmax,
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@register('equinox_cnn', prunable=3, protected={'layers/7': 'output'})
def _():
    return case(CNN, (2, 1, 8, 8))


class MobileBlock(eqx.Module):
    """An inverted residual with group norms of one channel each; the depthwise layer's groups stand in the module."""

    stem: eqx.nn.Conv2d
    expand: eqx.nn.Conv2d
    depthwise: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    project: eqx.nn.Conv2d
    pool: eqx.nn.AdaptiveAvgPool2d
    classes: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.stem = eqx.nn.Conv2d(3, 4, 3, stride=2, padding=1, key=keys[0])
        self.expand = eqx.nn.Conv2d(4, 8, 1, key=keys[1])
        self.depthwise = eqx.nn.Conv2d(8, 8, 3, padding=1, groups=8, use_bias=False, key=keys[2])
        self.norm = eqx.nn.GroupNorm(4, channels=8)
        self.project = eqx.nn.Conv2d(8, 4, 1, key=keys[3])
        self.pool = eqx.nn.AdaptiveAvgPool2d(1)
        self.classes = eqx.nn.Linear(4, 2, key=keys[4])

    def __call__(self, x):
        x = jax.nn.silu(self.stem(x))
        y = jax.nn.silu(self.norm(self.depthwise(self.expand(x))))
        x = x + self.project(y)
        return self.classes(jnp.squeeze(self.pool(x), (1, 2)))


@register(
    'equinox_mobile', prunable=1, protected={'depthwise': '', 'expand': '', 'classes': 'output'}, approximate=True
)
def _():
    return case(MobileBlock, (2, 3, 8, 8))


class Encoder(eqx.Module):
    """A pre-norm block with `eqx.nn.MultiheadAttention`; its heads stand in the module as a number."""

    embed: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention
    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Linear(5, 8, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(2, 8, use_query_bias=True, key=keys[1])
        self.norm1, self.norm2 = eqx.nn.LayerNorm(8), eqx.nn.LayerNorm(8)
        self.mlp = eqx.nn.MLP(8, 8, width_size=10, depth=1, activation=jax.nn.gelu, key=keys[2])
        self.head = eqx.nn.Linear(8, 3, key=keys[3])

    def __call__(self, x):
        x = jax.vmap(self.embed)(x)
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y, mask=jnp.tril(jnp.ones((len(x), len(x)), bool)))
        x = x + jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))
        return self.head(x[-1])


@register(
    'equinox_attention',
    prunable=2,
    protected={'embed': '', 'attention/[qko]*_proj': '', 'mlp/layers/1': '', 'head': 'output'},
    approximate=True,
)
def _():
    return case(Encoder, (2, 6, 5))


class Recurrent(eqx.Module):
    """A convolution in front of a cell in a scan; the state's width is asked of the cell."""

    conv: eqx.nn.Conv1d
    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.conv = eqx.nn.Conv1d(3, 6, 3, padding=1, key=keys[0])
        self.cell = eqx.nn.GRUCell(6, 5, key=keys[1])
        self.head = eqx.nn.Linear(5, 2, key=keys[2])

    def __call__(self, x):
        frames = jnp.tanh(self.conv(x)).T
        start = jnp.zeros(self.cell.hidden_size, x.dtype)
        last, _ = lax.scan(lambda state, frame: (self.cell(frame, state), None), start, frames)
        return self.head(last)


@register('equinox_gru', prunable=2, protected={'head': 'output'})
def _():
    return case(Recurrent, (2, 3, 8))


class Normed(eqx.Module):
    """Batch norm, whose running statistics live in a state beside the module."""

    conv1: eqx.nn.Conv2d
    norm1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    norm2: eqx.nn.BatchNorm
    skip: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.conv1 = eqx.nn.Conv2d(3, 4, 3, padding=1, use_bias=False, key=keys[0])
        self.norm1 = eqx.nn.BatchNorm(4, axis_name='batch', mode='batch')
        self.conv2 = eqx.nn.Conv2d(4, 5, 3, padding=1, use_bias=False, key=keys[1])
        self.norm2 = eqx.nn.BatchNorm(5, axis_name='batch', mode='batch')
        self.skip = eqx.nn.Conv2d(3, 5, 1, key=keys[2])
        self.head = eqx.nn.Linear(5, 2, key=keys[3])

    def __call__(self, x, state):
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(jax.nn.relu(y)), state)
        return self.head(jax.nn.relu(y + self.skip(x)).mean((1, 2))), state


@register('equinox_batch_norm', prunable=2, protected={'0/head': 'output'})
def _():
    shapes = eqx.filter_eval_shape(eqx.nn.make_with_state(Normed), jax.random.key(0))
    shapes = eqx.nn.inference_mode(shapes)

    def apply(variables, x):
        model, state = variables
        return jax.vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name='batch')(x, state)[0]

    return Case(
        apply, shapes, (jax.ShapeDtypeStruct((2, 3, 6, 6), np.float64),), lambda small: frameworks.following(apply)
    )
