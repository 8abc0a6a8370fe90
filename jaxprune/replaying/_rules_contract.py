"""Rules for convolutions and matrix products."""

import numpy as np
from jaxtyping import Bool

from jaxprune.replaying._registry import Step, rule
from jaxprune.replaying._values import Kept, NotReplayableError, Value, common, unless_all, with_mask


@rule('dot_general')
def dot_general(step: Step, operands: list[Value]) -> list[Value]:
    """Contracted axes and batch axes hold the same places in both factors."""
    left, right = operands
    (contracted, batched) = step.params['dimension_numbers']
    for first, second in (*zip(*contracted, strict=True), *zip(*batched, strict=True)):
        mask = common((left.kept[first], right.kept[second]))
        left, right = left.fit(first, mask), right.fit(second, mask)
    kept = [left.kept[axis] for axis in batched[0]]
    for value, used, shared in zip((left, right), contracted, batched, strict=True):
        kept += [mask for axis, mask in enumerate(value.kept) if axis not in {*used, *shared}]
    return step.bind_one([left, right], kept)


@rule('conv_general_dilated')
def convolution(step: Step, operands: list[Value]) -> list[Value]:
    """Any layout, stride, padding and dilation; dense, depthwise or in groups."""
    image, kernel = operands
    numbers, groups = step.params['dimension_numbers'], step.params['feature_group_count']
    batch, inputs, *space = numbers.lhs_spec
    outputs, read, *window = numbers.rhs_spec
    if any([*(image.kept[axis] is not None for axis in space), *(kernel.kept[axis] is not None for axis in window)]):
        raise NotReplayableError('it slides over an axis of which places are gone')
    if step.params['batch_group_count'] != 1:
        raise NotReplayableError('it groups its batch')
    if groups == 1:
        mask = common((image.kept[inputs], kernel.kept[read]))
        image, kernel, left = image.fit(inputs, mask), kernel.fit(read, mask), 1
    else:
        image, kernel, left = _grouped(image, kernel, (inputs, read, outputs), groups)
    kept = [None] * len(image.kept)
    kept[numbers.out_spec[0]], kept[numbers.out_spec[1]] = image.kept[batch], kernel.kept[outputs]
    return step.bind_one([image, kernel], kept, feature_group_count=left)


def _grouped(image: Value, kernel: Value, axes: tuple[int, int, int], groups: int) -> tuple[Value, Value, int]:
    """Both factors without whole groups, and without the same places of the groups that stay; how many these are."""
    inputs, read, outputs = axes
    given = _rows(image.kept[inputs], image.sizes[inputs], groups)
    made = _rows(kernel.kept[outputs], kernel.sizes[outputs], groups)
    if kernel.kept[outputs] is None:
        made = made & given.any(1, keepdims=True)  # a kernel of constants
    stays = made.any(1)
    rows, widths = given[stays], made[stays].sum(1)
    if not rows.any(1).all() or (rows != rows[:1]).any() or (widths != widths[:1]).any():
        raise NotReplayableError('the groups of the convolution keep different channels')
    row = common([unless_all(rows[0]), kernel.kept[read]])
    wanted = np.outer(stays, np.ones(given.shape[1], bool) if row is None else row).ravel()
    picked = image.pick(inputs, np.flatnonzero(wanted))
    image = Value(picked.array, with_mask(image.kept, inputs, unless_all(wanted)))
    return image, kernel.fit(read, row).fit(outputs, unless_all(made.ravel())), int(stays.sum())


def _rows(mask: Kept | None, size: int, groups: int) -> Bool[np.ndarray, 'groups places']:
    return (np.ones(size, bool) if mask is None else mask).reshape(groups, -1)
