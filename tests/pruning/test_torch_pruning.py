"""Against Torch-Pruning on the same networks with the same weights: what is kept, how much is left, what it computes.

`tests/golden/torch_pruning.json` was written by `benchmarks/against_torch_pruning.py` and says with which versions. The
two agree on every network but those in `WRONG`, which Torch-Pruning gets wrong; the last tests show that.
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
from jaxprune.pruning import CRITERIA, register

HERE = pathlib.Path(__file__).parent
GOLDEN = json.loads((HERE.parent / 'golden' / 'torch_pruning.json').read_text())['networks']
RATIOS = ('0.3', '0.5')
WRONG = {
    'shufflenet': 'it prunes the two halves of a split apart, and fails with an IndexError',
    'shufflenet_grouped': 'it does not follow the permutation of a channel shuffle: later layers lose other channels',
}
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


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
        self.params, self.net, self.macs, self.inserted = params, net, 0, 0

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
        return self._count(
            kernel,
            lax.conv_general_dilated(
                x, kernel, (stride, stride), pads, dimension_numbers=LAYOUT, feature_group_count=groups
            ),
        )

    def depthwise(self, name, x, size, stride):
        return self.conv(name, x, x.shape[-1], size, stride=stride, groups=x.shape[-1])

    def transposed(self, name, x, width):
        kernel = self.parameters(name, {'weight': (x.shape[-1], width, 2, 2)}, (2, 3, 0, 1))['weight']
        y = lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), 'VALID', dimension_numbers=LAYOUT)
        # Of its multiplications three in four meet zeros that are put between the inputs.
        self.inserted += kernel.size * int(np.prod(y.shape[1:-1])) * 3 // 4
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
    return {'parameters': sum(sizes), 'macs': ops.macs}, ops.inserted


def summary(output):
    """As `against_torch_pruning.summary`, of an output with its channels last."""
    output = np.moveaxis(np.asarray(output), -1, 1)
    return [*output.ravel()[:6], np.abs(output).mean()]


@pytest.fixture(autouse=True, scope='module')
def criterion():
    """Sum of squares over all weights that make or read a channel, as `GroupMagnitudeImportance(p=2)` has it.

    Depthwise kernels do not count there, scales of normalisations do, and what a convolution with g groups reads counts
    g times.
    """

    @register('torch-pruning')
    def magnitude(group, evidence):
        weights = [slot for slot in group.slots if slot.role != 'along' and slot.path[-1] == 'weight']
        weights += [slot for slot in group.slots if slot.path[-1] == 'scale']
        places = max(slot.indices.shape[1] for slot in weights if slot.role == 'produce')
        times = [max(places // slot.indices.shape[1], 1) for slot in weights]
        return np.stack(
            [np.square(evidence.rows(slot)).sum(axis=1) * n for slot, n in zip(weights, times, strict=True)]
        )

    yield
    del CRITERIA['torch-pruning']


def select(net, ratio):
    """As many channels as Torch-Pruning keeps, which rounds down; where that changes nothing, `keep=0.5`."""
    _, params, _, graph = make(net)
    open_groups = [group for group in graph.groups if not group.protected]
    shares = {group.name: int(group.channels * (1 - ratio)) / group.channels for group in open_groups}
    keep = 0.5 if set(shares.values()) == {0.5} else shares
    return jaxprune.select_channels(graph, params, criterion='torch-pruning', keep=keep)


def kept_channels(plan, params):
    """Layer -> kept output channels of its kernel, of all layers."""
    groups = {group.name: group for group in plan.graph.groups}
    slots = [(slot, layer) for layer in plan.layers for slot in groups[layer.name].slots]
    kept = {name: list(range(layer['weight'].shape[-1])) for name, layer in params.items() if 'weight' in layer}
    for slot, layer in slots:
        if slot.path[-1] == 'weight' and slot.axis == params[slot.path[0]]['weight'].ndim - 1:
            kept[slot.path[0]] = sorted(slot.indices[list(layer.keep)].ravel().tolist())
    return kept


def run(apply, params, x):
    return jax.jit(apply, compiler_options=QUICK)(params, x)


@pytest.mark.parametrize('ratio', RATIOS)
@pytest.mark.parametrize('net', [net for net in GOLDEN if net not in WRONG])
def test_the_same_channels_parameters_and_macs(net, ratio):
    _, params, x, graph = make(net)
    expected, plan = GOLDEN[net][ratio], select(net, float(ratio))
    assert kept_channels(plan, params) == expected['kept']
    small, inserted = counted(net, jaxprune.slice(params, plan), x)
    assert small == {key: expected[key] for key in small}
    lengths = np.array([len(plan.keep.get(group.name, range(group.channels))) for group in graph.groups])
    # Torch-Pruning counts multiplications with the zeros in a transposed convolution, the graph does not.
    assert graph.costs['macs'](lengths) == expected['macs'] - inserted
    assert counted(net, params, x)[0] == {key: GOLDEN[net]['before'][key] for key in small}


@pytest.mark.parametrize('net', [net for net in GOLDEN if net not in WRONG])
def test_the_same_outputs(net):
    apply, params, x, _ = make(net)
    output = run(apply, jaxprune.slice(params, select(net, 0.5)), x)
    np.testing.assert_allclose(summary(output), GOLDEN[net]['0.5']['output'], atol=2e-5)


class Removing(Ops):
    """The network at its full width, in which what a normalisation gives is zero where `kept` says so.

    Where that is the last thing before a ReLU and the readers, it is what a network without these channels computes.
    """

    kept: dict[str, list[int]]
    stays = None

    def norm(self, name, x):
        if not name.endswith('dw/bn'):  # a depthwise convolution has the channels of its input
            self.stays = np.isin(np.arange(x.shape[-1]), self.kept[name.removesuffix('/bn')])
        return jnp.where(self.stays.reshape(1, 1, 1, -1), super().norm(name, x), 0)

    def shuffle(self, x):
        self.stays = np.asarray(super().shuffle(self.stays))
        return super().shuffle(x)


def removing(net, kept):
    def apply(params, x):
        ops = Removing(params)
        ops.kept = kept
        return twins.NETWORKS[net](ops, x)

    _, params, x, _ = make(net)
    return summary(run(apply, params, x))


@pytest.mark.parametrize(('net', 'right'), [('mobilenet_v2', True), ('shufflenet_grouped', False)])
def test_what_torch_pruning_computes_is_the_network_without_these_channels(net, right):
    expected = removing(net, GOLDEN[net]['0.5']['kept'])
    error = np.max(np.abs(np.subtract(expected, GOLDEN[net]['0.5']['output'])))
    assert (error < 2e-5) == right
    assert right or error > 0.1


def test_a_pruned_shuffle_computes_the_network_without_these_channels():
    net = 'shufflenet_grouped'
    apply, params, x, _ = make(net)
    plan = select(net, 0.5)
    expected = removing(net, kept_channels(plan, params))
    np.testing.assert_allclose(summary(run(apply, jaxprune.slice(params, plan), x)), expected, atol=2e-5)


def test_halves_of_a_split_stay_halves():
    net = 'shufflenet'
    assert 'IndexError' in GOLDEN[net]['0.5']['error']
    apply, params, x, _ = make(net)
    plan = select(net, 0.5)
    small = jaxprune.slice(params, plan)
    assert {name: layer['weight'].shape[-1] * 2 for name, layer in small.items() if 'weight' in layer} == {
        name: layer['weight'].shape[-1] * (2 if name == 'head' else 1)
        for name, layer in params.items()
        if 'weight' in layer
    }
    whole = run(apply, jaxprune.mask(params, plan), x)
    np.testing.assert_allclose(run(apply, small, x), whole, atol=1e-5)
