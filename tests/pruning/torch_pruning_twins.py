"""Convolutional networks, each written once for two frameworks: `network(ops, x)`.

`ops` makes and applies layers by name. `benchmarks/against_torch_pruning.py` gives PyTorch's, to prune them with
Torch-Pruning; `test_torch_pruning.py` gives JAX's. Widths are those of new layers; a pruned network has its own.
This file imports neither.
"""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

SIDE = 16
CLASSES = 10


def weights(net: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights as in PyTorch (`[out, in, ...]`) that depend on the names only; multiples of 1/256."""
    rng = np.random.default_rng(zlib.crc32(f'{net}/{name}'.encode()))
    fan = max(int(np.prod(shape[1:])), 1)
    if name.endswith(('scale', 'var')):
        return rng.integers(128, 385, shape).astype(np.float32) / 256
    drawn = rng.integers(-255, 256, shape) * (2 / np.sqrt(fan) if len(shape) > 1 else 0.2)
    return (np.rint(drawn) / 256).astype(np.float32)


def image(shape: tuple[int, ...]) -> np.ndarray:
    """Input `[N, C, H, W]`."""
    return (np.random.default_rng(0).integers(-256, 257, shape) / 256).astype(np.float32)


def unit(o: Any, name: str, x: Any, width: int, size: int = 3, **options: Any) -> Any:
    """Convolution, batch normalisation, ReLU."""
    return o.relu(o.norm(f'{name}/bn', o.conv(name, x, width, size, **options)))


def linear_unit(o: Any, name: str, x: Any, width: int, size: int = 3, **options: Any) -> Any:
    """Convolution and batch normalisation."""
    return o.norm(f'{name}/bn', o.conv(name, x, width, size, **options))


def depthwise(o: Any, name: str, x: Any, stride: int = 1) -> Any:
    """Depthwise 3x3 convolution and batch normalisation."""
    return o.norm(f'{name}/bn', o.depthwise(name, x, 3, stride))


def classify(o: Any, x: Any) -> Any:
    """Mean over the image and a linear layer."""
    return o.dense('head', o.mean(x), CLASSES)


def vgg(o, x):
    x = unit(o, 'b', unit(o, 'a', x, 8), 12)
    x = unit(o, 'd', unit(o, 'c', o.pool(x), 16), 16)
    x = o.relu(o.dense('fc', o.flatten(o.pool(x)), 24))
    return o.dense('head', x, CLASSES)


def basic_block(o, name, x, width, stride=1):
    y = unit(o, f'{name}/1', x, width, stride=stride)
    y = linear_unit(o, f'{name}/2', y, width)
    shortcut = x if stride == 1 else linear_unit(o, f'{name}/down', x, width, 1, stride=stride)
    return o.relu(shortcut + y)


def resnet_basic(o, x):
    x = unit(o, 'stem', x, 8)
    x = basic_block(o, 'b2', basic_block(o, 'b1', x, 8), 8)
    x = basic_block(o, 'b4', basic_block(o, 'b3', x, 16, 2), 16)
    return classify(o, x)


def bottleneck(o, name, x, inner, width, stride=1, groups=1, project=False):
    y = unit(o, f'{name}/1', x, inner, 1)
    y = unit(o, f'{name}/2', y, inner, 3, stride=stride, groups=groups)
    y = linear_unit(o, f'{name}/3', y, width, 1)
    shortcut = linear_unit(o, f'{name}/down', x, width, 1, stride=stride) if project else x
    return o.relu(shortcut + y)


def resnet_bottleneck(o, x):
    x = unit(o, 'stem', x, 8)
    x = bottleneck(o, 'b2', bottleneck(o, 'b1', x, 6, 24, project=True), 6, 24)
    x = bottleneck(o, 'b4', bottleneck(o, 'b3', x, 10, 32, 2, project=True), 10, 32)
    return classify(o, x)


def resnext(o, x):
    x = unit(o, 'stem', x, 8)
    x = bottleneck(o, 'b2', bottleneck(o, 'b1', x, 16, 24, groups=4, project=True), 16, 24, groups=4)
    x = bottleneck(o, 'b3', x, 24, 32, 2, groups=4, project=True)
    return classify(o, x)


def preactivation(o, x):
    x = o.conv('stem', x, 12)
    for name in ('b1', 'b2', 'b3'):
        y = o.conv(f'{name}/1', o.relu(o.norm(f'{name}/bn1', x)), 16)
        x = x + o.conv(f'{name}/2', o.relu(o.norm(f'{name}/bn2', y)), 12)
    return classify(o, o.relu(o.norm('bn', x)))


def densenet(o, x):
    x = o.conv('stem', x, 12)
    for block in ('b1', 'b2'):
        for layer in '123':
            name = f'{block}/{layer}'
            y = o.conv(f'{name}/1', o.relu(o.norm(f'{name}/bn1', x)), 16, 1)
            x = o.concat([x, o.conv(f'{name}/2', o.relu(o.norm(f'{name}/bn2', y)), 6)])
        x = o.pool(o.conv(f'{block}/down', o.relu(o.norm(f'{block}/bn', x)), 14, 1))
    return classify(o, x)


def inception(o, x):
    x = unit(o, 'stem', x, 12)
    for name in ('i1', 'i2'):
        parts = [
            unit(o, f'{name}/one', x, 8, 1),
            unit(o, f'{name}/three', unit(o, f'{name}/three_in', x, 6, 1), 10, 3),
            unit(o, f'{name}/five', unit(o, f'{name}/five_in', x, 4, 1), 6, 5),
            unit(o, f'{name}/pool', o.smooth(x), 6, 1),
        ]
        x = o.pool(o.concat(parts))
    return classify(o, x)


def inverted(o, name, x, inner, width, stride=1, add=False, act='relu6', gate=False):
    act = getattr(o, act)
    y = act(linear_unit(o, f'{name}/up', x, inner, 1))
    y = act(depthwise(o, f'{name}/dw', y, stride))
    if gate:
        z = o.relu(o.dense(f'{name}/se1', o.mean(y), 6))
        y = o.scale(y, o.hardsigmoid(o.dense(f'{name}/se2', z, inner)))
    y = linear_unit(o, f'{name}/down', y, width, 1)
    return x + y if add else y


def mobilenet_v2(o, x):
    x = unit(o, 'stem', x, 8, stride=2)
    x = inverted(o, 'i2', inverted(o, 'i1', x, 24, 12), 36, 12, add=True)
    x = inverted(o, 'i4', inverted(o, 'i3', x, 36, 16, 2), 32, 16, add=True)
    return classify(o, unit(o, 'last', x, 32, 1))


def mobilenet_v3(o, x):
    options = {'act': 'hardswish', 'gate': True}
    x = o.hardswish(linear_unit(o, 'stem', x, 8, stride=2))
    x = inverted(o, 'i2', inverted(o, 'i1', x, 16, 12, **options), 24, 12, add=True, **options)
    x = inverted(o, 'i3', x, 32, 16, 2, **options)
    return classify(o, o.hardswish(linear_unit(o, 'last', x, 32, 1)))


def shuffle_unit(o, name, x, width):
    left, right = o.split(x)
    y = unit(o, f'{name}/1', right, width, 1)
    y = linear_unit(o, f'{name}/2', depthwise(o, f'{name}/dw', y), width, 1)
    return o.shuffle(o.concat([left, o.relu(y)]))


def shufflenet(o, x):
    x = unit(o, 'stem', x, 16, stride=2)
    x = shuffle_unit(o, 's2', shuffle_unit(o, 's1', x, 8), 8)
    return classify(o, unit(o, 'last', x, 24, 1))


def shufflenet_grouped(o, x):
    """The first version: grouped 1x1 convolutions, a shuffle between them."""
    x = unit(o, 'stem', x, 16, stride=2)
    for name in ('s1', 's2'):
        y = o.shuffle(unit(o, f'{name}/1', x, 16, 1, groups=2))
        y = linear_unit(o, f'{name}/2', depthwise(o, f'{name}/dw', y), 16, 1, groups=2)
        x = o.relu(x + y)
    return classify(o, unit(o, 'last', x, 24, 1))


def unet(o, x, join):
    e1 = unit(o, 'e1', x, 8)
    e2 = unit(o, 'e2', o.pool(e1), 16)
    x = unit(o, 'e3', o.pool(e2), 24)
    x = unit(o, 'd2', join(unit(o, 'u2', o.up(x), 16), e2), 16)
    x = unit(o, 'd1', join(unit(o, 'u1', o.up(x), 8), e1), 8)
    return o.conv('head', x, 2, 1)


def unet_concat(o, x):
    return unet(o, x, lambda a, b: o.concat([a, b]))


def unet_add(o, x):
    return unet(o, x, lambda a, b: a + b)


def fpn(o, x):
    c2 = unit(o, 'c2', unit(o, 'c1', x, 8), 16, stride=2)
    c3 = unit(o, 'c3', c2, 24, stride=2)
    p3 = o.conv('l3', c3, 12, 1)
    p2 = o.conv('l2', c2, 12, 1) + o.up(p3)
    parts = [unit(o, f's{level}', part, 12) for level, part in (('2', p2), ('3', p3))]
    return o.concat([o.mean(o.conv(f'head{place}', part, 4, 1)) for place, part in enumerate(parts)])


def dla(o, x):
    x = unit(o, 'stem', x, 8)
    left = basic_block(o, 'l1', x, 16, 2)
    right = basic_block(o, 'l2', left, 16)
    x = unit(o, 'root1', o.concat([right, left]), 16, 1)
    last = basic_block(o, 'l3', x, 16)
    return classify(o, unit(o, 'root2', o.concat([last, x, left]), 24, 1))


def repvgg(o, x):
    x = unit(o, 'stem', x, 12)
    for name in ('r1', 'r2'):
        x = o.relu(linear_unit(o, f'{name}/3', x, 12) + linear_unit(o, f'{name}/1', x, 12, 1) + o.norm(f'{name}/bn', x))
    x = o.relu(linear_unit(o, 'r3/3', x, 20, stride=2) + linear_unit(o, 'r3/1', x, 20, 1, stride=2))
    return classify(o, x)


def generator(o, x):
    """Of the style of DCGAN, from a latent image; its channels are halved at every step."""
    x = o.relu(o.norm('a/bn', o.conv('a', x, 24, 1)))
    x = o.relu(o.norm('b/bn', o.transposed('b', x, 16)))
    x = o.relu(o.norm('c/bn', o.transposed('c', x, 8)))
    return o.conv('head', x, 3)


NETWORKS: dict[str, Callable[[Any, Any], Any]] = {
    network.__name__: network
    for network in (
        vgg,
        resnet_basic,
        resnet_bottleneck,
        resnext,
        preactivation,
        densenet,
        inception,
        mobilenet_v2,
        mobilenet_v3,
        shufflenet,
        shufflenet_grouped,
        unet_concat,
        unet_add,
        fpn,
        dla,
        repvgg,
        generator,
    )
}


def input_shape(net: str) -> tuple[int, ...]:
    """`[N, C, H, W]`."""
    return (1, 6, 4, 4) if net == 'generator' else (1, 3, SIDE, SIDE)
