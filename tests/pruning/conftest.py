"""A small net with everything that pruning meets, its connectivity once written by hand and once traced.

`a` reads the image, `b` and `c` (two branches, like a RepConv) read `a`, `d` reads both one after the other, `e` reads
`d` and is added to it, and the head reads the sum plus a learned vector.
"""

import dataclasses
import functools
import types

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.graph import Slot, trace

hypothesis.settings.register_profile('jaxprune', deadline=None)  # the first example may compile
hypothesis.settings.load_profile('jaxprune')

LAYERS = {'a': 6, 'b': 8, 'c': 4, 'd': 5, 'e': 5, 'head': 3}


def inputs(widths):
    """Input width of every layer."""
    a, b, c, d = (widths[name] for name in 'abcd')
    return {'a': 3, 'b': a, 'c': a, 'd': b + c, 'e': d, 'head': d}


@dataclasses.dataclass(frozen=True)
class FakeGraph:
    layers: tuple
    groups: tuple
    walk: None = None

    def group_of(self, name):
        return next(group for group in self.groups if name in group.layers)


def forward(variables, x, xp=np):
    """`x [n, 3]` -> `[n, 3]`, by default in NumPy, so that new shapes cost no compilation."""
    params, stats = variables['params'], variables['batch_stats']

    def norm(x, name):
        scale, bias = params[name]['bn']['scale'], params[name]['bn']['bias']
        return (x - stats[name]['bn']['mean'][None]) / xp.sqrt(stats[name]['bn']['var'] + 1e-3)[None] * scale[
            None
        ] + bias[None]

    def silu(x):
        return x * (1 + xp.tanh(x / 2)) / 2

    a = silu(norm(x @ params['a']['kernel'], 'a'))
    b = silu(norm(a @ params['b']['kernel'], 'b'))
    c = silu(norm(a @ params['c']['dense']['kernel'] + a @ params['c']['pointwise']['kernel'], 'c'))
    d = silu(norm(xp.concatenate([b, c], axis=1) @ params['d']['kernel'], 'd'))
    e = d + silu(norm(d @ params['e']['kernel'], 'e'))
    return (e + params['head']['implicit_add'][None]) @ params['head']['kernel'] + params['head']['bias'][None]


def make_variables(seed=0, widths=LAYERS):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    params, stats = {}, {}
    for name, width in widths.items():
        kernel, other = ({'kernel': array(inputs(widths)[name], width)} for _ in range(2))
        if name == 'head':
            params[name] = {**kernel, 'bias': array(width), 'implicit_add': array(inputs(widths)[name])}
            continue
        branches = {'dense': kernel, 'pointwise': other} if name == 'c' else kernel
        params[name] = {**branches, 'bn': {'scale': array(width), 'bias': array(width)}}
        stats[name] = {'bn': {'mean': array(width), 'var': np.abs(array(width)) + 0.5}}
    return {'params': params, 'batch_stats': stats}


def _slot(path, axis, start, channels, role, layer):
    indices = start + np.arange(channels)[:, None]
    return Slot((*path.split('/'),), axis, indices, role, layer, masked=role == 'read')


def _own_slots(name, channels):
    kernels = ('dense/kernel', 'pointwise/kernel') if name == 'c' else ('kernel',)
    slots = [_slot(f'params/{name}/{kernel}', 1, 0, channels, 'produce', name) for kernel in kernels]
    if name == 'head':
        return [*slots, _slot('params/head/bias', 0, 0, channels, 'along', name)]
    along = (
        f'params/{name}/bn/scale',
        f'params/{name}/bn/bias',
        f'batch_stats/{name}/bn/mean',
        f'batch_stats/{name}/bn/var',
    )
    return slots + [_slot(path, 0, 0, channels, 'along', name) for path in along]


def write_graph(widths):
    reads = {
        ('a',): [('b/kernel', 'b', 0), ('c/dense/kernel', 'c', 0), ('c/pointwise/kernel', 'c', 0)],
        ('b',): [('d/kernel', 'd', 0)],
        ('c',): [('d/kernel', 'd', widths['b'])],
        ('d', 'e'): [('e/kernel', 'e', 0), ('head/kernel', 'head', 0)],
        ('head',): [],
    }
    groups = []
    for index, (members, readers) in enumerate(reads.items()):
        channels = widths[members[0]]
        slots = [slot for name in members for slot in _own_slots(name, channels)]
        slots += [_slot(f'params/{path}', 0, start, channels, 'read', layer) for path, layer, start in readers]
        if 'e' in members:
            slots.append(_slot('params/head/implicit_add', 0, 0, channels, 'along', 'head'))
        protected = 'its channels are the output of the model' if 'head' in members else None
        groups.append(
            types.SimpleNamespace(
                index=index, name=members[0], layers=members, channels=channels, slots=tuple(slots), protected=protected
            )
        )
    layers = tuple(
        types.SimpleNamespace(
            index=index,
            name=name,
            channels=width,
            prunable=name != 'head',
            reason='its channels are the output of the model' if name == 'head' else None,
        )
        for index, (name, width) in enumerate(widths.items())
    )
    return FakeGraph(layers, tuple(groups))


def trace_graph(widths):
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, make_variables(widths=widths)))
    images = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    return trace(lambda v, x: forward(v, x, jnp), shapes, images, layers=[(name, (name,)) for name in widths])


@pytest.fixture(scope='session', params=[write_graph, trace_graph])
def net(request):
    """Functions `forward(variables, x)`, `make_variables(seed)` and `graph(**widths)`."""
    build = functools.cache(lambda *widths: request.param(dict(zip(LAYERS, widths, strict=True))))
    return types.SimpleNamespace(
        forward=forward,
        make_variables=make_variables,
        graph=lambda **widths: build(*{**LAYERS, **widths}.values()),
    )


@pytest.fixture(scope='session')
def graph(net):
    return net.graph()


@pytest.fixture
def variables():
    return make_variables()
