"""Odd values, and the opcodes that push one: numbers, names, endless containers, tensors, modules, whole networks."""

import random
import struct
from collections.abc import Callable

from fuzz.emit import Call, Class, Instance, Persistent, Raw, integer, named, opcodes, text
from fuzz.networks import STORAGE, TREES, cls, window

INTEGERS = (0, 1, 2, 3, 5, 7, 64, 255, 1023, 1024, 4095, 65535, -1, -2, -(1 << 31), (1 << 31) - 1, 1 << 32, 1 << 40)
LARGE = (1 << 62, 1 << 63, -(1 << 63), 1 << 64, 1 << 200, -(10**5000), 10**5000)
TEXTS = (
    '',
    '0',
    '1',
    '../x',
    'a.b',
    'a/b',
    'x' * 70,
    'y' * 3000,
    'two\nlines',
    'bell\x07',
    'é',
    '\ud800',
    '\x00',
    '%s{0}',
)
NAMES = (
    *(
        '_modules',
        '_parameters',
        '_buffers',
        'model',
        'ema',
        'state_dict',
        'module',
        'f',
        'i',
        'd',
        'm',
        'm2',
        'ia',
        'im',
    ),
    *(
        'weight',
        'bias',
        'running_mean',
        'running_var',
        'implicit',
        'stride',
        'anchors',
        'anchor_grid',
        'names',
        'forward',
    ),
    *(
        'yaml_file',
        'kernel_size',
        'padding',
        'dilation',
        'groups',
        'eps',
        'conv',
        'bn',
        'act',
        'rbr_dense',
        'rbr_reparam',
    ),
    *(
        'fuseforward',
        'storage',
        'negative_slope',
        'scale_factor',
        'size',
        'mode',
        'nearest',
        'padding_mode',
        'zeros',
        'cv1',
    ),
)
CLASSES = (
    *(
        Class('torch', f'{kind}Storage')
        for kind in ('Float', 'Half', 'BFloat16', 'Double', 'Long', 'Bool', 'Byte', 'QInt8')
    ),
    *(Class('torch._utils', f'_rebuild_{kind}') for kind in ('tensor', 'tensor_v2', 'parameter', 'qtensor')),
    *(
        Class('torch._tensor', '_rebuild_from_type_v2'),
        Class('torch', 'Size'),
        Class('torch.nn.parameter', 'Parameter'),
    ),
    *(Class('collections', kind) for kind in ('OrderedDict', 'defaultdict', 'Counter', 'deque')),
    *(
        Class('builtins', kind)
        for kind in ('getattr', 'eval', 'exec', 'set', 'dict', 'list', 'bytearray', '__import__')
    ),
    *(Class('os', 'system'), Class('posix', 'system'), Class('subprocess', 'Popen'), Class('', ''), Class('a\nb', 'c')),
    *(Class('copyreg', '_reconstructor'), Class('copy_reg', '_reconstructor'), Class('__builtin__', 'set')),
    *(
        Class('numpy', 'dtype'),
        Class('numpy.core.multiarray', 'scalar'),
        Class('_codecs', 'encode'),
        Class('z' * 3000, 'z'),
    ),
    *(
        Class('models.common', name)
        for name in ('Conv', 'RepConv', 'Concat', 'MP', 'SP', 'SPPCSPC', 'ReOrg', 'Shortcut')
    ),
    *(
        Class('models.common', name)
        for name in ('DownC', 'SPPF', 'Focus', 'Stem', 'Ghost', 'Bottleneck', 'BottleneckCSPA')
    ),
    *(Class('models.yolo', name) for name in ('Detect', 'IDetect', 'IAuxDetect', 'IBin', 'Model')),
    *(Class('torch.nn.modules.activation', name) for name in ('SiLU', 'LeakyReLU', 'ReLU6', 'Hardswish', 'Mish')),
    *(Class('torch.nn.modules.container', name) for name in ('Sequential', 'ModuleList', 'ModuleDict')),
    *(
        Class('torch.nn', 'Identity'),
        Class('torch.nn', 'Conv2d'),
        Class('torch.nn', 'MaxPool2d'),
        Class('torch.nn', 'Upsample'),
    ),
)


def snippet(generator: random.Random) -> bytes:
    """Opcodes that push one value of any kind, from a number to a network, endless and exploding ones included."""
    return generator.choice(_SNIPPETS)(generator)


def _endless(_: random.Random) -> bytes:
    return b']r\xf0\xff\x00\x00j\xf0\xff\x00\x00a'


def _endless_dictionary(_: random.Random) -> bytes:
    return b'}r\xf1\xff\x00\x00' + text('_modules') + b'j\xf1\xff\x00\x00s'


def _exploding(generator: random.Random) -> bytes:
    """Containers of two times the one before it: 2 ** 40 values in all."""
    kind = generator.choice((b'\x86', b'l', b'd'))
    content = b')' if kind == b'\x86' else b']'
    for index in range(40):
        put, get = (code + struct.pack('<I', 0xF000 + index) for code in (b'r', b'j'))
        twice = put + b'0' + (get + get if kind == b'\x86' else b'(' + get + get)
        content += twice + kind if kind != b'd' else put + b'0(' + text('a') + get + text('b') + get + kind
    return content


def _deep(generator: random.Random) -> bytes:
    return b')' + generator.choice((b'\x85', b'\x85', b'(t')) * generator.choice((10, 1000, 5000))


def _shared_modules(generator: random.Random) -> bytes:
    """Modules that hold the one before them twice, under a layer that can be translated."""
    kind = named(cls('torch.nn.modules.container', generator.choice(('Sequential', 'ModuleList'))))
    content = opcodes(TREES['tiny']().get('model')) if generator.random() < 0.5 else kind + b')\x81'
    for index in range(generator.choice((3, 12, 30))):
        put, get = (code + struct.pack('<I', 0xE000 + index) for code in (b'r', b'j'))
        children = b'}(' + text('0') + get + text('1') + get + b'u'
        content += put + b'0' + kind + b')\x81}' + text('_modules') + children + b'sb'
    return content


def _odd_tensor(generator: random.Random) -> bytes:
    rank = generator.choice((0, 1, 2, 4, 6, 8, 9, 40))
    shape = tuple(generator.choice((0, 1, 2, 512, 1 << 20, 1 << 39, -1)) for _ in range(rank))
    strides = tuple(generator.choice((0, 0, 1, 2, 1 << 39, -1)) for _ in range(rank))
    key, size = (
        generator.choice(('0', '1', '../data.pkl', 'data', '')),
        generator.choice((512, 1, 0, -1, 1 << 50, 10**5000)),
    )
    kind = generator.choice(CLASSES[:8])
    storage = Persistent(('storage', kind, key, 'cpu', size, *generator.choice(((), (None,), (('1', 4, 8),), (3,)))))
    arguments = (storage, generator.choice((0, 0, 1, 511, 1 << 39, -1, True)), shape, strides, False, {})
    return opcodes(Call(cls('torch._utils', '_rebuild_tensor_v2'), arguments))


def _odd_module(generator: random.Random) -> bytes:
    kind = generator.choice(CLASSES)
    state = generator.choice(
        ({}, {'_modules': {}}, {'_modules': {'a': None, 'b': Raw(b'N')}}, ({'_modules': {}}, None), None, 3)
    )
    return opcodes(Instance(kind, state))


def _call(generator: random.Random) -> bytes:
    arguments = generator.choice(
        ((), ('true',), (Raw(b'N'),), ([],), ([('a', 1)],), ([1],), (0, 'fuseforward'), 'text', None)
    )
    return opcodes(Call(generator.choice(CLASSES), arguments))


def _plain(generator: random.Random) -> bytes:
    values = (
        None,
        True,
        False,
        0.5,
        float('nan'),
        float('inf'),
        -0.0,
        b'bytes',
        (),
        [],
        {},
        (2, 2),
        [1, 2],
        (1, -1),
        {0: 'a', 'a': 1},
    )
    return opcodes(generator.choice(values))


def _number(generator: random.Random) -> bytes:
    return integer(generator.choice(generator.choice((INTEGERS, LARGE))))


def _word(generator: random.Random) -> bytes:
    return text(generator.choice(generator.choice((NAMES, TEXTS))))


def _network(generator: random.Random) -> bytes:
    return opcodes(TREES[generator.choice(('tiny', 'fused', 'parallel', 'tensors'))]())


def _window(generator: random.Random) -> bytes:
    return opcodes(
        window(generator.choice(((2,), (2, 3, 1, 1), (3, 1, 2, 1, 1, 2), (1 << 12, 1 << 12), (1 << 10,) * 4)))
    )


def _reference(_: random.Random) -> bytes:
    return opcodes(STORAGE)


def _name(generator: random.Random) -> bytes:
    return named(generator.choice(CLASSES))


_SNIPPETS: tuple[Callable[[random.Random], bytes], ...] = (
    *(
        _endless,
        _endless_dictionary,
        _exploding,
        _deep,
        _shared_modules,
        _odd_tensor,
        _odd_tensor,
        _odd_module,
        _odd_module,
    ),
    *(_call, _plain, _plain, _number, _word, _network, _window, _window, _reference, _name),
)
