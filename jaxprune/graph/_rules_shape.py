"""Rules for primitives that move elements."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode
from jaxtyping import Int

from jaxprune.graph._blocks import reshape_blocks
from jaxprune.graph._record import Record
from jaxprune.graph._registry import rule
from jaxprune.graph._values import NONE, Axis, Ids, Value, all_zeros, concatenate_axes, fixed

_MOST_ROWS = 4096


@rule('iota')
def iota(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Counts along one axis and is uniform along the others."""
    shape, counting = equation.outvars[0].aval.shape, equation.params['dimension']
    return [Value(tuple(Axis(size, uniform=place != counting) for place, size in enumerate(shape)), data=False)]


@rule('broadcast_in_dim')
def broadcast_in_dim(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """New axes are uniform, and so are axes that grow from size 1."""
    operand = operands[0]
    axes = [Axis(size, uniform=True) for size in equation.outvars[0].aval.shape]
    for axis, place in zip(operand.axes, equation.params['broadcast_dimensions'], strict=True):
        if axis.size == axes[place].size:
            axes[place] = axis
        elif axes[place].size:
            record.protect(axis.ids, 'repeats its channel')
    return [Value(tuple(axes), operand.data, operand.fill)]


@rule('transpose')
def transpose(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Axes in another order."""
    (operand,) = operands
    return [Value(tuple(operand.axes[place] for place in equation.params['permutation']), operand.data, operand.fill)]


@rule('squeeze')
def squeeze(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Axes of size 1 go."""
    (operand,) = operands
    gone = {place % len(operand.axes) for place in equation.params['dimensions']}
    for place in gone:
        record.protect(operand.axes[place].ids, 'drops the axis of its channel')
    axes = tuple(axis for place, axis in enumerate(operand.axes) if place not in gone)
    return [Value(axes, operand.data, operand.fill)]


@rule('concatenate')
def concatenate(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """One after the other along one axis, side by side along the others."""
    along = equation.params['dimension']
    data = any(operand.data for operand in operands)
    fills = [operand.fill for operand in operands]
    axes = [
        concatenate_axes(each, fills) if place == along else record.combine(list(each), all_zeros(each))
        for place, each in enumerate(zip(*(operand.axes for operand in operands), strict=True))
    ]
    return [Value(tuple(axes), data)]


@rule('stack')
def stack(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Side by side, along a new axis."""
    axes = [record.combine(list(each), all_zeros(each)) for each in zip(*(each.axes for each in operands), strict=True)]
    axes.insert(equation.params['axis'], Axis(len(operands)))
    return [Value(tuple(axes), any(operand.data for operand in operands))]


@rule('unstack')
def unstack(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """The elements of one axis as arrays of their own."""
    (operand,), along = operands, equation.params['axis']
    record.protect(operand.axes[along].ids, 'takes its channels apart')
    axes = (*operand.axes[:along], *operand.axes[along + 1 :])
    return [Value(axes, operand.data, operand.fill)] * len(equation.outvars)


@rule('tile')
def tile(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Repeats every axis as a whole."""
    (operand,) = operands
    spans = [
        np.tile(np.arange(axis.size), reps) for axis, reps in zip(operand.axes, equation.params['reps'], strict=True)
    ]
    return [_take(operand, spans)]


@rule('slice')
def slice_(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Some elements of every axis."""
    starts, limits = equation.params['start_indices'], equation.params['limit_indices']
    steps = equation.params['strides'] or (1,) * len(starts)
    spans = [np.arange(*bounds) for bounds in zip(starts, limits, steps, strict=True)]
    for place, (axis, span) in enumerate(zip(operands[0].axes, spans, strict=True)):
        _tie_parts(record, axis, span, place)
    return [_take(operands[0], spans)]


@rule('split')
def split(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Consecutive parts of one axis."""
    (operand,), along = operands, equation.params['axis']
    ends = np.cumsum(equation.params['sizes'])
    whole = [np.arange(axis.size) for axis in operand.axes]
    parts = np.split(whole[along], ends[:-1])
    if len({len(part) for part in parts}) == 1:
        _tie_parts(record, operand.axes[along], parts[0], along)
    elif (ids := operand.axes[along].ids) is not None:
        record.cuts.append(np.split(ids, ends[:-1]))
    return [_take(operand, [*whole[:along], part, *whole[along + 1 :]]) for part in parts]


@rule('rev')
def rev(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """The other way round along some axes."""
    turned = equation.params['dimensions']
    spans = [np.arange(axis.size)[:: -1 if place in turned else 1] for place, axis in enumerate(operands[0].axes)]
    return [_take(operands[0], spans)]


@rule('pad')
def pad(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Padding has no ids; negative padding cuts."""
    operand = operands[0]
    sizes = equation.outvars[0].aval.shape
    spans = []
    for axis, size, (low, _, inner) in zip(operand.axes, sizes, equation.params['padding_config'], strict=True):
        places = low + np.arange(axis.size) * (inner + 1)
        inside = (places >= 0) & (places < size)
        span = np.full(size, NONE)
        span[places[inside]] = np.flatnonzero(inside)
        spans.append(span)
        if not inside.all():
            record.protect(axis.ids, 'cuts off some of its channels')
    padded = _take(operand, spans)
    grown = {place for place, widths in enumerate(equation.params['padding_config']) if max(widths) > 0}
    keeps = [operands[1].fill == 0 or grown <= {place} for place in range(len(sizes))]
    axes = [axis if keep else axis.with_zeros(None) for axis, keep in zip(padded.axes, keeps, strict=True)]
    return [Value(tuple(axes), any(each.data for each in operands))]


@rule('dynamic_slice')
def dynamic_slice(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """An axis that is taken whole keeps its ids."""
    sizes = equation.params['slice_sizes']
    axes = [_whole(record, axis, size) for axis, size in zip(operands[0].axes, sizes, strict=True)]
    return [Value(tuple(axes), any(operand.data for operand in operands))]


@rule('gather')
def gather(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Picks places on some axes of an array; the axes that are taken whole keep their ids."""
    operand, indices = operands
    record.protect_value(indices, 'picks places by it')
    numbers, sizes = equation.params['dimension_numbers'], equation.params['slice_sizes']
    dropped = {*numbers.collapsed_slice_dims, *getattr(numbers, 'operand_batching_dims', ())}
    axes = list(fixed(equation.outvars[0].aval.shape, data=True).axes)
    targets = iter(numbers.offset_dims)
    for place, (axis, size) in enumerate(zip(operand.axes, sizes, strict=True)):
        if place in dropped:
            record.protect(axis.ids, 'picks some of its channels')
        else:
            whole = _whole(record, axis, size)
            # Looked up by data, a table of parameters produces channels: an embedding.
            axes[next(targets)] = record.apply_kernel(whole) if operand.is_kernel and indices.data else whole
    if equation.params['mode'] == GatherScatterMode.FILL_OR_DROP and equation.params['fill_value'] != 0:
        axes = [axis.with_zeros(None) for axis in axes]
    return [Value(tuple(axes), any(each.data for each in operands))]


@rule('dynamic_update_slice')
def dynamic_update_slice(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Writes over a part: along axes that it covers whole, both lie side by side."""
    operand, update = operands[:2]
    return [_write_over(record, operand, update, {place: place for place in range(len(operand.axes))})]


@rule('scatter', 'scatter-add', 'scatter_add', 'scatter-mul', 'scatter-min', 'scatter-max', 'scatter_mul')
@rule('scatter_min', 'scatter_max')
def scatter(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Writes at picked places: along the axes that it covers whole, both lie side by side."""
    operand, indices, update = operands
    record.protect_value(indices, 'picks places by it')
    numbers = equation.params['dimension_numbers']
    inserted = {*numbers.inserted_window_dims, *getattr(numbers, 'operand_batching_dims', ())}
    windows = [place for place in range(len(operand.axes)) if place not in inserted]
    pairs = dict(zip(windows, numbers.update_window_dims, strict=True))
    for place in set(range(len(update.axes))) - set(pairs.values()):
        record.protect(update.axes[place].ids, 'picks some of its channels')
    return [_write_over(record, operand, update, pairs)]


@rule('reshape')
def reshape(record: Record, equation: Any, operands: list[Value]) -> list[Value]:
    """Merges axes, and splits an axis where its ids repeat along all but one of the parts."""
    operand = operands[0]
    if 0 in equation.outvars[0].aval.shape:
        # Nothing lies in it, so it fits beside anything.
        return [Value(tuple(Axis(size, uniform=True) for size in equation.outvars[0].aval.shape), operand.data)]
    result = [Axis(size, uniform=True) for size in equation.outvars[0].aval.shape]
    for sources, targets in reshape_blocks([axis.size for axis in operand.axes], [axis.size for axis in result]):
        moved = _move(record, [operand.axes[place] for place in sources], [result[place].size for place in targets])
        for place, axis in zip(targets, moved, strict=True):
            result[place] = axis
    kept = {axis.ids is not None for axis in result}
    return [Value(tuple(result), operand.data, operand.fill, operand.known() if kept == {False} else None)]


def _write_over(record: Record, operand: Value, update: Value, pairs: Mapping[int, int]) -> Value:
    """`pairs`: axis of the operand -> axis of the update."""
    axes = []
    for place, axis in enumerate(operand.axes):
        other = update.axes[pairs[place]] if place in pairs else Axis(1)
        if other.size == axis.size:
            axes.append(record.combine([axis, other], all_zeros([axis, other])))
        else:
            for each in (axis, other):
                record.protect(each.ids, 'overwrites some of its channels')
            axes.append(Axis(axis.size))
    return Value(tuple(axes), operand.data or update.data)


def _tie_parts(record: Record, axis: Axis, span: Ids, step_number: int) -> None:
    """Where a part of the channels is taken, all parts shrink alike: `x[..., :size // 2]`, `x[..., ::2]`."""
    if axis.ids is None or _is_whole(axis, span):
        return
    if not len(span):
        record.protect(axis.ids, 'takes none of its channels')
        return
    size, step = len(span), int(span[1] - span[0]) if len(span) > 1 else 1
    if step == 1 and size > 1 and axis.size % size == 0 and span[0] % size == 0:
        ways = [axis.known.reshape(-1, size).T, None]
    elif step > 1 and axis.size % step == 0:
        ways = [axis.known.reshape(-1, step)]
    else:
        ways = [None] if step == 1 else []
    choice = record.choose(axis.ids, len(ways) + 1, step_number)
    if choice == len(ways):
        record.protect(axis.ids, 'takes some of its channels')
    elif (rows := ways[choice]) is not None:
        record.tie(rows)
    else:
        record.cuts.append(np.split(axis.ids, [span[0], span[-1] + 1]))


def _take(value: Value, spans: Sequence[Ids]) -> Value:
    pairs = zip(value.axes, spans, strict=True)
    return Value(tuple(axis if _is_whole(axis, span) else axis.take(span) for axis, span in pairs), value.data)


def _is_whole(axis: Axis, span: Ids) -> bool:
    return len(span) == axis.size and np.array_equal(span, np.arange(axis.size))


def _whole(record: Record, axis: Axis, size: int) -> Axis:
    if size == axis.size:
        return axis
    record.protect(axis.ids, 'picks some of its channels')
    return Axis(size)


def _move(record: Record, axes: list[Axis], sizes: list[int]) -> list[Axis]:
    if len(axes) == len(sizes) == 1:
        return axes
    labelled = [place for place, axis in enumerate(axes) if axis.ids is not None]
    carrying = [place for place in labelled if axes[place].size > 1] or labelled[-1:]
    for place in set(labelled) - set(carrying):
        record.protect(axes[place].ids, 'merges its channel with others')
    uniform = all(axis.uniform or axis.size == 1 for axis in axes)
    blank = [Axis(size, uniform=uniform or size == 1) for size in sizes]
    if not carrying:
        return [Axis(sizes[0], runs=_runs(axes))] if len(sizes) == 1 and not uniform else blank
    kept = carrying[0]
    if len(carrying) > 1:
        ids = np.concatenate([axes[place].known for place in carrying])
        choice = record.choose(ids, len(carrying) + 1, 1)
        kept = [*carrying[::-1], NONE][choice]
        for place in set(carrying) - {kept}:
            record.protect(axes[place].ids, 'merges two axes of channels')
    return blank if kept == NONE else _follow(record, axes, kept, blank)


def _runs(axes: Sequence[Axis]) -> int:
    """How many neighbours are equal where axes are merged: the last ones that are uniform."""
    last = itertools.takewhile(lambda axis: axis.uniform or axis.size == 1, reversed(axes))
    return math.prod(axis.size for axis in last)


def _follow(record: Record, axes: list[Axis], place: int, blank: list[Axis]) -> list[Axis]:
    """Moves the one axis with ids to the result axis along which alone they vary."""
    axis = axes[place]
    shape = [each.size for each in axes]
    index = np.broadcast_to(np.expand_dims(np.arange(axis.size), [i for i in range(len(axes)) if i != place]), shape)
    index = index.reshape([each.size for each in blank])
    for target in reversed(range(len(blank))):
        line = np.moveaxis(index, target, 0).reshape(blank[target].size, -1)
        if _constant(line) or _constant(axis.known[line]):
            return [axis.take(line[:, 0]) if spot == target else each for spot, each in enumerate(blank)]
    return _split(record, axis, index, blank)


def _split(record: Record, axis: Axis, index: Int[np.ndarray, '...'], blank: list[Axis]) -> list[Axis]:
    """Channels that become several axes: one of these shrinks with them, at first the last (heads and their size)."""
    targets = [place for place in reversed(range(len(blank))) if blank[place].size > 1]
    choice = record.choose(axis.known, len(targets) + 1)
    parts = [each.size for each in blank]
    if choice == len(targets):
        record.protect(axis.ids, f'splits its {axis.size} channels into {parts}')
        return [Axis(size) for size in parts]
    line = np.moveaxis(index, targets[choice], 0).reshape(parts[targets[choice]], -1)
    record.tie(axis.known[line])
    zeros = None
    if axis.zeros is not None and len(axis.zeros) * line.shape[1] <= _MOST_ROWS:
        zeros = np.moveaxis(axis.zeros[:, line], 2, 1).reshape(-1, len(line))
    shrinking = axis.take(line[:, 0]).with_zeros(zeros)
    return [shrinking if place == targets[choice] else Axis(size) for place, size in enumerate(parts)]


def _constant(lines: np.ndarray) -> bool:
    return bool(np.all(lines == lines[:, :1]))
