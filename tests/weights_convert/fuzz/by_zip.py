"""Archives that say one thing and hold another. Checksums are right unless they are what is wrong."""

import dataclasses
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14


@dataclasses.dataclass
class Entry:
    """A member of an archive, with every field that its headers say of it."""

    name: bytes
    content: bytes  # as it stands in the file
    method: int
    checksum: int
    size: int  # of what it unpacks to
    packed: int
    flags: int = 0
    version: int = 20
    extra: bytes = b''
    comment: bytes = b''
    local_name: bytes | None = None
    at: int | None = None  # where the file is said to begin in the archive


def entry(name: str, content: bytes, method: int = STORED) -> Entry:
    packed = {STORED: bytes, DEFLATED: _deflated, BZIP2: _bzip2, LZMA: _lzma}[method](content)
    return Entry(name.encode('utf-8', 'surrogatepass'), packed, method, zlib.crc32(content), len(content), len(packed))


def _deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def _bzip2(content: bytes) -> bytes:
    import bz2

    return bz2.compress(content)


def _lzma(content: bytes) -> bytes:
    import lzma

    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{'id': lzma.FILTER_LZMA1, 'dict_size': 1 << 16}])
    return b'\x09\x04\x05\x00\x5d\x00\x00\x01\x00' + packer.compress(content) + packer.flush()


def build(entries: list[Entry], *, comment: bytes = b'', count: int | None = None) -> bytes:
    """The archive of these entries, as their fields say."""
    out, directory = io.BytesIO(), io.BytesIO()
    for each in entries:
        place = out.tell() if each.at is None else each.at
        sizes = [number & 0xFFFFFFFF for number in (each.checksum, each.packed, each.size)]
        local = each.name if each.local_name is None else each.local_name
        fields = (each.version, each.flags, each.method, 0, 33, *sizes)
        out.write(b'PK\x03\x04' + struct.pack('<5H3I2H', *fields, len(local), 0) + local + each.content)
        lengths = (len(each.name), len(each.extra), len(each.comment), 0, 0, 0, place & 0xFFFFFFFF)
        directory.write(b'PK\x01\x02' + struct.pack('<6H3I5H2I', 20, *fields, *lengths))
        directory.write(each.name + each.extra + each.comment)
    number = len(entries) if count is None else count
    end = struct.pack('<4H2IH', 0, 0, number, number, directory.tell(), out.tell(), len(comment))
    return out.getvalue() + directory.getvalue() + b'PK\x05\x06' + end + comment


def mutate(content: bytes, storage: bytes, generator: random.Random) -> bytes:
    """An archive of a pickle and its storage with one or two fields wrong, or oddly packed."""
    method = generator.choice((STORED, STORED, DEFLATED, BZIP2, LZMA))
    entries = [entry('a/data.pkl', content, method), entry('a/data/0', storage), entry('a/byteorder', b'little')]
    for _ in range(generator.choice((1, 1, 2))):
        generator.choice(_ACTIONS)(entries, generator)
    comment = generator.choice((b'', b'', b'PK\x05\x06' * 6, b'c' * 65535))
    return build(entries, comment=comment, count=generator.choice((None, None, None, 0, 1, 65535)))


def _pick(entries: list[Entry], generator: random.Random) -> Entry:
    return generator.choice(entries)


def _size(entries: list[Entry], generator: random.Random) -> None:
    each = _pick(entries, generator)
    each.size = generator.choice((0, 1, each.size - 1, each.size + 1, 2 * each.size, 0x7FFFFFFF, 0xFFFFFFFF))


def _packed(entries: list[Entry], generator: random.Random) -> None:
    each = _pick(entries, generator)
    each.packed = generator.choice((0, 1, each.packed - 1, each.packed + 1, 0x7FFFFFFF, 0xFFFFFFFF))


def _checksum(entries: list[Entry], generator: random.Random) -> None:
    _pick(entries, generator).checksum ^= 1 << generator.randrange(32)


def _name(entries: list[Entry], generator: random.Random) -> None:
    names = (
        'a/data.pkl',
        'b/data.pkl',
        '../data.pkl',
        '/data.pkl',
        'a/data/../0',
        'a/data/1',
        'x' * 5000,
        '',
        'a\x00b',
        'a\nb',
    )
    each = _pick(entries, generator)
    each.name = generator.choice(names).encode()
    each.local_name = generator.choice((None, b'', b'other'))


def _flags(entries: list[Entry], generator: random.Random) -> None:
    _pick(entries, generator).flags = generator.choice((1, 8, 0x20, 0x40, 0x800, 0x2000, 0xFFFF, 0x801))


def _method(entries: list[Entry], generator: random.Random) -> None:
    _pick(entries, generator).method = generator.choice((STORED, DEFLATED, BZIP2, LZMA, 1, 9, 93, 99, 65535))


def _version(entries: list[Entry], generator: random.Random) -> None:
    _pick(entries, generator).version = generator.choice((0, 45, 63, 64, 255, 65535))


def _place(entries: list[Entry], generator: random.Random) -> None:
    _pick(entries, generator).at = generator.choice((0, 1, 30, 0x7FFFFFFF, 0xFFFFFFFF))


def _extra(entries: list[Entry], generator: random.Random) -> None:
    """A zip64 field, whole or cut, or something else in its place."""
    each = _pick(entries, generator)
    sizes = struct.pack('<3Q', *generator.choices((0, each.size, 1 << 40, 1 << 63), k=3))
    each.extra = generator.choice((b'', b'\x01\x00')) + struct.pack('<H', generator.choice((0, 8, 24, 65535))) + sizes
    if generator.random() < 0.7:
        each.size, each.extra = 0xFFFFFFFF, b'\x01\x00\x18\x00' + sizes[: generator.choice((8, 24))]


def _twice(entries: list[Entry], generator: random.Random) -> None:
    entries.insert(generator.randrange(len(entries) + 1), dataclasses.replace(_pick(entries, generator)))


def _without(entries: list[Entry], generator: random.Random) -> None:
    entries.remove(_pick(entries, generator))
    entries.extend([] if entries else [entry('a/data.pkl', b'N.')])


def _bomb(entries: list[Entry], generator: random.Random) -> None:
    """Zeros that unpack to far more than the file; half of the time the header says that they do not."""
    method = generator.choice((DEFLATED, BZIP2, LZMA))
    packed = entry(generator.choice(('a/data/0', 'a/data.pkl')), bytes(generator.choice((10_000, 3_000_000))), method)
    if generator.random() < 0.5:
        packed.size, packed.checksum = 100, zlib.crc32(bytes(100))
    entries[:] = [packed, *(each for each in entries if each.name != packed.name)]


def _many(entries: list[Entry], generator: random.Random) -> None:
    entries += [entry(f'a/data/{index}', b'') for index in range(generator.choice((10, 1000)))]


def _byteorder(entries: list[Entry], generator: random.Random) -> None:
    entries[-1] = entry('a/byteorder', generator.choice((b'big', b'', b'little\n', b'\xff' * 100)))


def _comment(entries: list[Entry], generator: random.Random) -> None:
    _pick(entries, generator).comment = generator.choice((b'\xff' * 1000, b'PK\x01\x02' * 50))


_ACTIONS: tuple[Callable[[list[Entry], random.Random], None], ...] = (
    *(_size, _packed, _checksum, _name, _flags, _method, _version, _place, _extra, _twice, _without, _bomb, _many),
    *(_byteorder, _comment),
)

assert (STORED, DEFLATED, BZIP2, LZMA) == (
    zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED,
    zipfile.ZIP_BZIP2,
    zipfile.ZIP_LZMA,
)
