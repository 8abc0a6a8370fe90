"""Small networks as PyTorch would pickle them, as plain data that can be changed anywhere: a seed for every module.

All tensors are windows on one storage of ones (and a few powers of two), which keeps the files at 1 to 4 KB.
"""

import functools
import struct
from collections.abc import Callable
from typing import Any

from fuzz.emit import Call, Class, Instance, Persistent, dumps
from jaxprune import models, trees
from weights_convert._names import links

NN = 'torch.nn.modules'
ELEMENTS = 512
_POWERS = 8  # of two, at the end of the storage, to take strides from
ONES = struct.pack('<f', 1.0) * (ELEMENTS - _POWERS) + struct.pack(
    f'<{_POWERS}f', *(1 << power for power in range(_POWERS))
)
_CLASSES: dict[tuple[str, str], Class] = {}


def cls(module: str, name: str) -> Class:
    """The class of that name, one object for all its uses."""
    return _CLASSES.setdefault((module, name), Class(module, name))


STORAGE = Persistent(('storage', cls('torch', 'FloatStorage'), '0', 'cpu', ELEMENTS))
_REBUILD = cls('torch._utils', '_rebuild_tensor_v2')


def window(shape: tuple[int, ...], strides: tuple[int, ...] | None = None, *, offset: int = 0) -> Call:
    """A tensor of ones: expanded from one element unless strides are given."""
    return Call(_REBUILD, (STORAGE, offset, shape, strides or (0,) * len(shape), False, {}))


def module(
    kind: Class, *, parameters: Any = None, buffers: Any = None, children: Any = None, **settings: Any
) -> Instance:
    state = {'_parameters': parameters or {}, '_buffers': buffers or {}, '_modules': children or {}}
    return Instance(kind, {**state, 'training': False, **settings})


def conv2d(
    read: int, channels: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, bias: bool = False
) -> Instance:
    sizes = {'stride': (stride,) * 2, 'padding': (kernel // 2,) * 2, 'dilation': (1, 1)}
    tensors = {
        'weight': window((channels, read // groups, kernel, kernel)),
        'bias': window((channels,)) if bias else None,
    }
    fixed = {'padding_mode': 'zeros', 'transposed': False, 'kernel_size': (kernel,) * 2}
    return module(cls(f'{NN}.conv', 'Conv2d'), parameters=tensors, groups=groups, **sizes, **fixed)


def batch_norm(channels: int) -> Instance:
    parameters = {'weight': window((channels,)), 'bias': window((channels,))}
    buffers = {'running_mean': window((channels,)), 'running_var': window((channels,)), 'num_batches_tracked': None}
    return module(cls(f'{NN}.batchnorm', 'BatchNorm2d'), parameters=parameters, buffers=buffers, eps=1e-3)


def act(name: str = 'SiLU', **settings: Any) -> Instance:
    return module(cls(f'{NN}.activation', name), **settings)


def common(name: str, children: dict[str, Any], **settings: Any) -> Instance:
    return module(cls('models.common', name), children=children, **settings)


def conv(read: int, channels: int, kernel: int = 1, stride: int = 1, **options: Any) -> Instance:
    convolution = conv2d(read, channels, kernel, stride, **options)
    return common('Conv', {'conv': convolution, 'bn': batch_norm(channels), 'act': act()})


def fused_conv(read: int, channels: int) -> Instance:
    return common('Conv', {'conv': conv2d(read, channels, bias=True), 'act': act('LeakyReLU', negative_slope=0.1)})


def sequence(*modules: Any, name: str = 'Sequential') -> Instance:
    return module(cls(f'{NN}.container', name), children={str(index): part for index, part in enumerate(modules)})


def repconv(read: int, channels: int) -> Instance:
    branches = {
        'act': act(),
        'rbr_identity': batch_norm(channels) if read == channels else None,
        'rbr_dense': sequence(conv2d(read, channels, 3), batch_norm(channels)),
        'rbr_1x1': sequence(conv2d(read, channels, 1), batch_norm(channels)),
    }
    return common('RepConv', branches)


def pooling(kernel: int = 2, stride: int = 2, padding: int = 0) -> Instance:
    sizes = {'kernel_size': kernel, 'stride': stride, 'padding': padding}
    return module(cls(f'{NN}.pooling', 'MaxPool2d'), **sizes, dilation=1, ceil_mode=False, return_indices=False)


def sppcspc(read: int, channels: int) -> Instance:
    wide = 2 * channels
    shapes = [
        (read, wide),
        (read, wide),
        (wide, wide),
        (wide, wide),
        (2 * wide, wide),
        (wide, wide),
        (2 * wide, channels),
    ]
    children: dict[str, Any] = {f'cv{index}': conv(*shape) for index, shape in enumerate(shapes, 1)}
    return common('SPPCSPC', {**children, 'm': sequence(pooling(3, 1, 1), name='ModuleList')})


def downc(read: int, channels: int) -> Instance:
    half = channels // 2
    children = {'cv1': conv(read, read), 'cv2': conv(read, half, 3, 2), 'cv3': conv(read, half), 'mp': pooling()}
    return common('DownC', children)


def upsample() -> Instance:
    return module(cls(f'{NN}.upsampling', 'Upsample'), size=None, scale_factor=2.0, mode='nearest')


def implicit(channels: int, name: str) -> Instance:
    return module(cls('models.common', name), parameters={'implicit': window((1, channels, 1, 1))})


def detect(kind: str, reads: list[int], *, anchors: int = 1, power: int = 0) -> Instance:
    """A detection module for one class, stride `2 ** power`; of auxiliary heads is the second half of `reads`."""
    lead = reads[: len(reads) // 2] if kind == 'IAuxDetect' else reads
    children = {'m': sequence(*(conv2d(read, 6 * anchors, bias=True) for read in lead), name='ModuleList')}
    if kind == 'IAuxDetect':
        rest = reads[len(lead) :]
        children['m2'] = sequence(*(conv2d(read, 6 * anchors, bias=True) for read in rest), name='ModuleList')
    if kind != 'Detect':
        children['ia'] = sequence(*(implicit(read, 'ImplicitA') for read in lead), name='ModuleList')
        children['im'] = sequence(*(implicit(6 * anchors, 'ImplicitM') for _ in lead), name='ModuleList')
    buffers = {'anchors': window((len(lead), anchors, 2)), 'anchor_grid': window((len(lead), 1, anchors, 1, 1, 2))}
    stride = window((len(lead),), offset=ELEMENTS - _POWERS + power)
    settings = {'stride': stride, 'nc': 1, 'no': 6, 'nl': len(lead), 'na': anchors}
    return module(cls('models.yolo', kind), buffers=buffers, children=children, **settings)


def model(*layers: tuple[Any, Instance]) -> Instance:
    """The network, from pairs of what a layer reads and the layer."""
    for index, (source, layer) in enumerate(layers):
        layer.state |= {'i': index, 'f': source}
    children = {'model': sequence(*(layer for _, layer in layers))}
    names = {'names': ['cat'], 'yaml': {'nc': 1}, 'yaml_file': 'cfg/tiny.yaml'}
    return module(cls('models.yolo', 'Model'), children=children, **names)


def _tiny() -> Any:
    return {'model': model((-1, conv(3, 2)), ([-1], detect('IDetect', [2]))), 'ema': None, 'epoch': -1}


def _fused() -> Any:
    return {'ema': model((-1, fused_conv(3, 2)), (-1, pooling(1, 1)), ([-1, 0], detect('Detect', [2, 2])))}


def _rep() -> Any:
    return model((-1, repconv(3, 3)), (-1, repconv(3, 2)), ([-1], detect('Detect', [2], anchors=3)))


def _pyramid() -> Any:
    return {'model': model((-1, sppcspc(3, 2)), ([-1], detect('IDetect', [2])))}


def _wiring() -> Any:
    join, add = common('Concat', {}, d=1), common('Shortcut', {}, d=0)
    down = common('MP', {'m': pooling()})
    layers = [
        (-1, conv(3, 2)),
        (-1, down),
        (-1, upsample()),
        ([-1, 0], join),
        ([0, 2], add),
        ([3, 4], detect('Detect', [4, 2], power=1)),
    ]
    return {'model': model(*layers)}


def _auxiliary() -> Any:
    reorg = common('ReOrg', {})
    layers = [
        (-1, reorg),
        (-1, downc(12, 4)),
        (-1, sequence(conv(4, 2), conv(2, 2))),
        ([1, 2], detect('IAuxDetect', [4, 2], power=2)),
    ]
    return {'model': model(*layers)}


def _parallel() -> Any:
    inner = model((-1, conv2d(3, 2, bias=True)), ([-1], detect('Detect', [2])))
    return module(cls('torch.nn.parallel.data_parallel', 'DataParallel'), children={'module': inner})


def _optimiser() -> Any:
    slots = {index: {'step': 7, 'momentum_buffer': window((2, 3))} for index in range(3)}
    groups = [{'lr': 0.01, 'momentum': 0.9, 'params': [0, 1, 2]}]
    return {**_tiny(), 'optimizer': {'state': slots, 'param_groups': groups}, 'training_results': None, 'wandb_id': 'x'}


def _tensors() -> Any:
    names = ('weight', 'bias', 'running_mean', 'running_var')
    table = {f'model.0.bn.{name}': window((2,)) for name in names} | {'model.0.conv.weight': window((2, 3, 1, 1))}
    return {'state_dict': table}


def _registry() -> Any:
    """The tensors of a whole architecture, thin, by their names alone."""
    spec = models.build_spec('yolov7', form='fused', width_multiple=0.125)
    needed = trees.flatten(models.shapes(spec))
    return {'model': {link.tensor: window(_pytorch_shape(needed[link.path].shape)) for link in links(spec)}}


def _pytorch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


@functools.cache
def seed(name: str) -> bytes:
    """A network's pickle."""
    return dumps(TREES[name]())


TREES: dict[str, Callable[[], Any]] = {
    'tiny': _tiny,
    'fused': _fused,
    'rep': _rep,
    'pyramid': _pyramid,
    'wiring': _wiring,
    'auxiliary': _auxiliary,
    'parallel': _parallel,
    'optimiser': _optimiser,
    'tensors': _tensors,
    'registry': _registry,
}
