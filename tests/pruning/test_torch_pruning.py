"""Against Torch-Pruning on the same networks with the same weights: what is kept, how much is left, what it computes.

`tests/golden/torch_pruning.json` was written by `benchmarks/against_torch_pruning.py` and says with which versions.
Where the two differ, `DIFFERENT` says how and why.
"""

import functools
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune
from jaxprune import pruning

HERE = pathlib.Path(__file__).parent
GOLDEN = json.loads((HERE.parent / 'golden' / 'torch_pruning.json').read_text())['networks']
SCALES = ('scale',)


def _twins():
    spec = importlib.util.spec_from_file_location('torch_pruning_twins', HERE / 'torch_pruning_twins.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


twins = _twins()
LAYOUT = ('NHWC', 'HWIO', 'NHWC')


class Ops:
    """Layers of `torch_pruning_twins` in JAX, `[N, H, W, C]`; widths are those of the parameters.

    `macs` counts the multiplications of every convolution and linear layer as they are applied.
    """

    relu = staticmethod(jax.nn.relu)
    relu6 = staticmethod(jax.nn.relu6)
    hardswish = staticmethod(lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1))
    hardsigmoid = staticmethod(lambda x: jnp.clip(x / 6 + 0.5, 0, 1))
    concat = staticmethod(lambda parts: jnp.concatenate(parts, -1))
    split = staticmethod(lambda x: jnp.split(x, 2, -1))
    flatten = staticmethod(lambda x: x.transpose(0, 3, 1, 2).reshape(len(x), -1))
    mean = staticmethod(lambda x: x.mean((1, 2)))
    scale = staticmethod(lambda x, gate: x * gate[:, None, None])

    def __init__(self, params, net=None):
        self.params, self.net, self.macs = params, net, 0

    def parameters(self, name, shapes, axes=(2, 3, 1, 0)):
        """Of a layer; for a network that is being made, drawn as for PyTorch, with the axes in another order."""
        if self.net is not None:
            drawn = {key: twins.weights(self.net, f'{name}/{key}', shape) for key, shape in shapes.items()}
            orders = {4: axes, 2: (1, 0), 1: (0,)}
            self.params[name] = {key: value.transpose(orders[value.ndim]) for key, value in drawn.items()}
        return self.params[name]

    def conv(self, name, x, width, size=3, *, stride=1, groups=1):
        kernel = self.parameters(name, {'weight': (width, x.shape[-1] // groups, size, size)})['weight']
        pads = [(size // 2, size // 2)] * 2
        return self._count(kernel, lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=LAYOUT, feature_group_count=groups
        ))

    def depthwise(self, name, x, size, stride):
        return self.conv(name, x, x.shape[-1], size, stride=stride, groups=x.shape[-1])

    def transposed(self, name, x, width):
        kernel = self.parameters(name, {'weight': (x.shape[-1], width, 2, 2)}, (2, 3, 0, 1))['weight']
        y = lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), 'VALID', dimension_numbers=LAYOUT)
        return self._count(kernel, y)

    def dense(self, name, x, width):
        p = self.parameters(name, {'weight': (width, x.shape[-1]), 'bias': (width,)})
        return self._count(p['weight'], x @ p['weight']) + p['bias'][None]

    def norm(self, name, x):
        p = self.parameters(name, dict.fromkeys(('scale', 'bias', 'mean', 'var'), (x.shape[-1],)))
        rows = {key: value.reshape(1, 1, 1, -1) for key, value in p.items()}
        return (x - rows['mean']) * lax.rsqrt(rows['var'] + 1e-5) * rows['scale'] + rows['bias']

    def pool(self, x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')

    def smooth(self, x):
        pads = [(0, 0), (1, 1), (1, 1), (0, 0)]
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), pads) / 9

    def up(self, x):
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)

    def shuffle(self, x):
        return x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape)

    def _count(self, kernel, y):
        self.macs += kernel.size * int(np.prod(y.shape[1:-1]))
        return y



@functools.cache
def make(net):
    """Function of parameters and image, parameters as in PyTorch, image, graph."""
    apply = functools.partial(_apply, net)
    x = twins.image(twins.input_shape(net)).transpose(0, 2, 3, 1)
    params = {}
    jax.eval_shape(lambda x: twins.NETWORKS[net](Ops(params, net), x), x)
    return apply, params, x, jaxprune.trace(apply, params, x)


def _apply(net, params, x):
    return twins.NETWORKS[net](Ops(params), x)


def counted(net, params, x):
    """Parameters (without statistics, as PyTorch has it) and multiply-accumulates, of the shapes alone."""
    ops = Ops(params)
    jax.eval_shape(lambda x: twins.NETWORKS[net](ops, x), x)
    sizes = [leaf.size for layer in params.values() for key, leaf in layer.items() if key not in ('mean', 'var')]
    return {'parameters': sum(sizes), 'macs': ops.macs}


def summary(output):
    """As `against_torch_pruning.summary`, of an output with its channels last."""
    output = np.moveaxis(np.asarray(output), -1, 1)
    return [*output.ravel()[:6], np.abs(output).mean()]


