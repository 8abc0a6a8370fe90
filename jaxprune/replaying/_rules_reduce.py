"""Rules for reductions, windows, cumulative sums and sorting."""

from collections.abc import Iterable

from jaxprune.replaying._registry import Step, rule
from jaxprune.replaying._values import NotReplayableError, Value, align


@rule('reduce_sum', 'reduce_max', 'reduce_min', 'reduce_prod', 'reduce_and', 'reduce_or', 'reduce_xor')
def reduce(step: Step, operands: list[Value]) -> list[Value]:
    """What is gone counts as zero in a sum; in other reductions it does not count."""
    return step.bind_one(operands, _without(operands[0], step.params['axes']))


@rule('reduce')
def general_reduce(step: Step, operands: list[Value]) -> list[Value]:
    """Any function of two, for several arrays at once; their initial values are the second half of the operands."""
    count = len(step.equation.outvars)
    arrays, _ = align(operands[:count])
    kept = _without(arrays[0], step.params['dimensions'])
    return [Value(array, kept) for array in step.bind([*arrays, *operands[count:]])]


@rule('argmax', 'argmin')
def arg_reduce(step: Step, operands: list[Value]) -> list[Value]:
    """The result counts places along the axis, all of which must be there."""
    _whole(operands[0], step.params['axes'])
    return step.bind_one(operands, _without(operands[0], step.params['axes']))


@rule('reduce_window_max', 'reduce_window_min', 'reduce_window_sum', 'reduce_window', 'select_and_scatter_add')
@rule('select_and_gather_add')
def windows(step: Step, operands: list[Value]) -> list[Value]:
    """Pooling: places may be gone where the window is one element wide and moves by one."""
    params = step.params
    values, masks = align(operands)
    plain = zip(params['window_dimensions'], params['window_strides'], params['padding'], strict=True)
    sliding = [axis for axis, each in enumerate(plain) if (each[0], each[1], *each[2]) != (1, 1, 0, 0)]
    dilated = [axis for axis, step in enumerate(params.get('base_dilation', ())) if step != 1]
    _whole(Value(None, masks), {*sliding, *dilated})
    return [Value(array, masks) for array in step.bind(values)]


@rule('cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')
def cumulative(step: Step, operands: list[Value]) -> list[Value]:
    """Places may be gone along all axes but one."""
    _whole(operands[0], [step.params['axis']])
    return step.bind_one(operands, operands[0].kept)


@rule('sort')
def sort(step: Step, operands: list[Value]) -> list[Value]:
    """Several arrays sorted together hold the same places."""
    values, masks = align(operands)
    _whole(values[0], [step.params['dimension']])
    return [Value(array, masks) for array in step.bind(values)]


@rule('top_k', 'approx_top_k')
def top_k(step: Step, operands: list[Value]) -> list[Value]:
    """Values and places of the largest elements along an axis."""
    axis = step.params.get('axis', step.params.get('reduction_dimension', -1))
    _whole(operands[0], [axis % len(operands[0].kept)])
    return [Value(array, operands[0].kept) for array in step.bind(operands)]


@rule('fft')
def fft(step: Step, operands: list[Value]) -> list[Value]:
    """Mixes along the last axes, one for each of the lengths."""
    rank = len(operands[0].kept)
    _whole(operands[0], range(rank - len(step.params['fft_lengths']), rank))
    return step.bind_one(operands, operands[0].kept)


def _without(value: Value, axes: Iterable[int]) -> tuple:
    gone = {axis % len(value.kept) for axis in axes}
    return tuple(mask for axis, mask in enumerate(value.kept) if axis not in gone)


def _whole(value: Value, axes: Iterable[int]) -> None:
    if any(value.kept[axis] is not None for axis in axes):
        raise NotReplayableError('each of its results depends on several channels, of which some are gone')
