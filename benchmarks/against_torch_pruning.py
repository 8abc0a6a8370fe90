"""Prunes small PyTorch networks with Torch-Pruning and writes down what is left.

    python benchmarks/against_torch_pruning.py tests/golden/torch_pruning.json

It needs `torch` and `torch-pruning`, not JAX. The test `tests/pruning/test_torch_pruning.py` prunes the same networks,
with the same weights, in JAX and compares.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import pathlib

import torch
import torch_pruning
from torch import nn
from torch.nn import functional

TWINS = pathlib.Path(__file__).parent.parent / 'tests' / 'pruning' / 'torch_pruning_twins.py'
RATIOS = (0.3, 0.5)
MULTIPLYING = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def load_twins():
    spec = importlib.util.spec_from_file_location('torch_pruning_twins', TWINS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


twins = load_twins()


class Ops:
    """Layers of `torch_pruning_twins` in PyTorch, made when they are first used."""

    relu = staticmethod(functional.relu)
    relu6 = staticmethod(functional.relu6)
    hardswish = staticmethod(functional.hardswish)
    hardsigmoid = staticmethod(functional.hardsigmoid)
    concat = staticmethod(lambda parts: torch.cat(parts, 1))
    split = staticmethod(lambda x: torch.chunk(x, 2, 1))
    flatten = staticmethod(lambda x: torch.flatten(x, 1))
    mean = staticmethod(lambda x: x.mean((2, 3)))
    pool = staticmethod(lambda x: functional.max_pool2d(x, 2))
    smooth = staticmethod(lambda x: functional.avg_pool2d(x, 3, 1, 1))
    up = staticmethod(lambda x: functional.interpolate(x, scale_factor=2, mode='nearest'))
    scale = staticmethod(lambda x, gate: x * gate[:, :, None, None])
    shuffle = staticmethod(lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2))

    def __init__(self, net):
        self.net, self.layers = net, nn.ModuleDict()

    def _layer(self, name, make, *args, **options):
        key = name.replace('/', '|')
        if key not in self.layers:
            self.layers[key] = fill(make(*args, **options).eval(), self.net, name)
        return self.layers[key]

    def conv(self, name, x, width, size=3, *, stride=1, groups=1):
        """Convolution without bias, padded so that the size stays."""
        options = {'stride': stride, 'padding': size // 2, 'groups': groups, 'bias': False}
        return self._layer(name, nn.Conv2d, x.shape[1], width, size, **options)(x)

    def depthwise(self, name, x, size, stride):
        """One filter per channel."""
        return self.conv(name, x, x.shape[1], size, stride=stride, groups=x.shape[1])

    def transposed(self, name, x, width):
        """Transposed convolution that doubles the size."""
        return self._layer(name, nn.ConvTranspose2d, x.shape[1], width, 2, stride=2, bias=False)(x)

    def dense(self, name, x, width):
        """Linear layer with bias."""
        return self._layer(name, nn.Linear, x.shape[1], width)(x)

    def norm(self, name, x):
        """Batch normalisation."""
        return self._layer(name, nn.BatchNorm2d, x.shape[1])(x)


class Net(nn.Module):
    """A network of `torch_pruning_twins`."""

    def __init__(self, net):
        super().__init__()
        self.ops = Ops(net)
        self.layers = self.ops.layers

    def forward(self, x):
        """Of images `[N, C, H, W]`."""
        return twins.NETWORKS[self.ops.net](self.ops, x)


def fill(layer, net, name):
    names = {'weight': 'scale'} if isinstance(layer, nn.BatchNorm2d) else {}
    names |= {'running_mean': 'mean', 'running_var': 'var'}
    state = {
        key: torch.from_numpy(twins.weights(net, f'{name}/{names.get(key, key)}', tuple(value.shape)))
        for key, value in layer.state_dict().items()
        if value.ndim
    }
    layer.load_state_dict(state, strict=False)
    return layer


def make(net):
    model, x = Net(net).eval(), torch.from_numpy(twins.image(twins.input_shape(net)))
    with torch.no_grad():
        model(x)
    return model, x


def layer_names(model):
    return {layer: key.replace('|', '/') for key, layer in model.layers.items()}


def measure(model, x):
    """Parameters, and multiply-accumulates of the layers that multiply, as Torch-Pruning counts them."""
    _, parameters, per_layer, _ = torch_pruning.utils.count_ops_and_params(model, x, layer_wise=True)
    macs = {name: per_layer[layer] for layer, name in layer_names(model).items() if isinstance(layer, MULTIPLYING)}
    for layer, name in layer_names(model).items():  # it adds one operation per bias of a linear layer
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            macs[name] -= layer.out_features
    return {'parameters': int(parameters), 'macs': int(sum(macs.values()))}


def prune(model, x, ratio):
    """Prunes in place; the kept channels of every layer that makes new ones."""
    names = layer_names(model)
    convs = {layer: name for layer, name in names.items() if isinstance(layer, MULTIPLYING)}
    kept = {name: list(range(layer.weight.shape[width_axis(layer)])) for layer, name in convs.items()}
    heads = [layer for layer, name in names.items() if name.startswith('head')]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    pruner = torch_pruning.pruner.BasePruner(model, x, importance=importance, pruning_ratio=ratio, ignored_layers=heads)
    for group in pruner.step(interactive=True):
        for member, places in group:
            layer = member.target.module
            if layer in convs and 'out_channels' in member.handler.__name__:
                gone = {kept[convs[layer]][place] for place in places}
                kept[convs[layer]] = [channel for channel in kept[convs[layer]] if channel not in gone]
        group.prune()
    return kept


def width_axis(layer):
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def compare(net):
    model, x = make(net)
    with torch.no_grad():
        result = {'before': measure(model, x) | {'output': summary(model(x))}}
    for ratio in RATIOS:
        model, x = make(net)
        try:
            kept = prune(model, x, ratio)
            with torch.no_grad():
                result[str(ratio)] = measure(model, x) | {'output': summary(model(x)), 'kept': kept}
        except Exception as error:  # what Torch-Pruning cannot do is a result, too
            result[str(ratio)] = {'error': f'{type(error).__name__}: {error}'.splitlines()[0]}
    return result


def summary(output):
    """The first numbers of the output, and the mean of their magnitudes over all."""
    return [round(float(value), 5) for value in (*output.flatten()[:6], output.abs().mean())]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('file', type=pathlib.Path, help='JSON to write')
    file = parser.parse_args().file
    versions = {name: importlib.metadata.version(name) for name in ('torch', 'torch-pruning')}
    networks = {net: compare(net) for net in twins.NETWORKS}
    origin = 'benchmarks/against_torch_pruning.py: GroupMagnitudeImportance(p=2), BasePruner, heads ignored'
    lines = ',\n'.join(f'  {json.dumps(net)}: {json.dumps(result)}' for net, result in networks.items())
    file.write_text(f'{{"origin": "{origin}", "versions": {json.dumps(versions)}, "networks": {{\n{lines}\n}}}}\n')
    for net, result in networks.items():
        cells = [f'{r.get("parameters", r.get("error"))!s:>8} {r.get("macs", "")!s:>10}' for r in result.values()]
        print(f'{net:20}', *cells)


if __name__ == '__main__':
    main()
