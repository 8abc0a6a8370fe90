"""How much memory the values of a chain take, and how a batch is split so that they stay within a limit."""

import math
import resource
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.errors import UserError
from jaxprune.sensitivity._chain import Chain, Place

SAMPLE_BYTES = 256 << 20
"""Most memory for what is kept of candidates that go together: with very many images these are fewer."""

RESERVE, LEAST_RESERVE = 0.1, 256 << 20
"""Share of a limit, and least bytes, left for compiling and for what programs need inside."""

Again = Sequence[Sequence[int]]
"""For every candidate, the parts that it computes again."""


def value_bytes(chain: Chain, again: Again, *, at_once: int) -> int:
    """Most bytes of values at a time while a batch goes through the unpruned model and then the candidates.

    Args:
      chain: for the shape of the batch.
      again: of the candidates, which share one pass of the unpruned model.
      at_once: how many of them are computed at a time.
    """
    kept = chain.results.union(*map(chain.needed, again))
    made = {place for part in chain.parts for place in part.writes}
    held = _bytes(chain, kept & made)
    unpruned = _peak(chain, range(len(chain.parts)), kept)
    candidate = max((_peak(chain, numbers, chain.results) for numbers in again), default=0)
    return max(unpruned, held + at_once * candidate) + sum(_bytes(chain, [place]) for place in chain.inputs)


def split(chain: Chain, again: Again, limit: int, *, rows: int, devices: int, at_once: int) -> tuple[int, int]:
    """How many rows of a batch, and how many candidates, can go together.

    Fewer rows come first, as they cost little; fewer candidates mean more passes of the unpruned model.

    Args:
      chain: for the whole batch.
      again: of all candidates.
      limit: most bytes of values on a device.
      rows: of the batch.
      devices: over which they are spread.
      at_once: candidates that are computed at a time.

    Raises:
      UserError: where even a row per device and one candidate are too much.
    """
    divisors = [part for part in range(rows, 0, -1) if rows % part == 0 and (part % devices == 0 or rows % devices)]

    def needed(size: int, part: int) -> float:
        groups = (again[start : start + size] for start in range(0, len(again), size))
        return max(value_bytes(chain, group, at_once=min(at_once, size)) for group in groups) * part / rows / devices

    whole = needed(len(again), rows)
    for part in divisors:
        if whole * part / rows <= limit:
            return part, len(again)
    size = len(again)
    while (least := needed(size, divisors[-1])) > limit and size > 1:
        size = -(-size // 2)
    if least <= limit:
        return divisors[-1], size
    raise UserError(
        f'{limit / 1e6:.1f} MB of memory are left for activations, and one image needs {least / 1e6:.1f} MB: '
        'raise the limit, or scan smaller images'
    )


def _peak(chain: Chain, numbers: Sequence[int], kept: Iterable[Place]) -> int:
    """Most bytes of what these parts compute, one after the other, with what is dead freed."""
    live = most = 0
    for number, gone in zip(numbers, chain.freed(numbers, kept), strict=True):
        live += _bytes(chain, chain.parts[number].writes)
        most = max(most, live)
        live -= _bytes(chain, gone)
    return most


def _bytes(chain: Chain, places: Iterable[Place]) -> int:
    shapes = (chain.shapes[place] for place in places)
    return sum(int(np.prod(shape.shape)) * shape.dtype.itemsize for shape in shapes)


def checked_memory(memory: float | None) -> int | None:
    """A limit as a whole number of bytes; `UserError` for what is no number above 0."""
    if memory is not None and not 0 < memory < math.inf:
        raise UserError(f'a limit of {memory / 1e9:g} GB of memory: give a number above 0')
    return None if memory is None else int(memory)


def sample_bytes(memory: int | None) -> int:
    """As much under a limit."""
    return SAMPLE_BYTES if memory is None else min(SAMPLE_BYTES, memory // 16)


def value_limit(memory: int | None, variables: Any, device: jax.Device) -> int | None:
    """What is left of a limit for the values of a batch: beside the weights or, on a CPU, beside the whole process."""
    if memory is None:
        return None
    if device.platform == 'cpu':
        taken = resident() + 2 * sample_bytes(memory)
        what = f'the process holds {resident() / 1e9:.2f} GB'
    else:
        taken = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
        what = f'the weights take {taken / 1e9:.2f} GB'
    taken += int(max(RESERVE * memory, LEAST_RESERVE))
    if not taken < memory:
        raise UserError(
            f'a limit of {memory / 1e9:.2f} GB of memory is too low: {what}; give more than {taken / 1e9:.2f} GB'
        )
    return memory - taken


def resident() -> int:
    """Largest memory that the process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
