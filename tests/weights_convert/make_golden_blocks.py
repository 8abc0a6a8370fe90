"""Makes more of `tests/golden/convert`: composite modules, auxiliary heads and tensors without modules, by PyTorch.

    python tests/weights_convert/make_golden_blocks.py   (with PyTorch 2.13; not needed to run the tests)

`blocks.npz` has the image and, per file, the raw predictions in float32, those of auxiliary heads last.
"""

import copy
import pathlib
import sys
import types
import zipfile

import numpy as np
import torch
from make_golden import FOLDER, MP, SP, Concat, Conv, IDetect, ImplicitA, ImplicitM, Model, fused, healthy
from torch import nn


class ReOrg(nn.Module):
    def forward(self, x):
        return torch.cat([x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)], 1)


class Shortcut(nn.Module):
    def forward(self, xs):
        return xs[0] + xs[1]


class DownC(nn.Module):
    def __init__(self, read, channels):
        super().__init__()
        self.cv1, self.cv2 = Conv(read, read), Conv(read, channels // 2, 3, 2)
        self.cv3, self.mp = Conv(read, channels // 2), nn.MaxPool2d(2, 2)

    def forward(self, x):
        return torch.cat([self.cv2(self.cv1(x)), self.cv3(self.mp(x))], 1)


class SPP(nn.Module):
    def __init__(self, read, channels):
        super().__init__()
        self.cv1, self.cv2 = Conv(read, read // 2), Conv(read // 2 * 3, channels)
        self.m = nn.ModuleList([nn.MaxPool2d(k, 1, k // 2) for k in (3, 5)])

    def forward(self, x):
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(nn.Module):
    def __init__(self, read, channels):
        super().__init__()
        self.cv1, self.cv2 = Conv(read, read // 2), Conv(read // 2 * 4, channels)
        self.m = nn.MaxPool2d(3, 1, 1)

    def forward(self, x):
        outputs = [self.cv1(x)]
        for _ in range(3):
            outputs.append(self.m(outputs[-1]))
        return self.cv2(torch.cat(outputs, 1))


class Focus(nn.Module):
    def __init__(self, read, channels):
        super().__init__()
        self.conv = Conv(4 * read, channels, 3)

    def forward(self, x):
        return self.conv(ReOrg()(x))


class Bottleneck(nn.Module):
    def __init__(self, channels, add):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(channels, 3), Conv(3, channels, 3), add

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class Res(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.cv1, self.cv2, self.cv3, self.add = Conv(channels, 3), Conv(3, 3, 3), Conv(3, channels), True

    def forward(self, x):
        return x + self.cv3(self.cv2(self.cv1(x)))


class BottleneckCSPA(nn.Module):
    def __init__(self, read, channels, *blocks):
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(read, 4), Conv(read, 3), Conv(7, channels)
        self.m = nn.Sequential(*blocks)

    def forward(self, x):
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class BottleneckCSPB(BottleneckCSPA):
    def __init__(self, read, channels, *blocks):
        super().__init__(read, channels, *blocks)
        self.cv2 = Conv(4, 3)

    def forward(self, x):
        x = self.cv1(x)
        return self.cv3(torch.cat([self.m(x), self.cv2(x)], 1))


class ResCSPC(BottleneckCSPA):
    def __init__(self, read, channels, *blocks):
        super().__init__(read, channels, *blocks)
        self.cv3, self.cv4 = Conv(4, 4), Conv(7, channels)

    def forward(self, x):
        return self.cv4(torch.cat([self.cv3(self.m(self.cv1(x))), self.cv2(x)], 1))


class GhostConv(nn.Module):
    def __init__(self, read, channels):
        super().__init__()
        half = channels // 2
        self.cv1, self.cv2 = Conv(read, half), Conv(half, half, 5, groups=half)

    def forward(self, x):
        y = self.cv1(x)
        return torch.cat([y, self.cv2(y)], 1)


class Ghost(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Sequential(GhostConv(channels, 4), nn.Identity(), GhostConv(4, channels))
        self.shortcut = nn.Identity()

    def forward(self, x):
        return self.conv(x) + self.shortcut(x)


class Stem(nn.Module):
    def __init__(self, read, channels):
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(read, 3, 3, 2), Conv(3, 3), Conv(3, 3, 3, 2)
        self.pool, self.cv4 = nn.MaxPool2d(2, 2), Conv(6, channels)

    def forward(self, x):
        x = self.cv1(x)
        return self.cv4(torch.cat([self.cv3(self.cv2(x)), self.pool(x)], 1))


class IAuxDetect(IDetect):
    def __init__(self, classes, anchors, reads, strides):
        super().__init__(classes, anchors, reads[: len(anchors)], strides)
        self.m2 = nn.ModuleList([nn.Conv2d(read, self.no * self.na, 1) for read in reads[len(anchors) :]])

    def forward(self, xs):
        levels = len(self.m)
        return super().forward(xs[:levels]) + [self.rows(m(x)) for x, m in zip(xs[levels:], self.m2, strict=True)]

    def fuseforward(self, xs):
        return super().fuseforward(xs[: len(self.m)])


class Network(Model):
    def __init__(self, layers, file, names):
        nn.Module.__init__(self)
        for index, (source, layer) in enumerate(layers):
            layer.i, layer.f = index, source
        self.model = nn.Sequential(*(layer for _, layer in layers))
        self.names, self.yaml_file = names, file


class ModelEMA:
    def __init__(self, ema):
        self.ema, self.updates = ema, 3


Network.__name__ = Network.__qualname__ = 'Model'


def blocks():
    """One of each composite module, and a detection module with auxiliary heads."""
    layers = [
        (-1, ReOrg()),
        (-1, Conv(12, 6, 3)),
        (-1, DownC(6, 8)),
        (-1, Conv(8, 8, 3)),
        ([-1, -2], Shortcut()),
        (-1, SPP(8, 8)),
        (-1, SPPF(8, 8)),
        (-1, Bottleneck(8, add=True)),
        (-1, BottleneckCSPA(8, 6, Bottleneck(4, add=True))),
        (-1, BottleneckCSPB(6, 6)),
        (-1, ResCSPC(6, 8, Res(4))),
        (-1, Ghost(8)),
        (-1, Focus(8, 6)),
        (-1, nn.Upsample(None, 2, 'nearest')),
        (11, Conv(8, 6)),
        (-1, Stem(6, 8)),
        (-1, Conv(8, 6)),
        (15, Conv(8, 4)),
        ([14, 16, 13, 17], IAuxDetect(2, [[[4, 5]], [[11, 6]]], [6, 6, 6, 4], (4.0, 16.0))),
    ]
    return Network(layers, 'blocks.yaml', ['cat', 'dog'])


def tiny(channels):
    """YOLOv7-tiny with IDetect, as narrow as asked for."""
    layers, widths = [], []

    def add(source, layer, width):
        layers.append((source, layer))
        widths.append(width)

    def width(source):
        return widths[source] if widths else 3

    def conv(read, source=-1, kernel=1, stride=1):
        wide = channels + read % 2
        add(source, Conv(width(source), wide, kernel, stride, act=nn.LeakyReLU(0.1)), wide)

    def join(*sources):
        add(list(sources), Concat(), sum(widths[source] for source in sources))

    def elan():
        for source, kernel in ((-1, 1), (-2, 1), (-1, 3), (-1, 3)):
            conv(len(layers), source, kernel)
        join(-1, -2, -3, -4)
        conv(len(layers))

    def up(skip):
        conv(0)
        add(-1, nn.Upsample(None, 2, 'nearest'), widths[-1])
        conv(1, skip)
        join(-1, -2)
        elan()

    def down(skip):
        conv(1, kernel=3, stride=2)
        join(-1, skip)
        elan()

    conv(0, kernel=3, stride=2)
    conv(1, kernel=3, stride=2)
    elan()
    for _ in range(3):
        add(-1, MP(), widths[-1])
        elan()
    conv(0)
    conv(1, -2)
    for source, kernel in ((-1, 5), (-2, 9), (-3, 13)):
        add(source, SP(kernel), widths[source])
    join(-1, -2, -3, -4)
    conv(0)
    join(-1, -7)
    conv(1)
    up(21)
    up(14)
    down(47)
    down(37)
    for source in (57, 65, 73):
        conv(source, source, 3)
    anchors = [[[4 + level, 5], [7, 9 + level], [30, 20 + level]] for level in range(3)]
    add([74, 75, 76], IDetect(2, anchors, widths[-3:], (8.0, 16.0, 32.0)), 0)
    return Network(layers, 'yolov7-tiny.yaml', ['cat', 'dog'])


def flat(state):
    """The same tensors, all in one storage."""
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    joined, position, result = torch.cat([value.flatten() for value in floats.values()]), 0, {}
    for name, value in floats.items():
        result[name] = joined[position : position + value.numel()].view_as(value)
        position += value.numel()
    return result


def view_of_storage(path):
    """A legacy file whose only tensor reads a view of a storage, as PyTorch 0.3 wrote them; PyTorch still reads it."""
    values = torch.arange(8).float()
    torch.save({'w': values[3:6]}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    at = content.index(b'K\x08N')  # number of elements, no view
    end = content.index(b'K\x03K\x03\x85', at)  # offset, shape
    view = b'K\x08X\x01\x00\x00\x00vK\x02K\x05\x87'  # the view v: five elements from the third
    path.write_bytes(content[:at] + view + content[at + 3 : end] + b'K\x01' + content[end + 2 :])
    assert torch.equal(torch.load(path)['w'], values[3:6])


def scrub(path):
    """Replaces folders of this machine, which `torch.compile` notes, by others of the same length."""
    content = path.read_bytes()
    for folder in {bytes(FOLDER.parents[2]), bytes(pathlib.Path(sys.prefix))}:
        content = content.replace(folder, b'/' + b'x' * (len(folder) - 1))
    path.write_bytes(content)


def drop(path, ending):
    """Removes members of a zip archive."""
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if not name.endswith(ending)}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in kept.items():
            archive.writestr(name, content)


def register():
    for name, classes in {
        'common': (
            *(Conv, Concat, MP, SP, ImplicitA, ImplicitM, ReOrg, Shortcut, DownC, SPP, SPPF, Focus, Bottleneck, Res),
            *(BottleneckCSPA, BottleneckCSPB, ResCSPC, GhostConv, Ghost, Stem),
        ),
        'yolo': (IDetect, IAuxDetect, Network, ModelEMA),
    }.items():
        module = sys.modules[f'models.{name}'] = types.ModuleType(f'models.{name}')
        for cls in classes:
            cls.__module__ = f'models.{name}'
            setattr(module, cls.__name__, cls)
    sys.modules['models'] = types.ModuleType('models')


def main():
    register()
    torch.manual_seed(1)
    composite, small = healthy(blocks()), healthy(tiny(3))
    results = {'image': torch.rand(1, 3, 64, 64).numpy()}
    networks = {
        'blocks': composite,
        'blocks_fused': fused(copy.deepcopy(composite)),
        'state_bare': small,
        'state_nested': copy.deepcopy(small).half().float(),
        'state_fused': fused(copy.deepcopy(small)),
    }
    legacy = {'_use_new_zipfile_serialization': False}
    torch.serialization.get_source_lines_and_file = lambda cls: (['(source)'], 1, f'{cls.__name__}.py')
    torch.save({'model': None, 'ema': ModelEMA(composite)}, FOLDER / 'blocks.pt', **legacy)
    torch.save(torch.compile(networks['blocks_fused']), FOLDER / 'blocks_fused.pt', **legacy)
    scrub(FOLDER / 'blocks_fused.pt')
    torch.save(small.state_dict(), FOLDER / 'state_bare.pt', **legacy)
    prefixed = {f'module._orig_mod.model.{name}': value.half() for name, value in small.state_dict().items()}
    nested = {'epoch': 3, 'state_dict': flat(prefixed), 'optimizer': {'state': {0: {'step': torch.tensor(2)}}}}
    torch.save(nested, FOLDER / 'state_nested.pt')
    torch.save({'model': {'state_dict': flat(networks['state_fused'].state_dict())}}, FOLDER / 'state_fused.pt')
    view_of_storage(FOLDER / 'view.pt')
    scripted = torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2))
    torch.jit.save(scripted, FOLDER / 'script.pt')
    drop(FOLDER / 'script.pt', '.debug_pkl')  # holds the paths of the machine
    for name, network in networks.items():
        with torch.no_grad():
            heads = network.float()(torch.from_numpy(results['image']))
        results |= {f'{name}{level}': head.numpy() for level, head in enumerate(heads)}
    np.savez_compressed(FOLDER / 'blocks.npz', **results)


if __name__ == '__main__':
    main()
