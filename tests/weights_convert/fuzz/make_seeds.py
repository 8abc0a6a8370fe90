"""Makes `tests/golden/convert/tiny`: very small checkpoints by PyTorch itself, for the fuzzer to start from.

    python tests/weights_convert/fuzz/make_seeds.py   (with PyTorch 2.13; not needed to run anything else)

All tensors are windows on one storage, which keeps each file below 10 KB.
"""

import pathlib
import sys
import types

import torch
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import make_golden as made

FOLDER = made.FOLDER / 'tiny'


def network(*layers):
    """A network of (what it reads, layer) pairs."""
    model = made.Model.__new__(made.Model)
    nn.Module.__init__(model)
    for index, (source, layer) in enumerate(layers):
        layer.i, layer.f = index, source
    model.model = nn.Sequential(*(layer for _, layer in layers))
    model.names, model.yaml_file = ['cat'], 'tiny.yaml'
    return packed(model.eval())


def packed(model):
    """All floating-point tensors one after the other in one storage, integers dropped."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None
    detect = model.model[-1]
    tensors = [*model.parameters(), *(buffer for buffer in model.buffers() if buffer is not None), detect.stride]
    joined = torch.cat([tensor.detach().flatten() for tensor in tensors])
    position = 0
    for tensor in tensors:
        tensor.data = joined[position : position + tensor.numel()].view(tensor.shape)
        position += tensor.numel()
    return model


def detect(read):
    module = made.IDetect(1, [[[4, 5]]], [read])
    module.stride = torch.tensor([1.0])
    return module


def main():
    for name, classes in {
        'common': (made.Conv, made.RepConv, made.ImplicitA, made.ImplicitM),
        'yolo': (made.IDetect, made.Model),
    }.items():
        module = sys.modules[f'models.{name}'] = types.ModuleType(f'models.{name}')
        for cls in classes:
            cls.__module__ = f'models.{name}'
            setattr(module, cls.__name__, cls)
    sys.modules['models'] = types.ModuleType('models')
    torch.manual_seed(0)
    torch.serialization.get_source_lines_and_file = lambda cls: (['(source)'], 1, f'{cls.__name__}.py')
    FOLDER.mkdir(parents=True, exist_ok=True)
    small = network((-1, made.Conv(3, 2)), ([-1], detect(2)))
    torch.save({'model': small, 'ema': None}, FOLDER / 'conv.pt')
    torch.save(small.half(), FOLDER / 'half-legacy.pt', _use_new_zipfile_serialization=False)
    torch.save({'model': network((-1, made.RepConv(3, 3)), ([-1], detect(3)))}, FOLDER / 'repconv.pt')
    torch.save(small.state_dict(), FOLDER / 'state-dict.pt', pickle_protocol=4)


if __name__ == '__main__':
    main()
