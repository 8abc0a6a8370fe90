"""A small net with everything that pruning meets, its connectivity written by hand.

`a` reads the image, `b` and `c` (two branches, like a RepConv) read `a`, `d` reads both one after the other, `e` reads
`d` and is added to it, and the head reads the sum plus a learned vector.
"""

import dataclasses
import types

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile('jaxprune', deadline=None)  # the first example may compile
hypothesis.settings.load_profile('jaxprune')

LAYERS = {'a': 6, 'b': 8, 'c': 4, 'd': 5, 'e': 5, 'head': 3}
INPUTS = {'a': 3, 'b': 6, 'c': 6, 'd': 12, 'e': 5, 'head': 5}


@dataclasses.dataclass(frozen=True)
class FakeGraph:
    layers: tuple
    groups: tuple

    def group_of(self, name):
        return next(group for group in self.groups if name in group.layers)


def forward(variables, x):
    """`x [n, 3]` -> `[n, 3]`, in NumPy, so that changing shapes cost no compilation."""
    params, stats = variables['params'], variables['batch_stats']

    def norm(x, name):
        scale, bias = params[name]['bn']['scale'], params[name]['bn']['bias']
        return (x - stats[name]['bn']['mean']) / np.sqrt(stats[name]['bn']['var'] + 1e-3) * scale + bias

    def silu(x):
        return x / (1 + np.exp(-x))

    a = silu(norm(x @ params['a']['kernel'], 'a'))
    b = silu(norm(a @ params['b']['kernel'], 'b'))
    c = silu(norm(a @ params['c']['dense']['kernel'] + a @ params['c']['pointwise']['kernel'], 'c'))
    d = silu(norm(np.concatenate([b, c], axis=1) @ params['d']['kernel'], 'd'))
    e = d + silu(norm(d @ params['e']['kernel'], 'e'))
    return (e + params['head']['implicit_add']) @ params['head']['kernel'] + params['head']['bias']


def make_variables(seed=0):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    params, stats = {}, {}
    for name, width in LAYERS.items():
        kernel = {'kernel': array(INPUTS[name], width)}
        if name == 'head':
            params[name] = {**kernel, 'bias': array(width), 'implicit_add': array(INPUTS[name])}
            continue
        branches = {'dense': kernel, 'pointwise': {'kernel': array(INPUTS[name], width)}} if name == 'c' else kernel
        params[name] = {**branches, 'bn': {'scale': array(width), 'bias': array(width)}}
        stats[name] = {'bn': {'mean': array(width), 'var': np.abs(array(width)) + 0.5}}
    return {'params': params, 'batch_stats': stats}


def _slot(path, axis, start, channels, role, layer):
    return types.SimpleNamespace(
        path=tuple(path.split('/')), axis=axis, indices=start + np.arange(channels)[:, None], role=role, layer=layer
    )


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


def make_graph():
    reads = {
        ('a',): [('b/kernel', 'b', 0), ('c/dense/kernel', 'c', 0), ('c/pointwise/kernel', 'c', 0)],
        ('b',): [('d/kernel', 'd', 0)],
        ('c',): [('d/kernel', 'd', 8)],
        ('d', 'e'): [('e/kernel', 'e', 0), ('head/kernel', 'head', 0)],
        ('head',): [],
    }
    groups = []
    for index, (members, readers) in enumerate(reads.items()):
        channels = LAYERS[members[0]]
        slots = [slot for name in members for slot in _own_slots(name, channels)]
        slots += [_slot(f'params/{path}', 0, start, channels, 'read', layer) for path, layer, start in readers]
        if 'e' in members:
            slots.append(_slot('params/head/implicit_add', 0, 0, channels, 'along', 'head'))
        protected = 'its channels are the output of the model' if 'head' in members else None
        groups.append(
            types.SimpleNamespace(
                index=index, layers=members, channels=channels, slots=tuple(slots), protected=protected
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
        for index, (name, width) in enumerate(LAYERS.items())
    )
    return FakeGraph(layers, tuple(groups))


@pytest.fixture(scope='session')
def graph():
    return make_graph()


@pytest.fixture
def variables():
    return make_variables()


@pytest.fixture(scope='session')
def net():
    """The functions `forward(variables, x)` and `make_variables(seed)`."""
    return types.SimpleNamespace(forward=forward, make_variables=make_variables)
