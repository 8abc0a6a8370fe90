"""Changes of a pickle's opcodes and their arguments: what comes out is mostly a pickle still."""

import dataclasses
import functools
import pickletools
import random
import struct
from collections.abc import Callable

from fuzz.emit import STOP, integer, named, text
from fuzz.snippets import CLASSES, INTEGERS, LARGE, NAMES, TEXTS, snippet

_CONSTANTS = (
    'INT',
    'BININT',
    'BININT1',
    'BININT2',
    'LONG',
    'LONG1',
    'LONG4',
    'FLOAT',
    'BINFLOAT',
    'BINUNICODE',
    'GLOBAL',
)
_PUSHES = frozenset(
    {*_CONSTANTS, 'NONE', 'NEWTRUE', 'NEWFALSE', 'EMPTY_DICT', 'EMPTY_LIST', 'EMPTY_TUPLE', 'BINGET', 'LONG_BINGET'}
)
_MEMO = {'BINGET': b'h', 'BINPUT': b'q', 'LONG_BINGET': b'j', 'LONG_BINPUT': b'r'}


@dataclasses.dataclass(frozen=True)
class Opcode:
    """One opcode of a pickle, its argument, and its bytes."""

    name: str
    argument: object
    content: bytes


Pickle = list[Opcode]


@functools.lru_cache(maxsize=64)
def _parsed(content: bytes) -> tuple[Opcode, ...]:
    found = list(pickletools.genops(content))
    ends = [position for *_, position in found[1:]] + [len(content)]
    return tuple(
        Opcode(opcode.name, argument, content[start:end])
        for (opcode, argument, start), end in zip(found, ends, strict=True)
    )


def mutate(content: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """A copy of a pickle with one to five changes of its opcodes; `others` are pickles from which parts are taken."""
    pickle = list(_parsed(content))
    other = list(_parsed(generator.choice(others)))
    for _ in range(generator.choice((1, 1, 1, 1, 2, 5))):
        action = generator.choices(_ACTIONS, _WEIGHTS)[0]
        action(pickle, other, generator)
        if not pickle:
            break
    return b''.join(opcode.content for opcode in pickle)


def _raw(content: bytes) -> Opcode:
    return Opcode('', None, content)


def _delete(pickle: Pickle, _: Pickle, generator: random.Random) -> None:
    start = generator.randrange(len(pickle))
    del pickle[start : start + generator.choice((1, 1, 2, 9))]


def _double(pickle: Pickle, _: Pickle, generator: random.Random) -> None:
    start = generator.randrange(len(pickle))
    pickle[start:start] = pickle[start : start + generator.choice((1, 1, 2, 20))] * generator.choice((1, 1, 2, 30))


def _swap(pickle: Pickle, _: Pickle, generator: random.Random) -> None:
    here, there = generator.randrange(len(pickle)), generator.randrange(len(pickle))
    pickle[here], pickle[there] = pickle[there], pickle[here]


def _take(pickle: Pickle, other: Pickle, generator: random.Random) -> None:
    start, here = generator.randrange(len(other)), generator.randrange(len(pickle))
    part = other[start : start + generator.choice((1, 1, 4, 40))]
    pickle[here : here + generator.choice((0, 1, len(part)))] = part


def _any_opcode(pickle: Pickle, _: Pickle, generator: random.Random) -> None:
    opcode = generator.choice(pickletools.opcodes)
    operand = generator.choice(
        (b'', b'', b'\x00', b'\x01\x00\x00\x00', b'\xff' * 8, b'1\n', b"'a'\n", b'a\nb\n', b'\x03abc')
    )
    here = generator.randrange(len(pickle))
    pickle[here : here + generator.randrange(2)] = [_raw(opcode.code.encode('latin-1') + operand)]


def _argument(pickle: Pickle, _: Pickle, generator: random.Random) -> None:
    """Another argument of the same type for a constant, or another place in the memo."""
    places = [place for place, opcode in enumerate(pickle) if opcode.name in _CONSTANTS or opcode.name in _MEMO]
    if not places:
        return
    here = generator.choice(places)
    opcode = pickle[here]
    if opcode.name in _MEMO:
        known = [other.argument for other in pickle if other.name in _MEMO]
        index = int(generator.choice(known))  # type: ignore[call-overload]
        changed = _MEMO[opcode.name] + (bytes([index & 255]) if 'LONG' not in opcode.name else struct.pack('<I', index))
    elif isinstance(opcode.argument, int):
        changed = integer(_integer(opcode.argument, generator))
    elif isinstance(opcode.argument, float):
        changed = b'G' + struct.pack('>d', generator.choice((0.0, -1.0, 1e300, 1e-300, float('nan'), float('inf'))))
    elif opcode.name == 'GLOBAL':
        changed = named(generator.choice(CLASSES))
    else:
        changed = text(generator.choice(NAMES) if generator.random() < 0.7 else generator.choice(TEXTS))
    pickle[here] = dataclasses.replace(opcode, content=changed)


def _integer(before: int, generator: random.Random) -> int:
    nearby = (before + 1, before - 1, -before, before * 2, before * before)
    return generator.choice(generator.choice((nearby, INTEGERS, INTEGERS, LARGE)))


def _value(pickle: Pickle, _: Pickle, generator: random.Random) -> None:
    """Something quite different in place of a value, so that the stack stays as deep as it was."""
    places = [place for place, opcode in enumerate(pickle) if opcode.name in _PUSHES]
    if places:
        pickle[generator.choice(places)] = _raw(snippet(generator))


def _insert(pickle: Pickle, _: Pickle, generator: random.Random) -> None:
    """Another entry at the beginning of a dictionary or list that is about to be filled."""
    places = [place + 1 for place, opcode in enumerate(pickle) if opcode.name == 'MARK']
    if places:
        name = text(generator.choice(NAMES)) if generator.random() < 0.8 else snippet(generator)
        pickle.insert(generator.choice(places), _raw(name + snippet(generator)))


def _tensor(pickle: Pickle, _: Pickle, generator: random.Random) -> None:
    """Another shape, offset or strides: the numbers between a storage and the call that makes a tensor of it."""
    places = [place for place, opcode in enumerate(pickle) if opcode.name == 'BINPERSID']
    if not places:
        return
    start = generator.choice(places)
    numbers = [p for p in range(start, min(len(pickle), start + 20)) if isinstance(pickle[p].argument, int)]
    for place in generator.sample(numbers, min(len(numbers), generator.choice((1, 1, 2, 8)))):
        value = pickle[place].argument
        assert isinstance(value, int)
        pickle[place] = _raw(integer(_integer(value, generator)))


def _stop(pickle: Pickle, _: Pickle, generator: random.Random) -> None:
    """An earlier end, or something after it."""
    pickle.insert(generator.randrange(len(pickle)), _raw(STOP)) if generator.random() < 0.5 else pickle.append(
        _raw(b'N.')
    )


_ACTIONS: tuple[Callable[[Pickle, Pickle, random.Random], None], ...] = (
    *(_delete, _double, _swap, _take, _any_opcode, _argument, _value, _insert, _tensor, _stop),
)
_WEIGHTS = (1, 1, 1, 2, 1, 14, 10, 5, 6, 1)
