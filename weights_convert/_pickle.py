"""Reads a pickle as plain data: nothing is imported, nothing is called.

`pickletools.genops` takes the bytes apart into opcodes; the machine below carries out those of its table, which is an
allow-list. A class or function that the pickle names is a `Global`, a name and no more. An object that the pickle would
have had made, by whatever call, is an `Object`: the name of its class or function, the arguments and the attributes.
What those mean is decided by the reader of the result, by name.

Nothing is lost: `_dump` writes a pickle of the same meaning from the result.

Time and memory are linear in the number of bytes, because no opcode here copies what already stands in the memo.
"""

import dataclasses
import pickletools
import re
import warnings
from collections.abc import Callable
from typing import IO, Any

from weights_convert._errors import ConversionError
from weights_convert._plain import Global, Mapping, Object, Size, Storage

_RENAMED = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}
_MAX_AXES = 64
_LARGEST_STORAGE = 1 << 48  # elements
_PAIR, _BITS_IN_A_PAIR = 2, 31
_NAME = re.compile(r'[\w.<>]{1,200}')
_SET = Global('builtins.set', 'builtins')
_FROZENSET = Global('builtins.frozenset', 'builtins')
_MAPPINGS = frozenset({'collections.OrderedDict', 'collections.defaultdict', 'builtins.dict'})
EXPECTED_CALLS = frozenset(
    {
        'builtins.getattr',
        'builtins.frozenset',
        'builtins.set',
        '_codecs.encode',
        'numpy.dtype',
        'numpy._core.multiarray._reconstruct',
        'numpy._core.multiarray.scalar',
        'numpy.core.multiarray._reconstruct',
        'numpy.core.multiarray.scalar',
        'torch.device',
        'torch._dynamo.eval_frame.OptimizeContext',
        'torch._dynamo.eval_frame.OptimizedModule',
        'torch._utils._rebuild_tensor',
        'torch._utils._rebuild_tensor_v2',
        'torch._utils._rebuild_parameter',
        'torch._utils._rebuild_parameter_with_state',
        'torch._tensor._rebuild_from_type_v2',
    }
)


@dataclasses.dataclass(frozen=True, eq=False)
class Unpickled:
    """The value that a pickle stands for.

    Attributes:
      value: plain data.
      storages: by key; in the order in which the pickle mentions them.
      unexpected_calls: functions that the pickle asks for and no checkpoint needs; none was called.
    """

    value: Any
    storages: dict[str, Storage]
    unexpected_calls: tuple[str, ...]


def unpickle(file: IO[bytes]) -> Unpickled:
    """Reads one pickle from `file`, and leaves the position behind it.

    Raises:
      ConversionError: the bytes are no pickle, end early or use an opcode that is not on the list.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings(action='ignore'):  # odd escapes in texts
            _run(machine, file)
        return Unpickled(machine.stack.pop(), machine.storages, tuple(sorted(machine.unexpected_calls)))
    except ConversionError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ConversionError('the pickle in it is truncated or damaged') from error


def _run(machine: '_Machine', file: IO[bytes]) -> None:
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name in _CONSTANTS:
            machine.stack.append(argument)
        elif opcode.name in _ACTIONS:
            _ACTIONS[opcode.name](machine, argument)
        elif opcode.name not in _NO_EFFECT:
            raise ConversionError(f'pickle opcode {opcode.name} at byte {position} is not one that checkpoints use')


class _Machine:
    """Stack, marks and memo of the pickle machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.unexpected_calls: set[str] = set()

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError(count)
        del self.stack[-count:]
        return items


def _push(machine: _Machine, value: Any) -> None:
    """On the stack as it is once the value has been made, which may take all above a mark."""
    machine.stack.append(value)


def _set_items(machine: _Machine, items: list[Any]) -> None:
    """Entries of a dictionary; those of an `Object` (a subclass of dict) say nothing about a network, and are noted."""
    target = machine.stack[-1]
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value
    else:
        _note(target, 'SETITEMS', items)


def _append(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(items)
    else:
        _note(target, 'APPENDS', items)


def _add_items(machine: _Machine, items: list[Any]) -> None:
    _note(machine.stack[-1], 'ADDITEMS', items)


def _note(target: Any, opcode: str, operand: Any) -> None:
    if not isinstance(target, Object | Mapping):
        raise TypeError('not an object')
    target.edits.append((opcode, operand))


def _key(key: Any) -> Any:
    """A key whose hash takes constant time and is hard to hit with another key: a plain value or a pair of such.

    Objects are keys by identity. In a pair, numbers are small and whole, since those of others can be made to collide.
    """
    pair = isinstance(key, tuple) and len(key) == _PAIR
    for part in key if pair else (key,):
        if not isinstance(part, str | int | float | bytes | Global | Object | Storage | None):
            raise TypeError('not a plain key')
        if pair and isinstance(part, float):
            raise TypeError('not a whole number')
        if isinstance(part, int) and part.bit_length() > (_BITS_IN_A_PAIR if pair else 64):
            raise ValueError('too large a key')
    return key


def _global(machine: _Machine, module: Any, name: Any) -> None:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise TypeError('not a name')
    if not (_NAME.fullmatch(module) and _NAME.fullmatch(name)):
        raise ValueError('not a name that can be shown')
    home = _RENAMED.get(module, module)
    machine.stack.append(Global(f'{home}.{name}', home))


def _new(machine: _Machine, count: int) -> None:
    """`cls.__new__(cls, *args)`: with keyword arguments where `count` is 3, which no module has."""
    cls, arguments, *keywords = machine.pop(count)
    if not isinstance(cls, Global) or not isinstance(arguments, tuple):
        raise TypeError('not a class')
    if cls.name in _MAPPINGS and not keywords:
        machine.stack.append(Mapping(cls, arguments, 'NEWOBJ'))
    else:
        machine.stack.append(_object(cls, arguments, 'NEWOBJ_EX' if keywords else 'NEWOBJ', *keywords))


def _object(maker: Global, arguments: tuple[Any, ...], opcode: str = 'REDUCE', keywords: Any = None) -> Object:
    return Object(maker.name, arguments, maker=maker, opcode=opcode, keywords=keywords)


def _reduce(machine: _Machine) -> None:
    """`function(*arguments)`, recorded and not done; only the plain containers become what they are."""
    function, arguments = machine.pop(2)
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise TypeError('not a function')
    if function.name in _MAPPINGS:
        machine.stack.append(_mapping(function, arguments))
    elif function.name == 'torch.Size':
        machine.stack.append(_size(*arguments))
    elif function.name == 'copyreg._reconstructor':
        machine.stack.append(Object(arguments[0].name, arguments, maker=function))
    else:
        if function.name not in EXPECTED_CALLS:
            machine.unexpected_calls.add(function.name)
        machine.stack.append(_object(function, arguments))


def _mapping(function: Global, arguments: tuple[Any, ...]) -> Mapping:
    """An ordered dictionary; its pairs, where they stand in the call as Python 2 wrote them, are moved, not copied."""
    entries = Mapping(function, arguments)
    pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
    for key, value in pairs:
        entries[_key(key)] = value
    pairs.clear()
    return entries


def _size(lengths: Any) -> Size:
    if not isinstance(lengths, tuple | list) or len(lengths) > _MAX_AXES:  # it is copied
        raise TypeError('not a size')
    return Size(lengths)


def _build(machine: _Machine) -> None:
    """Sets attributes. Extra ones of a dictionary (`_metadata` of a state_dict) are of no use here."""
    state = machine.stack.pop()
    target = machine.stack[-1]
    _note(target, 'BUILD', state)
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
        state = state[0]
    if isinstance(target, Object) and isinstance(state, dict):
        target.attributes = state


def _persistent(machine: _Machine) -> None:
    """A reference out of the pickle: ('storage', type, key, device, elements, …), or a module's class in old files."""
    reference = machine.stack.pop()
    if reference[0] == 'module':
        machine.stack.append(reference[1])
        return
    kind, storage_type, key, _, size = reference[:5]
    if kind != 'storage' or not isinstance(key, str) or type(size) is not int or not 0 <= size < _LARGEST_STORAGE:
        raise TypeError('not a storage')
    storage = machine.storages.setdefault(key, Storage(storage_type.name, key, size))
    view = reference[5] if len(reference) > 5 else None
    machine.stack.append(storage if view is None else _view(storage, *view))


def _view(storage: Storage, _: Any, offset: Any, size: Any) -> Storage:
    """A part of a storage that has a key of its own, as PyTorch wrote them before 0.4."""
    if not (type(offset) is int and type(size) is int and offset >= 0 and 0 <= size <= storage.size - offset):
        raise ConversionError(f'a view in it does not fit into its storage of {storage.size} elements')
    return dataclasses.replace(storage, size=size, offset=offset)


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


_CONSTANTS = frozenset(
    {
        *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT'),
        *('UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'STRING', 'BINSTRING', 'SHORT_BINSTRING'),
        *('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8'),
    }
)
_NO_EFFECT = frozenset({'PROTO', 'FRAME', 'STOP'})
_ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    'NONE': lambda machine, _: machine.stack.append(None),
    'NEWTRUE': lambda machine, _: machine.stack.append(True),
    'NEWFALSE': lambda machine, _: machine.stack.append(False),
    'MARK': lambda machine, _: machine.mark(),
    'POP': lambda machine, _: machine.stack.pop(),
    'POP_MARK': lambda machine, _: machine.pop_mark(),
    'DUP': lambda machine, _: machine.stack.append(machine.stack[-1]),
    'EMPTY_LIST': lambda machine, _: machine.stack.append([]),
    'EMPTY_DICT': lambda machine, _: machine.stack.append({}),
    'EMPTY_TUPLE': lambda machine, _: machine.stack.append(()),
    'EMPTY_SET': lambda machine, _: machine.stack.append(_object(_SET, ())),
    'FROZENSET': lambda machine, _: _push(machine, _object(_FROZENSET, (machine.pop_mark(),))),
    'TUPLE': lambda machine, _: _push(machine, tuple(machine.pop_mark())),
    'TUPLE1': lambda machine, _: _push(machine, tuple(machine.pop(1))),
    'TUPLE2': lambda machine, _: _push(machine, tuple(machine.pop(2))),
    'TUPLE3': lambda machine, _: _push(machine, tuple(machine.pop(3))),
    'LIST': lambda machine, _: _push(machine, machine.pop_mark()),
    'APPEND': lambda machine, _: _append(machine, machine.pop(1)),
    'APPENDS': lambda machine, _: _append(machine, machine.pop_mark()),
    'ADDITEMS': lambda machine, _: _add_items(machine, machine.pop_mark()),
    'SETITEM': lambda machine, _: _set_items(machine, machine.pop(2)),
    'SETITEMS': lambda machine, _: _set_items(machine, machine.pop_mark()),
    'GET': lambda machine, index: machine.stack.append(machine.memo[index]),
    'BINGET': lambda machine, index: machine.stack.append(machine.memo[index]),
    'LONG_BINGET': lambda machine, index: machine.stack.append(machine.memo[index]),
    'PUT': _put,
    'BINPUT': _put,
    'LONG_BINPUT': _put,
    'MEMOIZE': lambda machine, _: _put(machine, len(machine.memo)),
    'GLOBAL': lambda machine, name: _global(machine, *name.rsplit(' ', 1)),
    'STACK_GLOBAL': lambda machine, _: _global(machine, *machine.pop(2)),
    'NEWOBJ': lambda machine, _: _new(machine, 2),
    'NEWOBJ_EX': lambda machine, _: _new(machine, 3),
    'REDUCE': lambda machine, _: _reduce(machine),
    'BUILD': lambda machine, _: _build(machine),
    'BINPERSID': lambda machine, _: _persistent(machine),
}
