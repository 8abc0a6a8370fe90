"""Writes trees of plain data as the pickles and archives that PyTorch would write, and as ones that it never would."""

import dataclasses
import io
import struct
import zipfile
from typing import Any

PROTO, STOP = b'\x80\x02', b'.'
_SHORT = (b')', b'\x85', b'\x86', b'\x87')


@dataclasses.dataclass(eq=False)
class Class:
    """A class or function by its name."""

    module: str
    name: str


@dataclasses.dataclass(eq=False)
class Call:
    """What a function makes of its arguments."""

    function: Class
    arguments: Any


@dataclasses.dataclass(eq=False)
class Instance:
    """An object: its class, and the attributes that it is given."""

    cls: Class
    state: Any


@dataclasses.dataclass(eq=False)
class Persistent:
    """A reference out of the pickle, such as to a storage."""

    reference: Any


@dataclasses.dataclass(eq=False)
class Raw:
    """Opcodes as they are."""

    content: bytes


def text(value: str) -> bytes:
    content = value.encode('utf-8', 'surrogatepass')
    return b'X' + struct.pack('<I', len(content)) + content


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b'K' + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b'J' + struct.pack('<i', value)
    content = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8b' + struct.pack('<i', len(content)) + content


def named(value: Class) -> bytes:
    if '\n' in value.module + value.name:
        return text(value.module) + text(value.name) + b'\x93'
    return b'c' + f'{value.module}\n{value.name}\n'.encode('utf-8', 'surrogatepass')


class _Emitter:
    """Objects that occur twice are written once and referred to, so that shared and endless data can be written."""

    def __init__(self) -> None:
        self.out = io.BytesIO()
        self.memo: dict[int, bytes] = {}
        self.alive: list[Any] = []
        self.open: set[int] = set()

    def emit(self, value: Any) -> None:
        if id(value) in self.memo:
            self.out.write(self.memo[id(value)])
        elif id(value) in self.open:  # made from itself, which no pickle can say
            self.out.write(b'N')
        else:
            self.open.add(id(value))
            self._emit(value)
            self.open.discard(id(value))

    def _emit(self, value: Any) -> None:
        match value:
            case None | True | False:
                self.out.write({None: b'N', True: b'\x88', False: b'\x89'}[value])
            case int():
                self.out.write(integer(value))
            case float():
                self.out.write(b'G' + struct.pack('>d', value))
            case str():
                self._remembered(value, text(value))
            case bytes():
                self.out.write(b'B' + struct.pack('<I', len(value)) + value)
            case Raw(content):
                self.out.write(content)
            case Class():
                self._remembered(value, named(value))
            case tuple():
                self._tuple(value)
            case list():
                self._remembered(value, b']')
                self._items(value, b'e')
            case dict():
                self._remembered(value, b'}')
                self._items([part for entry in value.items() for part in entry], b'u')
            case _:
                self._object(value)

    def _remembered(self, value: Any, content: bytes) -> None:
        index = struct.pack('<I', len(self.memo))
        self.memo[id(value)] = b'j' + index
        self.alive.append(value)
        self.out.write(content + b'r' + index)

    def _items(self, items: list[Any], opcode: bytes) -> None:
        if items:
            self.out.write(b'(')
            for item in items:
                self.emit(item)
            self.out.write(opcode)

    def _tuple(self, value: tuple[Any, ...]) -> None:
        self.out.write(b'(' if len(value) > 3 else b'')
        for item in value:
            self.emit(item)
        self._remembered(value, b't' if len(value) > 3 else _SHORT[len(value)])

    def _object(self, value: Any) -> None:
        match value:
            case Call(function, arguments):
                self.emit(function)
                self.emit(arguments)
                self._remembered(value, b'R')
            case Instance(cls, state):
                self.emit(cls)
                self._remembered(value, b')\x81')
                self.emit(state)
                self.out.write(b'b')
            case Persistent(reference):
                self.emit(reference)
                self._remembered(value, b'Q')
            case _:
                raise TypeError(f'{value!r}: not plain data')


def opcodes(value: Any) -> bytes:
    """The opcodes that push a value, without start and end."""
    emitter = _Emitter()
    emitter.emit(value)
    return emitter.out.getvalue()


def dumps(value: Any) -> bytes:
    """A pickle."""
    return PROTO + opcodes(value) + STOP


def archive(content: bytes, storages: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive as PyTorch writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compression) as out:
        out.writestr('a/data.pkl', content)
        out.writestr('a/byteorder', b'little')
        for key, data in storages.items():
            out.writestr(f'a/data/{key}', data)
    return buffer.getvalue()


LEGACY_START = dumps(0x1950A86A20F9469CFC6C) + dumps(1001) + dumps({'little_endian': True, 'protocol_version': 1001})


def legacy(content: bytes, storages: dict[str, bytes], *, itemsize: int = 4) -> bytes:
    """The format before PyTorch 1.6."""
    parts = [struct.pack('<q', len(data) // itemsize) + data for data in storages.values()]
    return b''.join([LEGACY_START, content, dumps(list(storages)), *parts])
