"""Between which axes a reshape moves elements."""

from collections.abc import Iterator, Sequence

Block = tuple[range, range]
"""Operand axes and result axes that hold the same elements in the same order."""


def reshape_blocks(sizes: Sequence[int], targets: Sequence[int]) -> Iterator[Block]:
    """Smallest runs of axes with as many elements on both sides, which may be none.

    Axes of one size are paired from the right, so that channels meet channels, then from the left. Where some axis is
    empty, all others are one block: there is nothing to move.

    Args:
      sizes: of the operand's axes.
      targets: of the result's axes.
    """
    i, j, start = len(sizes), len(targets), 0
    while i and j and sizes[i - 1] == targets[j - 1]:
        i, j = i - 1, j - 1
        yield range(i, i + 1), range(j, j + 1)
    while start < min(i, j) and sizes[start] == targets[start]:
        yield range(start, start + 1), range(start, start + 1)
        start += 1
    while i > start and j > start and 0 not in sizes:
        left, right = i - 1, j - 1
        before, after = sizes[left], targets[right]
        while before != after:
            if before < after:
                left -= 1
                before *= sizes[left]
            else:
                right -= 1
                after *= targets[right]
        yield range(left, i), range(right, j)
        i, j = left, right
    if i > start or j > start:
        yield range(start, i), range(start, j)
