"""Files made to take as much time and memory as a file of their size can: the worst that we could think of."""

import dataclasses
import functools
import struct
import zlib
from collections.abc import Callable
from typing import Any

from fuzz import by_zip, networks
from fuzz.emit import Call, Class, Instance, Persistent, Raw, archive, dumps, legacy, named, opcodes, text
from fuzz.networks import cls, conv, conv2d, detect, fused_conv, model, module, sequence, window

_BOMB = 150_000_000  # bytes
_MERSENNE = (1 << 61) - 1
_SEQUENTIAL = cls(f'{networks.NN}.container', 'Sequential')


def cases() -> dict[str, Callable[[], bytes]]:
    """The files by name; each is made when it is asked for."""
    storages = {'0': networks.ONES}
    found: dict[str, Callable[[], bytes]] = {}
    for name, tree in _TREES.items():
        found[name] = lambda tree=tree: archive(dumps(tree()), storages)
    for name, content in _PICKLES.items():
        found[name] = lambda content=content: archive(content(), storages)
        found[f'{name}, legacy'] = lambda content=content: legacy(content(), storages)
    for number in (1e300, float('inf'), float('nan'), 1e-300, -1.0):
        found[f'tensors of {number}'] = lambda number=number: _of_doubles(number)
    for size in (1 << 40, (1 << 63) - 1, -1):
        found[f'legacy, storage of {size}'] = lambda size=size: _short_legacy(size)
    for method, kind in ((by_zip.DEFLATED, 'deflate'), (by_zip.BZIP2, 'bzip2'), (by_zip.LZMA, 'lzma')):
        for member in ('a/data.pkl', 'a/data/0', 'a/byteorder'):
            found[f'{kind} bomb in {member}'] = functools.partial(_bomb, method, member, denied=False)
            found[f'{kind} bomb in {member}, denied'] = functools.partial(_bomb, method, member, denied=True)
    return found | _FILES


def _tiny(*layers: tuple[Any, Instance], **attributes: Any) -> dict[str, Any]:
    """A network that converts, with more layers in between."""
    network = model((-1, conv(3, 2)), *layers, ([0], detect('IDetect', [2])))
    network.state |= attributes
    return {'model': network}


def _shared(count: int) -> Any:
    """One module many times over: a name and two bytes each."""
    shared = fused_conv(2, 2)
    return _tiny(*((-1, sequence(shared)) for _ in range(count)))


def _same_layer(count: int) -> Any:
    shared = fused_conv(2, 2)
    network = _tiny((-1, shared))
    layers = network['model'].state['_modules']['model'].state['_modules']
    last = layers.pop('2')
    layers |= {str(index): shared for index in range(1, count)}
    layers[str(count)] = last
    return network


def _tree(depth: int, leaf: Instance, width: int = 2) -> Any:
    """Sequences that hold the one below them twice: `width ** depth` leaves of a few bytes."""
    for _ in range(depth):
        leaf = sequence(*(leaf,) * width)
    return _tiny((-1, leaf))


def _wide_view() -> Any:
    """As many elements as a file of a few KB may have, all of them one number."""
    network = _tiny((-1, fused_conv(2, 2)))
    network['model'].state['_modules']['model'].state['_modules']['1'] = big = fused_conv(2, 1 << 9)
    big.state['_modules']['conv'] = conv2d(2, 1 << 9, 31, bias=True)
    big.state |= {'f': -1, 'i': 1}
    return network


def _many_views(count: int, shape: tuple[int, ...]) -> Any:
    """Layers whose tensors all are expanded from one number."""
    return _tiny(*((-1, conv2d(2, shape[0], shape[2], bias=True)) for _ in range(count)))


def _heads(count: int, channels: int) -> Any:
    layers = [(-1, conv2d(3, 2, bias=True)), ([0] * count, detect('Detect', [2] * count, anchors=channels))]
    return {'model': model(*layers)}


def _classes(count: int) -> Any:
    """A head for so many classes, which all get names."""
    network = {'model': model((-1, conv2d(3, 1, bias=True)), ([-1], detect('Detect', [1])))}
    head = network['model'].state['_modules']['model'].state['_modules']['1'].state['_modules']['m']
    head.state['_modules']['0'] = conv2d(1, count, bias=True)
    return network


def _concatenation(count: int) -> Any:
    return _tiny((([0] * count), networks.common('Concat', {}, d=1)))


def _doubling(count: int) -> Any:
    """Every layer has twice the channels of the one before it."""
    return _tiny(*((([-1, -1]), networks.common('Concat', {}, d=1)) for _ in range(count)))


def _enlarging(count: int) -> Any:
    """Images sixty-four times larger, again and again."""
    enlarge = networks.upsample()
    enlarge.state['scale_factor'] = 64
    shared = sequence(enlarge)
    return _tiny(*((-1, sequence(shared)) for _ in range(count)))


def _long_names() -> Any:
    leaf = module(Class('custom.blocks', 'c' * 1500))
    for _ in range(31):
        leaf = module(_SEQUENTIAL, children={'n' * 64: leaf})
    return _tiny((-1, leaf))


def _many_names(count: int) -> Any:
    network = _tiny()
    network['model'].state['_buffers'] = {f'{index:x}{"n" * 59}': window((1,)) for index in range(count)}
    return network


def _unexpected(count: int) -> Any:
    return {**_tiny(), 'calls': [Call(Class('os', f'f{index}'), ()) for index in range(count)]}


def _colliding_keys(count: int) -> Any:
    """Keys of a dictionary that hash alike: pairs, the second number of which makes up for the first."""
    return {
        **_tiny(),
        'other': Raw(opcodes({}) + b'(' + b''.join(opcodes(key) + b'N' for key in colliding(count)) + b'u'),
    }


def colliding(count: int) -> list[tuple[int, int]]:
    """Different pairs of numbers with one hash (of CPython's, for tuples; xxHash with fixed constants)."""
    p1, p2, p5, mask = 11400714785074694791, 14029467366897019727, 2870177450012600261, (1 << 64) - 1

    def rotated(number: int, bits: int) -> int:
        return ((number << bits) | (number >> (64 - bits))) & mask

    def round_of(state: int, lane: int) -> int:
        return rotated((state + lane * p2) & mask, 31) * p1 & mask

    inverse, aim, found, first = pow(p2, -1, 1 << 64), round_of(round_of(p5, 1), 1), list[tuple[int, int]](), 0
    before = rotated(aim * pow(p1, -1, 1 << 64) & mask, 33)
    while len(found) < count:
        first += 1
        lane = (before - round_of(p5, first)) * inverse & mask
        lane -= (lane >> 63) << 64
        if 0 <= lane < _MERSENNE:
            found.append((first, lane))
    assert len({hash(pair) for pair in found}) == 1
    return found


def _numbers(count: int) -> Any:
    return {
        **_tiny(),
        'other': {index * _MERSENNE + 1: None for index in range(8)} | {float(index): 1 for index in range(count)},
    }


def _strides(value: int) -> Any:
    network = model((-1, conv(3, 2)), ([-1], detect('Detect', [2] * 1)))
    network.state['_modules']['model'].state['_modules']['1'].state['stride'] = window((value,))
    return {'model': network}


def _scalars(count: int) -> Any:
    """Tensors that are not the network's: an optimiser's state, all on one storage."""
    return {**_tiny(), 'optimizer': [window((1 << 20,)) for _ in range(count)]}


def _state_dict(count: int) -> Any:
    return {'state_dict': {f'model.{index}.conv.weight': window((1, 1, 1, 1)) for index in range(count)}}


def _dots(count: int) -> Any:
    """Names that a careless pattern would try in very many ways."""
    return {'state_dict': {f'{"1." * 95}{index}': window((1,)) for index in range(count)}}


def _of_doubles(number: float) -> bytes:
    """A network whose anchors and first weights are one number of 64 bits."""
    storage = Persistent(('storage', cls('torch', 'DoubleStorage'), '1', 'cpu', 1))
    network = model((-1, conv(3, 2)), ([-1], detect('IDetect', [2])))
    layers = network.state['_modules']['model'].state['_modules']
    rebuild = cls('torch._utils', '_rebuild_tensor_v2')
    layers['1'].state['_buffers']['anchor_grid'] = Call(rebuild, (storage, 0, (1, 1, 1, 1, 1, 2), (0,) * 6))
    kernel = Call(rebuild, (storage, 0, (2, 3, 1, 1), (0,) * 4))
    layers['0'].state['_modules']['conv'].state['_parameters']['weight'] = kernel
    return archive(dumps(network), {'0': networks.ONES, '1': struct.pack('<d', number)})


def _huge_number(place: str) -> Any:
    size = 10**20_000
    if place == 'storage':
        storage = Persistent(('storage', cls('torch', 'FloatStorage'), '0', 'cpu', -size))
    else:
        storage = Persistent(('storage', cls('torch', 'FloatStorage'), '0', 'cpu', size, ('1', 0, 10 * size)))
    return {
        'state_dict': {'model.0.conv.weight': Call(cls('torch._utils', '_rebuild_tensor_v2'), (storage, 0, (1,), (1,)))}
    }


_TREES = {
    **{f'{count} layers of one module': lambda count=count: _same_layer(count) for count in (100, 1000)},
    **{f'{count} sequences of one module': lambda count=count: _shared(count) for count in (100,)},
    **{
        f'2 ** {depth} convolutions': lambda depth=depth: _tree(depth, fused_conv(2, 2))
        for depth in (6, 10, 14, 16, 24)
    },
    '2 ** 15 poolings': lambda: _tree(15, networks.pooling(1, 1)),
    '2 ** 16 identities': lambda: _tree(16, module(cls(f'{networks.NN}.linear', 'Identity'))),
    '300 ** 2 modules': lambda: _tree(2, module(cls(f'{networks.NN}.linear', 'Identity')), 300),
    'wide view': _wide_view,
    **{f'{count} views': lambda count=count: _many_views(count, (64, 2, 63)) for count in (1, 4, 40)},
    '500 levels': lambda: _heads(500, 1),
    '300,000 anchors': lambda: _heads(1, 170_000),
    '1,000,000 classes': lambda: _classes(1_000_000),
    '3000 inputs': lambda: _concatenation(3000),
    '2 ** 30 channels': lambda: _doubling(30),
    '64 ** 5 times larger': lambda: _enlarging(5),
    '64 ** 12 times larger': lambda: _enlarging(12),
    'long names': _long_names,
    '1000 names': lambda: _many_names(1000),
    '1000 unexpected calls': lambda: _unexpected(1000),
    **{f'{count} colliding keys': lambda count=count: _colliding_keys(count) for count in (400, 20_000)},
    '20000 numbers as keys': lambda: _numbers(20_000),
    'strides': lambda: _strides(1 << 20),
    '300 optimiser tensors': lambda: _scalars(300),
    '2000 tensors': lambda: _state_dict(2000),
    '1000 dotted names': lambda: _dots(1000),
    'huge storage': lambda: _huge_number('storage'),
    'huge view': lambda: _huge_number('view'),
}


def _open_marks() -> bytes:
    return b'\x80\x02' + b'(' * 10_000 + b'.'


def _deep_tuple() -> bytes:
    return b'\x80\x02)' + b'\x85' * 10_000 + b'.'


def _deep_parameter() -> bytes:
    """A tensor within a parameter within a parameter ..."""
    wrap = named(Class('torch._utils', '_rebuild_parameter')) + b'h\x00\x85R'
    return b'\x80\x02}' + text('w') + opcodes(window((1,))) + b'q\x00' + wrap.replace(b'h\x00', b'q\x00') * 3 + b's.'


def _long_text(size: int = 10_000) -> bytes:
    return b'\x80\x02' + b''.join(text(chr(97 + index) * size) + b'0' for index in range(3)) + text('x' * size) + b'.'


def _long_number() -> bytes:
    return b'\x80\x02\x8b' + struct.pack('<i', 10_000) + b'\x7f' * 10_000 + b'.'


def _long_decimal() -> bytes:
    return b'\x80\x02L' + b'9' * 10_000 + b'L\n.'


def _announced(opcode: bytes, layout: str, size: int) -> bytes:
    """An argument said to be longer than the file."""
    return b'\x80\x02' + opcode + struct.pack(layout, size) + b'x' * 10 + b'.'


def _duplicates() -> bytes:
    return b'\x80\x02]' + b'2' * 9000 + b'(' + b'2' * 0 + b'l.'


def _tuples_of_tuples() -> bytes:
    """Each twice the one before it: short to write, endless to walk."""
    return b'\x80\x02)' + b'2\x86' * 4000 + b'.'


def _names_without_end() -> bytes:
    return b'\x80\x02' + named(Class('a' * 5000, 'b' * 5000)) + b')R' + b'.'


def _odd_class() -> bytes:
    kind = text('two\nlines\x1b[31m') + text('\ud800') + b'\x93'
    return dumps(
        {
            'model': Instance(
                Raw(kind), {'_modules': {'model': Instance(Raw(kind), {'_modules': {'0': Instance(Raw(kind), {})}})}}
            )
        }
    )  # type: ignore[arg-type]


_PICKLES = {
    'open marks': _open_marks,
    'deep tuple': _deep_tuple,
    'deep parameter': _deep_parameter,
    'long text': _long_text,
    'long number': _long_number,
    'long decimal': _long_decimal,
    **{
        f'announced {code!r} {size}': lambda code=code, layout=layout, size=size: _announced(code, layout, size)
        for code, layout, sizes in (
            (b'X', '<I', (1 << 31, (1 << 32) - 1)),
            (b'\x8d', '<Q', (1 << 33, (1 << 63) - 1, 1 << 62)),
            (b'\x8b', '<i', ((1 << 31) - 1,)),
            (b'B', '<I', ((1 << 32) - 1,)),
            (b'\x8e', '<Q', (1 << 40, (1 << 63) - 1)),
            (b'T', '<i', ((1 << 31) - 1,)),
            (b'\x95', '<Q', (1 << 40, (1 << 63) - 1)),
        )
        for size in sizes
    },
    'duplicates': _duplicates,
    'tuples of tuples': _tuples_of_tuples,
    'names without end': _names_without_end,
    'odd class': _odd_class,
}


@functools.cache
def _zeros(method: int) -> by_zip.Entry:
    return by_zip.entry('', bytes(_BOMB), method)


def _bomb(method: int, member: str, *, denied: bool) -> bytes:
    """A member that unpacks to far more than the file, or, where that is denied, than is said of it."""
    bomb = dataclasses.replace(_zeros(method), name=member.encode())
    if denied:
        bomb.size, bomb.checksum = 64, zlib.crc32(bytes(64))
    members = {'a/data.pkl': networks.seed('tiny'), 'a/data/0': networks.ONES, 'a/byteorder': b'little'}
    return by_zip.build([bomb, *(by_zip.entry(*each) for each in members.items() if each[0] != member)])


def _many_members(count: int) -> bytes:
    storages = [by_zip.entry(f'a/data/{index}', networks.ONES[:4]) for index in range(1, count)]
    first = [by_zip.entry('a/data.pkl', networks.seed('tiny')), by_zip.entry('a/data/0', networks.ONES)]
    return by_zip.build([*first, *storages])


def _many_pickles(count: int) -> bytes:
    return by_zip.build([by_zip.entry(f'{index}/data.pkl', b'N.') for index in range(count)])


def _same_bytes(count: int) -> bytes:
    """Members that all stand in the same place of the file."""
    storage = bytes(8 * len(networks.ONES))
    shared = [by_zip.entry('a/data.pkl', _reader_of_many(count)), by_zip.entry('a/data/0', storage)]
    return by_zip.build([*shared, *(_alias(index, shared) for index in range(1, count))])


def _alias(index: int, entries: list[by_zip.Entry]) -> by_zip.Entry:
    name = f'a/data/{index}'.encode()
    start = 30 + len(entries[0].name) + len(entries[0].content)
    return dataclasses.replace(entries[1], name=name, local_name=b'', content=b'', at=start)


def _reader_of_many(count: int) -> bytes:
    """A network whose tensors stand in many large storages."""
    storages = [
        Persistent(('storage', cls('torch', 'FloatStorage'), str(index), 'cpu', 4 * networks.ELEMENTS))
        for index in range(count)
    ]
    rebuild = cls('torch._utils', '_rebuild_tensor_v2')
    layers = []
    for index in range(count):
        layer = conv2d(3 if not index else 1, 1, bias=True)
        shape = (1, 3 if not index else 1, 1, 1)
        layer.state['_parameters']['weight'] = Call(rebuild, (storages[index], 0, shape, (0,) * 4))
        layers.append((-1, layer))
    return dumps({'model': model(*layers, ([-1], detect('Detect', [1])))})


def _many_keys(count: int) -> bytes:
    start = legacy(networks.seed('tiny'), {})
    return start.replace(dumps([]), dumps(['0'] * count)) + struct.pack('<q', 0) * count


def _short_legacy(size: int) -> bytes:
    return legacy(networks.seed('tiny'), {'0': b''})[:-8] + struct.pack('<q', size) + networks.ONES


_FILES: dict[str, Callable[[], bytes]] = {
    '20,000 members': lambda: _many_members(20_000),
    '20,000 pickles': lambda: _many_pickles(20_000),
    'members on the same bytes': lambda: _same_bytes(20),
    'legacy, many keys': lambda: _many_keys(5000),
    'legacy, endless magic': lambda: b'\x80\x02\x8b' + struct.pack('<i', (1 << 31) - 1),
    'tar, as before 0.1.10': lambda: b'\x80\x02' + bytes(500),
}
