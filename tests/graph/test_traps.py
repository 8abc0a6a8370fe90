"""Functions that look as if channels could be removed: whatever the tracer leaves free must be exact all the same."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxprune import graph

WIDTH = 12
SHAPES = {'a': (5, WIDTH), 'b': (WIDTH, 3), 'c': (5, 4), 'd': (5, 6)}


def relu_of_first(h, place):
    return jnp.concatenate([jax.nn.relu(h[:, :place]), h[:, place:]], -1)


def split_off(h):
    first, rest = jnp.split(h, [4], -1)
    return jnp.concatenate([jnp.tanh(first), rest], -1)


def lengths(h):
    return jnp.sqrt((h * h).sum(0))


def branch(p, h, x):
    return h @ p['b'] if h.shape[-1] > WIDTH - 2 else 2 * h @ p['b']


def swapped(p, h, x):
    first, second = h @ p['b'], jnp.sin(h) @ p['b']
    return (first, second) if h.shape[-1] > WIDTH - 1 else (second, first)


def swapped_operands(p, h, x):
    first, second = h @ p['b'], jnp.sin(h) @ p['b']
    first, second = (first, second) if h.shape[-1] > WIDTH - 1 else (second, first)
    return first - 2 * second


def equilibrium(p, h, x):
    """A loop that carries a mean over channels."""
    level = lax.while_loop(lambda s: s > 0.1, lambda s: s * 0.5, jnp.abs(h).mean())
    return h @ p['b'] * level


# name: what becomes of the parameters, the hidden channels and the input
TRAPS = {
    'a part at a fixed place': lambda p, h, x: relu_of_first(h, 4) @ p['b'],
    'a part of a third': lambda p, h, x: relu_of_first(h, h.shape[1] // 3) @ p['b'],
    'a part of three eighths': lambda p, h, x: relu_of_first(h, h.shape[1] * 3 // 8) @ p['b'],
    'unequal parts': lambda p, h, x: split_off(h) @ p['b'],
    'rolled channels': lambda p, h, x: jnp.roll(h, 2, -1) @ p['b'],
    'padded away': lambda p, h, x: lax.pad(h, 0.0, [(0, 0, 0), (-1, 1, 0)]) @ p['b'],
    'mean by a sum of ones': lambda p, h, x: h / jnp.ones_like(h).sum(-1, keepdims=True) @ p['b'],
    'uniform weights': lambda p, h, x: h * jax.nn.softmax(jnp.zeros(h.shape[1]))[None] @ p['b'],
    'ones times ones': lambda p, h, x: h @ p['b'] * (jnp.ones(h.shape[1]) @ jnp.ones(h.shape[1])),
    'data once for each channel': lambda p, h, x: (
        h @ p['b'] + jnp.broadcast_to(x[:, None, :], (2, h.shape[1], 5)).sum((1, 2))[:, None]
    ),
    'the width as an output': lambda p, h, x: (h @ p['b'], 1.0 / h.shape[-1]),
    'a mean as the output': lambda p, h, x: (h @ p['b'], jnp.abs(jnp.tanh(h)).mean(-1)),
    'a branch on the width': branch,
    'outputs by the width': swapped,
    'operands by the width': swapped_operands,
    'a loop over a mean': equilibrium,
    'a condition on a mean': lambda p, h, x: lax.cond(jnp.abs(h).mean() > 0.3, lambda y: y, lambda y: -y, h @ p['b']),
    'divided by its length, summed': lambda p, h, x: (h * lax.rsqrt((h * h).sum(0))[None]).sum(-1),
    'divided by its length, read twice': lambda p, h, x: h / lengths(h)[None] @ p['b'] + h.sum(-1, keepdims=True),
    'x log x': lambda p, h, x: (h * h * jnp.log(h * h)).sum(-1),
    'a shift that fills in ones': lambda p, h, x: lax.pad(h, 1.0, [(-1, 1, 0), (0, 0, 0)]).sum(-1),
    'a fill beyond the end': lambda p, h, x: h.at[jnp.array([0, 5])].get(mode='fill', fill_value=1.0).sum(-1),
    'a complex number': lambda p, h, x: jnp.abs(h.astype(complex) + 1j).sum(-1),
    'a ratio of widths': lambda p, h, x: h @ p['b'] * (h.shape[1] / (x @ p['c']).shape[1]),
    'a scale by the width': lambda p, h, x: h @ p['b'] * h.shape[1] ** -0.5,
    'largest along the batch': lambda p, h, x: lax.top_k(h.T, 1)[0].reshape(-1)[None] @ p['b'],
    'none of the channels': lambda p, h, x: h @ p['b'] + h[:, :0].sum(),
    'lengths as an output': lambda p, h, x: (h @ p['b'], jnp.zeros_like(h)),
    'the gradient of a sum': lambda p, h, x: jax.grad(lambda b: (h @ b).sum())(p['b']),
    'ones beyond the end': lambda p, h, x: (
        h @ p['b'] * jnp.ones(h.shape[1]).at[WIDTH - 2].get(mode='fill', fill_value=3.0)
    ),
    'a whole number that wraps around': lambda p, h, x: jnp.maximum(
        (100 * h).astype(jnp.uint8), jnp.full((1, 1), -1).astype(jnp.uint8)
    ).sum(-1),
    'a remainder': lambda p, h, x: jnp.fmod(1.3, h) @ p['b'] + h.sum(-1, keepdims=True),
    'infinite at zero': lambda p, h, x: lax.polygamma(jnp.ones_like(h), abs(h)) @ p['b'] + h.sum(-1, keepdims=True),
    'a loop over the width': lambda p, h, x: h @ p['b'] * lax.fori_loop(0, 3, lambda i, s: s + h.shape[1], 0),
    'a loop that picks by the width': lambda p, h, x: lax.fori_loop(
        0, 2, lambda i, s: s + lax.dynamic_index_in_dim(x.T, h.shape[1] // 4, keepdims=True).sum(), h @ p['b']
    ),
    'as often as the width': lambda p, h, x: lax.while_loop(
        lambda s: s[0] < h.shape[1], lambda s: (s[0] + 5, s[1] * 2), (jnp.zeros((), int), h @ p['b'])
    )[1],
    'a sum over another width': lambda p, h, x: h @ p['b'] + jnp.zeros((2, (x @ p['d']).shape[1])).sum(-1)[:, None],
}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def applied(trap):
    def apply(p, x):
        return TRAPS[trap](p, jnp.tanh(x @ p['a']), x)

    return apply


def results(apply, p, x):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(apply(p, x))])


def assert_exact(apply, p, x, removed):
    """`removed`: pairs of a group and channels of it."""
    masked, sliced = dict(p), dict(p)
    gone = {}
    for group, channels in removed:
        for slot in group.slots:
            places = slot.indices[list(channels)].ravel()
            gone.setdefault((slot.path[0], slot.axis), []).append(places)
            if slot.masked:
                masked[slot.path[0]] = masked[slot.path[0]].copy()
                np.moveaxis(masked[slot.path[0]], slot.axis, 0)[places] = 0
    for (name, axis), places in gone.items():
        sliced[name] = np.delete(sliced[name], np.concatenate(places), axis)
    np.testing.assert_allclose(results(apply, sliced, x), results(apply, masked, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('trap', TRAPS)
def test_what_is_free_is_exact(trap):
    rng = np.random.default_rng(0)
    p = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    x, apply = rng.normal(size=(2, 5)), applied(trap)
    free = [group for group in graph.trace(apply, p, x).groups if group.protected is None]
    for group in free:
        for channels in itertools.chain(((c,) for c in range(group.channels)), [range(group.channels // 2)]):
            assert_exact(apply, p, x, [(group, channels)])
    assert_exact(apply, p, x, [(group, range(0, group.channels - 1, 2)) for group in free])


@pytest.mark.parametrize('scale_first', [True, False])
def test_kernels_divided_by_their_length_are_layers(scale_first):
    def apply(p, x):
        length = jnp.linalg.norm(p['a'], axis=0)[None]
        kernel = p['g'][None] * p['a'] / length if scale_first else p['a'] / length * p['g'][None]
        return jax.nn.silu(x @ kernel) @ p['b']

    shapes = {'a': (5, WIDTH), 'b': (WIDTH, 3), 'g': (WIDTH,)}
    p = {name: np.random.default_rng(1).normal(size=shape) for name, shape in shapes.items()}
    x = np.random.default_rng(2).normal(size=(2, 5))
    found = graph.trace(apply, p, x)
    assert found.group_of('a').protected is None
    assert_exact(apply, p, x, [(found.group_of('a'), (1, 5))])


@pytest.mark.parametrize('loop', [True, False])
def test_kernels_in_a_stack_are_picked_by_number(loop):
    def apply(p, x):
        h, stack = x @ p['a'], jnp.asarray(p['m'])
        if loop:
            h = lax.fori_loop(0, stack.shape[0], lambda i, h: jnp.tanh(h @ stack[i]), h)
        else:
            h = jnp.tanh(h @ stack[jnp.asarray(x[0, 0] > 0, int)])
        return h @ p['b']

    rng = np.random.default_rng(3)
    p = {name: rng.normal(size=shape) for name, shape in (SHAPES | {'m': (2, WIDTH, WIDTH)}).items()}
    x = rng.normal(size=(2, 5))
    found = graph.trace(apply, p, x)
    assert found.group_of('a').protected is None
    assert_exact(apply, p, x, [(found.group_of('a'), (1, 5))])
