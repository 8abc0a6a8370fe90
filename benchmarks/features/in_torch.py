"""The networks in PyTorch, pruned by Torch-Pruning and compared with a copy whose readers' weights are zero."""

import copy
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch.nn import functional

from . import networks

WIDEST = 512  # places on any axis: the input of the layer behind the flattened image
WITHOUT_READER = {'attention': ('q', 'k')}  # their product has no weights: these are zero where they are produced


class Ops:
    """Layers, made when they are first used."""

    relu, sigmoid, tanh = staticmethod(torch.relu), staticmethod(torch.sigmoid), staticmethod(torch.tanh)
    softmax = staticmethod(torch.softmax)
    halves = staticmethod(lambda x: torch.chunk(x, 2, 1))
    concat = staticmethod(lambda parts: torch.cat(parts, 1))
    flip = staticmethod(lambda x: torch.flip(x, (1,)))
    flatten = staticmethod(lambda x: torch.flatten(x, 1))
    pixel_shuffle = staticmethod(lambda x: functional.pixel_shuffle(x, 2))

    def __init__(self):
        self.layers = nn.ModuleDict()

    def _layer(self, layer_name, make, *args, **options):
        name = f'layer_{layer_name}'  # a dictionary of modules refuses names of its own methods
        if name not in self.layers:
            layer = make(*args, **options).eval().double()
            state = {
                leaf: torch.from_numpy(networks.weights(f'{layer_name}.{leaf}', tuple(value.shape)))
                for leaf, value in layer.state_dict().items()
                if value.ndim
            }
            layer.load_state_dict(state, strict=False)
            self.layers[name] = layer
        return self.layers[name]

    def conv(self, name, x, width, size=1, *, groups=1):
        """Convolution, padded so that the size stays."""
        return self._layer(name, nn.Conv2d, x.shape[1], width, size, padding=size // 2, groups=groups)(x)

    def transposed(self, name, x, width, *, groups=1):
        """Transposed convolution that doubles the size."""
        return self._layer(name, nn.ConvTranspose2d, x.shape[1], width, 2, stride=2, groups=groups)(x)

    def dense(self, name, x, width):
        """Of the last axis."""
        return self._layer(name, nn.Linear, x.shape[-1], width)(x)

    def batch_norm(self, name, x):
        """Of axis 1."""
        return self._layer(name, nn.BatchNorm2d, x.shape[1])(x)

    def layer_norm(self, name, x):
        """Of the last axis."""
        return self._layer(name, nn.LayerNorm, x.shape[-1])(x)

    def group_norm(self, name, x, groups):
        """Of axis 1."""
        return self._layer(name, nn.GroupNorm, groups, x.shape[1])(x)

    def gru(self, name, x, width):
        """The last state."""
        return self._layer(name, nn.GRU, x.shape[-1], width, batch_first=True)(x)[0][:, -1]

    def lstm(self, name, x, width):
        """The last state."""
        return self._layer(name, nn.LSTM, x.shape[-1], width, batch_first=True)(x)[0][:, -1]


class Net(nn.Module):
    """One of the networks."""

    def __init__(self, network):
        super().__init__()
        self.network, self.ops = network, Ops()
        self.layers = self.ops.layers

    def forward(self, x):
        """Of the inputs of `networks`."""
        self.ops.layers = self.layers  # a copy has its own
        return self.network(self.ops, x)


def study(network: Any) -> dict[str, Any]:
    """What came of the network, and its output before."""
    model, x = Net(network).eval(), torch.from_numpy(networks.inputs(network))
    with torch.no_grad():
        whole = model(x)
    return {'result': _pruned(model, x), 'output': whole.flatten()[:4].tolist()}


def _pruned(model, x):
    masked = copy.deepcopy(model)
    try:
        _prune(model, masked, x)
    except Exception as error:  # what it cannot do is a result, too
        return type(error).__name__
    try:
        with torch.no_grad():
            expected, found = masked(x), model(x)
    except RuntimeError:
        return 'fails when run'
    return float((expected - found).abs().max() / expected.abs().max())


def _prune(model, masked, x):
    """Half of the channels of all layers but the head, in place; in `masked`, what reads them becomes zero."""
    names = {layer: name for name, layer in model.layers.items()}
    heads = {model.layers[f'layer_{name}']: 2 for name in 'qkv'} if model.network is networks.attention else {}
    pruner = torch_pruning.pruner.BasePruner(
        model,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[model.layers['layer_head']],
        num_heads=heads,
    )
    left: dict[tuple[str, str], list[int]] = {}  # of an axis of a layer, the original places
    for group in pruner.step(interactive=True):
        for member, places in group:
            layer, axis = member.target.module, member.handler.__name__
            if layer in names:
                whole = left.setdefault((names[layer], axis), list(range(WIDEST)))
                gone = [whole[place] for place in places]
                left[names[layer], axis] = [place for place in whole if place not in gone]
                _zero(masked, names[layer], axis, gone)
        group.prune()


def _zero(masked, name, axis, places):
    layer = masked.layers[name]
    if name.removeprefix('layer_') in WITHOUT_READER.get(masked.network.__name__, ()) and 'out' in axis:
        layer.weight.data[places], layer.bias.data[places] = 0, 0
    if 'in_channels' not in axis:
        return
    if isinstance(layer, nn.ConvTranspose2d):
        layer.weight.data[places] = 0
    elif isinstance(layer, nn.Linear):
        layer.weight.data[:, places] = 0
    elif isinstance(layer, nn.Conv2d):
        rows, width = layer.out_channels // layer.groups, layer.weight.shape[1]
        for place in places:
            group = place // width
            layer.weight.data[group * rows : (group + 1) * rows, place % width] = 0


def results() -> dict[str, dict[str, Any]]:
    """By name of the network."""
    return {network.__name__: study(network) for row in networks.ROWS.values() for network in row}
