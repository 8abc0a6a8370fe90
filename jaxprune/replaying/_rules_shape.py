"""Rules for primitives that move elements to places that are known when the program is traced."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from jaxprune.graph import reshape_blocks
from jaxprune.replaying._registry import Step, rule
from jaxprune.replaying._values import (
    Kept,
    Masks,
    NotReplayableError,
    Value,
    align,
    common,
    count,
    unless_all,
    whole,
    with_mask,
)


@rule('iota', always=True)
def iota(step: Step, operands: list[Value]) -> list[Value]:
    """Counts along one axis; along the others all is the same."""
    value = whole(step.bind(operands)[0])
    return [Value(value.array, value.kept, frozenset(range(len(value.kept))) - {step.params['dimension']})]


@rule('broadcast_in_dim', always=True)
def broadcast_in_dim(step: Step, operands: list[Value]) -> list[Value]:
    """New axes hold everything."""
    operand, places = operands[0], step.params['broadcast_dimensions']
    shape = list(step.params['shape'])
    kept: list[Kept | None] = [None] * len(shape)
    uniform = set(range(len(shape)))
    for axis, place in enumerate(places):
        if operand.sizes[axis] == shape[place] and operand.sizes[axis] != 1:
            shape[place], kept[place] = np.shape(operand.array)[axis], operand.kept[axis]
            uniform -= set() if axis in operand.uniform else {place}
    array = step.bind(operands, shape=tuple(shape))[0]
    return [Value(array, tuple(kept), frozenset(uniform))]


@rule('transpose')
def transpose(step: Step, operands: list[Value]) -> list[Value]:
    """Axes in another order."""
    return step.bind_one(operands, [operands[0].kept[axis] for axis in step.params['permutation']])


@rule('squeeze')
def squeeze(step: Step, operands: list[Value]) -> list[Value]:
    """Axes of size 1 go."""
    (operand,) = operands
    gone = {axis % len(operand.kept) for axis in step.params['dimensions']}
    if any(operand.kept[axis] is not None for axis in gone):
        raise NotReplayableError('it takes out a channel that is gone')
    return step.bind_one(operands, [mask for axis, mask in enumerate(operand.kept) if axis not in gone])


@rule('reshape')
def reshape(step: Step, operands: list[Value]) -> list[Value]:
    """Merges and splits axes; what is held must be a block of the result."""
    (operand,) = operands
    sizes = step.params['new_sizes']
    if step.params.get('dimensions') is not None:
        raise NotReplayableError('it changes the order of the axes as well')
    kept: list[Kept | None] = [None] * len(sizes)
    for before, after in reshape_blocks(operand.sizes, sizes):
        moved = _move(
            [operand.kept[axis] for axis in before],
            [operand.sizes[axis] for axis in before],
            [sizes[axis] for axis in after],
        )
        for axis, mask in zip(after, moved, strict=True):
            kept[axis] = mask
    new = tuple(count(mask, size) for mask, size in zip(kept, sizes, strict=True))
    return step.bind_one(operands, kept, new_sizes=new)


def _move(masks: Sequence[Kept | None], sizes: Sequence[int], targets: Sequence[int]) -> Masks:
    if all(mask is None for mask in masks):
        return (None,) * len(targets)
    full = [np.ones(size, bool) if mask is None else mask for mask, size in zip(masks, sizes, strict=True)]
    block: np.ndarray = functools.reduce(np.multiply.outer, full).reshape(targets)
    axes = range(len(targets))
    found = [np.asarray(block.any(tuple(other for other in axes if other != axis))) for axis in axes]
    if math.prod(int(mask.sum()) for mask in found) != int(block.sum()):
        raise NotReplayableError(f'the channels that stay of {list(sizes)} are no block of {list(targets)}')
    return tuple(unless_all(mask) for mask in found)


@rule('slice')
def slice_(step: Step, operands: list[Value]) -> list[Value]:
    """Some elements of every axis."""
    (operand,) = operands
    starts, limits = list(step.params['start_indices']), list(step.params['limit_indices'])
    strides = list(step.params['strides'] or (1,) * len(starts))
    for axis, mask in enumerate(operand.kept):
        if mask is not None:
            operand = operand.pick(axis, np.arange(starts[axis], limits[axis], strides[axis]))
            starts[axis], limits[axis], strides[axis] = 0, np.shape(operand.array)[axis], 1
    changed = {'start_indices': tuple(starts), 'limit_indices': tuple(limits)}
    return step.bind_one([operand], operand.kept, strides=step.params['strides'] and tuple(strides), **changed)


@rule('split')
def split(step: Step, operands: list[Value]) -> list[Value]:
    """Consecutive parts of one axis."""
    (operand,), axis, sizes = operands, step.params['axis'], step.params['sizes']
    mask = operand.kept[axis]
    parts = [None] * len(sizes) if mask is None else np.split(mask, np.cumsum(sizes)[:-1])
    arrays = step.bind(operands, sizes=tuple(count(part, size) for part, size in zip(parts, sizes, strict=True)))
    return [
        Value(array, with_mask(operand.kept, axis, unless_all(part))) for array, part in zip(arrays, parts, strict=True)
    ]


@rule('concatenate')
def concatenate(step: Step, operands: list[Value]) -> list[Value]:
    """One after the other along one axis, side by side along the others."""
    axis = step.params['dimension']
    own = [operand.kept[axis] for operand in operands]
    values, masks = _align_others(operands, axis)
    if any(mask is not None for mask in own):
        parts = [np.ones(value.sizes[axis], bool) if m is None else m for value, m in zip(values, own, strict=True)]
        masks = with_mask(masks, axis, np.concatenate(parts))
    return step.bind_one(values, masks)


@rule('stack')
def stack(step: Step, operands: list[Value]) -> list[Value]:
    """Side by side, along a new axis."""
    values, masks = align(operands)
    axis = step.params['axis'] % (len(masks) + 1)
    return step.bind_one(values, (*masks[:axis], None, *masks[axis:]))


@rule('unstack')
def unstack(step: Step, operands: list[Value]) -> list[Value]:
    """The elements of one axis as arrays of their own."""
    (operand,) = operands
    axis = step.params['axis'] % len(operand.kept)
    if operand.kept[axis] is not None:
        raise NotReplayableError('it takes channels apart, of which some are gone')
    kept = (*operand.kept[:axis], *operand.kept[axis + 1 :])
    return [Value(array, kept) for array in step.bind(operands)]


@rule('tile')
def tile(step: Step, operands: list[Value]) -> list[Value]:
    """Repeats every axis as a whole."""
    pairs = zip(operands[0].kept, step.params['reps'], strict=True)
    return step.bind_one(operands, [None if mask is None else np.tile(mask, reps) for mask, reps in pairs])


@rule('rev')
def rev(step: Step, operands: list[Value]) -> list[Value]:
    """The other way round along some axes."""
    turned = step.params['dimensions']
    return step.bind_one(
        operands, [m[::-1] if axis in turned and m is not None else m for axis, m in enumerate(operands[0].kept)]
    )


@rule('pad')
def pad(step: Step, operands: list[Value]) -> list[Value]:
    """What is padded is held; negative padding cuts."""
    operand, filling = operands
    padding, kept = list(step.params['padding_config']), list(operand.kept)
    for axis, (low, high, inner) in enumerate(padding):
        mask = operand.kept[axis]
        if mask is None:
            continue
        if inner:
            raise NotReplayableError('it pads between channels, of which some are gone')
        operand = operand.pick(axis, np.arange(max(0, -low), len(mask) - max(0, -high)))
        left = mask[max(0, -low) : len(mask) - max(0, -high)]
        kept[axis] = unless_all(np.pad(left, (max(0, low), max(0, high)), constant_values=True))
        padding[axis] = max(0, low), max(0, high), 0
    return step.bind_one([operand, filling], kept, padding_config=tuple(padding))


def _align_others(values: Sequence[Value], axis: int) -> tuple[list[Value], Masks]:
    """Aligned along all axes but one."""
    own = [value.kept[axis] for value in values]
    masks = tuple(common(each) for each in zip(*(with_mask(value.kept, axis, None) for value in values), strict=True))
    fitted = [value.fit_all(with_mask(masks, axis, mask)) for value, mask in zip(values, own, strict=True)]
    return fitted, masks
