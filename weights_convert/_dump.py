"""Writes plain data as a pickle: what `_pickle` reads, and the same meaning when PyTorch loads it.

Values that are one object stay one object. The values to write stand on a stack of their own, so that no nesting is too
deep; time and memory are linear in the data.
"""

import dataclasses
import io
import pickletools
import struct
from collections.abc import Callable, Iterator
from typing import Any

from weights_convert._errors import ConversionError
from weights_convert._pickle import EXPECTED_CALLS
from weights_convert._plain import Global, Mapping, Object, Size, Storage, show

_CODES = {opcode.name: opcode.code.encode('latin-1') for opcode in pickletools.opcodes}
_PROTOCOL = 2
_SHORT_TUPLES = ('TUPLE1', 'TUPLE2', 'TUPLE3')
_SINGLE = {None: 'NONE', True: 'NEWTRUE', False: 'NEWFALSE'}
_SIZE = Global('torch.Size', 'torch')
_REBUILDING = frozenset(name for name in EXPECTED_CALLS if name.startswith('torch._utils._rebuild_'))
_HARMLESS = frozenset({'pathlib.Path', 'pathlib.PosixPath', 'pathlib.WindowsPath'})


@dataclasses.dataclass(frozen=True)
class Dumped:
    """A pickle, and the storages that it refers to: the key of each is its place in the list."""

    content: bytes
    storages: tuple[Storage, ...]


def dump(value: Any) -> Dumped:
    """The pickle (protocol 2, as PyTorch writes it) of plain data.

    Raises:
      ConversionError: the data calls a function that no checkpoint needs, or an object is part of what it is made from.
    """
    writer = _Writer()
    writer.code('PROTO', bytes([_PROTOCOL]))
    pending = [iter((value,))]
    while pending:
        child = next(pending[-1], _END)
        if child is _END:
            pending.pop()
        else:
            pending.append(writer.save(child))
    writer.code('STOP')
    return Dumped(writer.out.getvalue(), tuple(writer.storages))


_END = object()


class _Writer:
    """Output and memo; a `save` writes and yields the parts that have to be written in between."""

    def __init__(self) -> None:
        self.out = io.BytesIO()
        self.storages: dict[Storage, int] = {}
        self.memo: dict[Any, int] = {}
        self.open: set[int] = set()
        self.alive: list[Any] = []  # an address in the memo must not be given to another object

    def code(self, name: str, operand: bytes = b'') -> None:
        self.out.write(_CODES[name] + operand)

    def save(self, value: Any) -> Iterator[Any]:
        """Writes a value; yields the values within it, each to be written before it goes on."""
        place = self.memo.get(_identity(value))
        if place is not None:
            self.code('BINGET', bytes([place])) if place < 256 else self.code('LONG_BINGET', struct.pack('<I', place))
            return iter(())
        if value is None or isinstance(value, bool):
            self.code(_SINGLE[value])
            return iter(())
        if type(value) not in _SAVERS:
            raise ConversionError(f'a value of type {show(value)} cannot be written')
        return _SAVERS[type(value)](self, value)

    def remember(self, value: Any) -> None:
        place = len(self.memo)
        self.memo[_identity(value)] = place
        self.alive.append(value)
        self.code('BINPUT', bytes([place])) if place < 256 else self.code('LONG_BINPUT', struct.pack('<I', place))

    def enter(self, value: Any) -> None:
        """Notes that a value is being written that cannot be referred to before it is complete."""
        if id(value) in self.open:
            raise ConversionError(f'a {show(value)} in it is made from itself')
        self.open.add(id(value))


def _identity(value: Any) -> Any:
    """What stands for a value in the memo: texts and names themselves, of all else the address."""
    if isinstance(value, Global):
        return value.module, value.name
    return value if type(value) is str else id(value)


def _integer(writer: _Writer, value: int) -> Iterator[Any]:
    if 0 <= value < 1 << 8:
        writer.code('BININT1', struct.pack('<B', value))
    elif 0 <= value < 1 << 16:
        writer.code('BININT2', struct.pack('<H', value))
    elif -1 << 31 <= value < 1 << 31:
        writer.code('BININT', struct.pack('<i', value))
    else:
        content = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
        short = len(content) < 1 << 8
        writer.code('LONG1' if short else 'LONG4', struct.pack('<B' if short else '<i', len(content)) + content)
        writer.remember(value)
    return iter(())


def _float(writer: _Writer, value: float) -> Iterator[Any]:
    writer.code('BINFLOAT', struct.pack('>d', value))
    return iter(())


def _text(writer: _Writer, value: str) -> Iterator[Any]:
    content = value.encode('utf-8', 'surrogatepass')
    writer.code('BINUNICODE', struct.pack('<I', len(content)) + content)
    writer.remember(value)
    return iter(())


def _bytes(writer: _Writer, value: bytes) -> Iterator[Any]:
    writer.code('BINBYTES', struct.pack('<I', len(value)) + value)
    writer.remember(value)
    return iter(())


def _global(writer: _Writer, value: Global) -> Iterator[Any]:
    name = value.name.removeprefix(f'{value.module}.')
    if '\n' in value.name:
        raise ConversionError(f'{value.name!r:.60} is not the name of a class')
    writer.code('GLOBAL', f'{value.module}\n{name}\n'.encode())
    writer.remember(value)
    return iter(())


def _tuple(writer: _Writer, value: tuple[Any, ...]) -> Iterator[Any]:
    if not value:
        writer.code('EMPTY_TUPLE')
        return
    writer.enter(value)
    if len(value) > len(_SHORT_TUPLES):
        writer.code('MARK')
    yield from value
    writer.code(_SHORT_TUPLES[len(value) - 1] if len(value) <= len(_SHORT_TUPLES) else 'TUPLE')
    writer.remember(value)


def _size(writer: _Writer, value: Size) -> Iterator[Any]:
    yield _SIZE
    yield ([*value],)
    writer.code('REDUCE')
    writer.remember(value)


def _list(writer: _Writer, value: list[Any]) -> Iterator[Any]:
    writer.code('EMPTY_LIST')
    writer.remember(value)
    yield from _items(writer, 'APPENDS', value)


def _dictionary(writer: _Writer, value: dict[Any, Any]) -> Iterator[Any]:
    writer.code('EMPTY_DICT')
    writer.remember(value)
    yield from _entries(writer, value)


def _mapping(writer: _Writer, value: Mapping) -> Iterator[Any]:
    writer.enter(value)
    yield value.maker
    yield value.arguments
    writer.code(value.opcode)
    writer.remember(value)
    yield from _entries(writer, value)
    yield from _edits(writer, value.edits)


def _object(writer: _Writer, value: Object) -> Iterator[Any]:
    if value.opcode == 'REDUCE' and value.maker:
        _check_call(value.maker, value.arguments)
    writer.enter(value)
    yield value.maker
    yield value.arguments
    if value.opcode == 'NEWOBJ_EX':
        yield value.keywords
    writer.code(value.opcode)
    writer.remember(value)
    yield from _edits(writer, value.edits)


def _check_call(function: Global, arguments: tuple[Any, ...]) -> None:
    """Raises `ConversionError` for a call that no checkpoint needs; so PyTorch calls nothing because of this writer."""
    first, second = (getattr(argument, 'name', None) for argument in (*arguments, None, None)[:2])
    match function.name:
        case 'copyreg._reconstructor':  # makes an object by calling its second argument
            fine = second == 'builtins.object'
        case 'torch._tensor._rebuild_from_type_v2':  # calls its first argument
            fine = first in _REBUILDING
        case name:
            fine = name in EXPECTED_CALLS or name in _HARMLESS
    if not fine:
        raise ConversionError(f'it calls {function.name}, which no checkpoint needs, and is not passed on')


def _entries(writer: _Writer, entries: dict[Any, Any]) -> Iterator[Any]:
    return _items(writer, 'SETITEMS', [part for entry in entries.items() for part in entry])


def _items(writer: _Writer, opcode: str, items: list[Any]) -> Iterator[Any]:
    if items:
        writer.code('MARK')
        yield from items
        writer.code(opcode)


def _edits(writer: _Writer, edits: list[tuple[str, Any]]) -> Iterator[Any]:
    for opcode, operand in edits:
        if opcode == 'BUILD':
            yield operand
            writer.code('BUILD')
        else:
            yield from _items(writer, opcode, operand)


def _storage(writer: _Writer, value: Storage) -> Iterator[Any]:
    """By its place among those written, on the processor's memory wherever it was."""
    key = writer.storages.setdefault(value, len(writer.storages))
    kind = Global(value.type_name, value.type_name.rpartition('.')[0])
    writer.code('MARK')
    yield from ('storage', kind, str(key), 'cpu', value.size)
    writer.code('TUPLE')
    writer.code('BINPERSID')


_SAVERS: dict[type, Callable[[_Writer, Any], Iterator[Any]]] = {
    int: _integer,
    float: _float,
    str: _text,
    bytes: _bytes,
    tuple: _tuple,
    Size: _size,
    list: _list,
    dict: _dictionary,
    Global: _global,
    Mapping: _mapping,
    Object: _object,
    Storage: _storage,
}
