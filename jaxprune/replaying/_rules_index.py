"""Rules for primitives that read or write at places that the program computes."""

from collections.abc import Iterable, Mapping, Sequence

from jaxprune.replaying._registry import Step, rule
from jaxprune.replaying._values import NotReplayableError, Value, common, count

_PICKS = 'it picks channels by an index, and some of them are gone'


@rule('dynamic_slice')
def dynamic_slice(step: Step, operands: list[Value]) -> list[Value]:
    """Places may be gone along axes that are taken whole."""
    operand = operands[0]
    sizes = _window(operand, step.params['slice_sizes'])
    return step.bind_one(operands, operand.kept, slice_sizes=sizes)


@rule('dynamic_update_slice')
def dynamic_update_slice(step: Step, operands: list[Value]) -> list[Value]:
    """Along axes that are written whole, both hold the same places."""
    operand, update, *starts = operands
    pairs = {axis: axis for axis in range(len(operand.kept))}
    operand, update = _beside(operand, update, pairs)
    return step.bind_one([operand, update, *starts], operand.kept)


@rule('gather')
def gather(step: Step, operands: list[Value]) -> list[Value]:
    """Along axes that are taken whole the result holds what the operand does, along the others what the index does."""
    operand, index = operands
    numbers, sizes = step.params['dimension_numbers'], step.params['slice_sizes']
    batch = numbers.operand_batching_dims
    operand, index = _pair(operand, index, zip(batch, numbers.start_indices_batching_dims, strict=True))
    window = [axis for axis in range(len(operand.kept)) if axis not in {*numbers.collapsed_slice_dims, *batch}]
    if any(operand.kept[axis] is not None for axis in numbers.collapsed_slice_dims):
        raise NotReplayableError(_PICKS)
    sizes = _window(operand, sizes, window)
    offsets = dict(zip(numbers.offset_dims, (operand.kept[axis] for axis in window), strict=True))
    rest = iter(index.kept[:-1])
    rank = len(step.equation.outvars[0].aval.shape)
    kept = [offsets[place] if place in offsets else next(rest) for place in range(rank)]
    return step.bind_one([operand, index], kept, slice_sizes=sizes)


@rule('scatter', 'scatter-add', 'scatter_add', 'scatter-mul', 'scatter_mul', 'scatter-min', 'scatter_min')
@rule('scatter-max', 'scatter_max', 'scatter-sub', 'scatter_sub')
def scatter(step: Step, operands: list[Value]) -> list[Value]:
    """Along axes that are written whole, all hold the same places."""
    operand, index, update = operands
    numbers = step.params['dimension_numbers']
    batch = numbers.operand_batching_dims
    window = [axis for axis in range(len(operand.kept)) if axis not in {*numbers.inserted_window_dims, *batch}]
    if any(operand.kept[axis] is not None for axis in numbers.inserted_window_dims):
        raise NotReplayableError(_PICKS)
    operand, update = _beside(operand, update, dict(zip(window, numbers.update_window_dims, strict=True)))
    places = [place for place in range(len(update.kept)) if place not in numbers.update_window_dims]
    of_index = list(range(len(places)))
    for axis, other in zip(batch, numbers.scatter_indices_batching_dims, strict=True):
        mask = common((operand.kept[axis], index.kept[other], update.kept[places[other]]))
        operand, index = operand.fit(axis, mask), index.fit(other, mask)
    index, update = _pair(index, update, zip(of_index, places, strict=True))
    return step.bind_one([operand, index, update], operand.kept)


def _pair(first: Value, second: Value, axes: Iterable[tuple[int, int]]) -> tuple[Value, Value]:
    """Two values that lie side by side along some axes."""
    for one, other in axes:
        mask = common((first.kept[one], second.kept[other]))
        first, second = first.fit(one, mask), second.fit(other, mask)
    return first, second


def _beside(operand: Value, update: Value, pairs: Mapping[int, int]) -> tuple[Value, Value]:
    """The same along axes that are written whole; along the others both must be whole."""
    full = {axis: other for axis, other in pairs.items() if operand.sizes[axis] == update.sizes[other]}
    for axis, other in pairs.items():
        if axis not in full and (operand.kept[axis] is not None or update.kept[other] is not None):
            raise NotReplayableError('it overwrites some of its channels, of which some are gone')
    return _pair(operand, update, full.items())


def _window(operand: Value, sizes: Sequence[int], axes: Iterable[int] | None = None) -> tuple[int, ...]:
    """Sizes of what is taken along each axis: where places are gone, all that are left."""
    found = list(sizes)
    for axis, mask in enumerate(operand.kept):
        if mask is None or (axes is not None and axis not in set(axes)):
            continue
        if sizes[axis] != len(mask):
            raise NotReplayableError(_PICKS)
        found[axis] = count(mask, len(mask))
    return tuple(found)
