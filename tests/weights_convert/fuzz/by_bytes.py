"""Changes of bytes, whatever they mean."""

import random
from collections.abc import Sequence

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63)


def mutate(content: bytes, others: Sequence[bytes], generator: random.Random) -> bytes:
    """A copy of `content` with one to eight changes; `others` are files from which parts are taken."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 8))):
        if not changed:
            break
        _ACTIONS[generator.randrange(len(_ACTIONS))](changed, others, generator)
    return bytes(changed)


def _place(content: bytearray, generator: random.Random) -> tuple[int, int]:
    start = generator.randrange(len(content) or 1)
    return start, min(len(content), start + generator.choice((1, 1, 2, 4, 8, 30, 200)))


def _flip(content: bytearray, _: Sequence[bytes], generator: random.Random) -> None:
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)


def _replace(content: bytearray, _: Sequence[bytes], generator: random.Random) -> None:
    content[generator.randrange(len(content))] = generator.randrange(256)


def _cut(content: bytearray, _: Sequence[bytes], generator: random.Random) -> None:
    start, end = _place(content, generator)
    del content[start:end]


def _truncate(content: bytearray, _: Sequence[bytes], generator: random.Random) -> None:
    del content[generator.randrange(len(content)) :]


def _double(content: bytearray, _: Sequence[bytes], generator: random.Random) -> None:
    start, end = _place(content, generator)
    content[start:start] = content[start:end] * generator.choice((1, 1, 3, 40))


def _number(content: bytearray, _: Sequence[bytes], generator: random.Random) -> None:
    size = generator.choice((1, 2, 4, 8))
    number = generator.choice(_NUMBERS) & ((1 << 8 * size) - 1)
    start = generator.randrange(len(content))
    content[start : start + size * generator.randrange(2)] = number.to_bytes(size, generator.choice(('little', 'big')))


def _splice(content: bytearray, others: Sequence[bytes], generator: random.Random) -> None:
    other = generator.choice(others)
    start, end = _place(bytearray(other), generator)
    here = generator.randrange(len(content))
    if generator.random() < 0.3:
        content[here:] = other[start:]
    else:
        content[here : here + generator.choice((0, end - start))] = other[start:end]


_ACTIONS = (_flip, _replace, _cut, _truncate, _double, _number, _splice)
