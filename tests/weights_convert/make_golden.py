"""Makes `tests/golden/convert`: checkpoints of a small network that uses all the converter knows, by PyTorch itself.

    python tests/weights_convert/make_golden.py   (with PyTorch 2.13; not needed to run the tests)

The classes have the names under which YOLOv7 checkpoints refer to theirs. `outputs.npz` has the image and, per file,
the raw predictions that PyTorch computes in float32 with the network as it was stored.
"""

import copy
import pathlib
import sys
import types

import numpy as np
import torch
from torch import nn

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'convert'


class Conv(nn.Module):
    def __init__(self, read, channels, kernel=1, stride=1, act=None, **options):
        super().__init__()
        padding = options.pop('padding') if 'padding' in options else kernel // 2
        self.conv = nn.Conv2d(read, channels, kernel, stride, padding, bias=False, **options)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)
        self.act = act or nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def fuseforward(self, x):
        return self.act(self.conv(x))


class RepConv(nn.Module):
    def __init__(self, read, channels, stride=1):
        super().__init__()
        self.act = nn.SiLU()
        self.rbr_identity = nn.BatchNorm2d(read, eps=1e-3) if read == channels and stride == 1 else None
        self.rbr_dense = nn.Sequential(
            nn.Conv2d(read, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels, 1e-3)
        )
        self.rbr_1x1 = nn.Sequential(
            nn.Conv2d(read, channels, 1, stride, 0, bias=False), nn.BatchNorm2d(channels, 1e-3)
        )

    def forward(self, x):
        if hasattr(self, 'rbr_reparam'):
            return self.act(self.rbr_reparam(x))
        total = self.rbr_dense(x) + self.rbr_1x1(x)
        return self.act(total if self.rbr_identity is None else total + self.rbr_identity(x))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.d = 1

    def forward(self, xs):
        return torch.cat(xs, self.d)


class MP(nn.Module):
    def __init__(self):
        super().__init__()
        self.m = nn.MaxPool2d(2, 2)

    def forward(self, x):
        return self.m(x)


class SP(nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.m = nn.MaxPool2d(kernel, 1, kernel // 2)

    def forward(self, x):
        return self.m(x)


class SPPCSPC(nn.Module):
    def __init__(self, read, channels):
        super().__init__()
        wide = 2 * channels
        shapes = [(read, wide, 1), (read, wide, 1), (wide, wide, 3), (wide, wide, 1)]
        shapes += [(4 * wide, wide, 1), (wide, wide, 3), (2 * wide, channels, 1)]
        for index, shape in enumerate(shapes, 1):
            setattr(self, f'cv{index}', Conv(*shape))
        self.m = nn.ModuleList([nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13)])

    def forward(self, x):
        y = self.cv4(self.cv3(self.cv1(x)))
        y = self.cv6(self.cv5(torch.cat([y, *(pool(y) for pool in self.m)], 1)))
        return self.cv7(torch.cat([y, self.cv2(x)], 1))


class ImplicitA(nn.Module):
    def __init__(self, channels, mean=0.0):
        super().__init__()
        self.implicit = nn.Parameter(mean + 0.3 * torch.randn(1, channels, 1, 1))


class ImplicitM(ImplicitA):
    pass


class IDetect(nn.Module):
    def __init__(self, classes, anchors, reads, strides=(2.0, 4.0)):
        super().__init__()
        self.nc, self.no, self.na = classes, classes + 5, len(anchors[0])
        pixels = torch.tensor(anchors).float()
        self.stride = torch.tensor(strides)
        self.register_buffer('anchors', pixels / self.stride[:, None, None])
        self.register_buffer('anchor_grid', pixels[:, None, :, None, None, :].clone())
        self.m = nn.ModuleList([nn.Conv2d(read, self.no * self.na, 1) for read in reads])
        self.ia = nn.ModuleList([ImplicitA(read) for read in reads])
        self.im = nn.ModuleList([ImplicitM(self.no * self.na, 1.0) for _ in reads])

    def rows(self, x):
        b, _, h, w = x.shape
        return x.view(b, self.na, self.no, h, w).permute(0, 3, 4, 1, 2)

    def forward(self, xs):
        return [
            self.rows(m(x + a.implicit) * i.implicit) for x, m, a, i in zip(xs, self.m, self.ia, self.im, strict=True)
        ]

    def fuseforward(self, xs):
        return [self.rows(m(x)) for x, m in zip(xs, self.m, strict=True)]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [
            (-1, Conv(3, 8, 3, 2)),
            (-1, Conv(8, 8, 3, act=nn.LeakyReLU(0.2), groups=2)),
            (-1, RepConv(8, 8)),
            (-1, MP()),
            (-2, RepConv(8, 12, 2)),
            ([-1, -2], Concat()),
            (-1, SPPCSPC(20, 6)),
            (-1, nn.Upsample(scale_factor=2.0, mode='nearest')),
            ([-1, 1], Concat()),
            (-1, nn.Conv2d(14, 10, 3, padding=1)),
            (-1, nn.Sequential(Conv(10, 10, act=nn.ReLU6()), Conv(10, 10, act=nn.Hardswish()))),
            (-1, Conv(10, 8, (3, 5), padding=(2, 4), act=nn.ReLU(), dilation=2)),
            (6, SP(5)),
            (-1, Conv(6, 6, act=nn.Identity())),
            ([11, -1], IDetect(2, [[[4, 5], [7.25, 9]], [[11, 6], [20, 21]]], [8, 6])),
        ]
        for index, (source, layer) in enumerate(layers):
            layer.i, layer.f = index, source
        self.model = nn.Sequential(*(layer for _, layer in layers))
        self.names, self.yaml_file = ['cat', 'dog'], 'mixed.yaml'

    def forward(self, x):
        kept = []
        for layer in self.model:
            sources = layer.f if isinstance(layer.f, list) else [layer.f]
            read = [kept[source] if kept else x for source in sources]
            kept.append(layer(read if isinstance(layer.f, list) else read[0]))
        return kept[-1]


def healthy(model):
    """Weights and statistics under which no channel is dead or explodes."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for vector in (module.weight, module.running_var):
                nn.init.uniform_(vector, 0.5, 1.5)
            for vector in (module.bias, module.running_mean):
                nn.init.normal_(vector, 0, 0.3)
    return model.eval().requires_grad_(False)


def fused(model):
    """Batch normalisation, branches and implicit vectors folded, as YOLOv7 leaves a model that it has fused."""
    for module in list(model.modules()):
        if isinstance(module, Conv):
            module.conv = torch.nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            del module.bn
            module.forward = module.fuseforward
        elif isinstance(module, RepConv):
            module.rbr_reparam = _folded(module)
            del module.rbr_dense, module.rbr_1x1, module.rbr_identity
        elif isinstance(module, IDetect):
            for conv, add, multiply in zip(module.m, module.ia, module.im, strict=True):
                conv.bias += (conv.weight * add.implicit).sum((1, 2, 3))
                conv.bias *= multiply.implicit.flatten()
                conv.weight *= multiply.implicit.view(-1, 1, 1, 1)
            module.forward = module.fuseforward
    return model


def _folded(module):
    dense = torch.nn.utils.fuse_conv_bn_eval(*module.rbr_dense)
    pointwise = torch.nn.utils.fuse_conv_bn_eval(*module.rbr_1x1)
    dense.weight[:, :, 1:2, 1:2] += pointwise.weight
    dense.bias += pointwise.bias
    if module.rbr_identity is not None:
        bn = module.rbr_identity
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        dense.weight[:, :, 1, 1] += torch.diag(scale)
        dense.bias += bn.bias - bn.running_mean * scale
    return dense


def awkward(model):
    """Tensors as views: channels-last strides, all BN vectors in one storage, one reversed onto another's memory."""
    model = model.to(memory_format=torch.channels_last)
    vectors = [module.bias for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    joined = torch.cat([vector.data for vector in vectors])
    position = 0
    for vector in vectors:
        vector.data = joined[position : position + len(vector)]
        position += len(vector)
    first = model.model[0].bn
    first.running_mean = first.running_mean[0].expand(8)
    first.running_var = torch.stack([first.running_var, first.running_var + 1], 1)[:, 0]
    return model


def main():
    for name, classes in {
        'common': (Conv, RepConv, Concat, MP, SP, SPPCSPC, ImplicitA, ImplicitM),
        'yolo': (IDetect, Model),
    }.items():
        module = sys.modules[f'models.{name}'] = types.ModuleType(f'models.{name}')
        for cls in classes:
            cls.__module__ = f'models.{name}'
            setattr(module, cls.__name__, cls)
    sys.modules['models'] = types.ModuleType('models')
    torch.manual_seed(0)
    model = healthy(Model())
    image = torch.rand(1, 3, 16, 24)
    networks = {
        'zip': model,
        'legacy': copy.deepcopy(model).half(),
        'views': awkward(copy.deepcopy(model).bfloat16()),
        'fused': fused(copy.deepcopy(model)),
    }
    torch.serialization.get_source_lines_and_file = lambda cls: (['(source)'], 1, f'{cls.__name__}.py')
    FOLDER.mkdir(parents=True, exist_ok=True)
    results = {'image': image.numpy()}
    wrong = {'model': nn.Linear(2, 2)}
    torch.save({'model': networks['zip'], 'ema': None, 'best_fitness': np.float64(0.5)}, FOLDER / 'zip.pt')
    torch.save({**wrong, 'ema': networks['legacy']}, FOLDER / 'legacy.pt', _use_new_zipfile_serialization=False)
    torch.save(nn.DataParallel(networks['views']), FOLDER / 'views.pt', pickle_protocol=4)
    torch.save({'model': networks['fused'], 'optimizer': {'state': {0: {(1, 'step'): 2}}}}, FOLDER / 'fused.pt')
    for name, network in networks.items():
        with torch.no_grad():
            heads = copy.deepcopy(network).float()(image)
        results |= {f'{name}{level}': head.numpy() for level, head in enumerate(heads)}
    assert np.allclose(results['fused0'], results['zip0'], atol=1e-4)
    np.savez_compressed(FOLDER / 'outputs.npz', **results)


if __name__ == '__main__':
    main()
