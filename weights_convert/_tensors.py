"""Tensors as a pickle describes them: a window (offset, shape, strides) on a storage, checked before it is read."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from weights_convert._errors import ConversionError
from weights_convert._plain import Object, Storage

Arrange = Callable[[np.ndarray], np.ndarray]

STORAGE_TYPES: dict[str, Any] = {
    'torch.FloatStorage': np.float32,
    'torch.HalfStorage': np.float16,
    'torch.BFloat16Storage': jnp.bfloat16,
    'torch.DoubleStorage': np.float64,
    'torch.LongStorage': np.int64,
    'torch.IntStorage': np.int32,
    'torch.ShortStorage': np.int16,
    'torch.CharStorage': np.int8,
    'torch.ByteStorage': np.uint8,
    'torch.BoolStorage': np.bool_,
}


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """A tensor that has not been read: a window on a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Element type in the file."""
        return np.dtype(STORAGE_TYPES[self.storage.type_name])


def tensor(value: Any) -> TensorRef | None:
    """The tensor or parameter that a pickled value stands for; None where it is something else.

    Raises:
      ConversionError: a tensor whose description makes no sense, or of a type that networks do not have.
    """
    for _ in range(4):  # a parameter wraps a tensor, a subclass wraps either
        if not isinstance(value, Object):
            return None
        kind, arguments = value.class_name, value.arguments
        if kind in ('torch._utils._rebuild_tensor_v2', 'torch._utils._rebuild_tensor'):
            return _window(*arguments[:4]) if len(arguments) >= 4 else None
        if kind in ('torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state') and arguments:
            value = arguments[0]
        elif kind == 'torch._tensor._rebuild_from_type_v2' and len(arguments) >= 3 and isinstance(arguments[2], tuple):
            value = Object(getattr(arguments[0], 'name', ''), arguments[2])
        else:
            return None
    return None


def _window(storage: Any, offset: Any, shape: Any, strides: Any) -> TensorRef:
    fits = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    numbers = (offset, *shape, *strides) if fits else (None,)
    if not fits or len(shape) != len(strides) or len(shape) > 8 or not all(_is_size(number) for number in numbers):
        raise ConversionError('a tensor in it is damaged: its place, shape or strides are not sizes')
    if storage.type_name not in STORAGE_TYPES:
        raise ConversionError(
            f'a tensor of type {storage.type_name!r:.60} cannot be read, only {", ".join(STORAGE_TYPES)}'
        )
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.size:
        raise ConversionError(f'a tensor of shape {shape} does not fit into its storage of {storage.size} elements')
    return TensorRef(storage, storage.offset + offset, shape, strides)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def values(tensor: TensorRef, content: bytes, arrange: Arrange = np.asarray) -> np.ndarray:
    """A tensor's values; floating-point types as float32 (exact but for float64), others as they are.

    Args:
      tensor: which window to read.
      content: the bytes of its storage.
      arrange: how to lay the values out.
    """
    size = tensor.dtype.itemsize
    try:
        window: np.ndarray = np.ndarray(
            tensor.shape,
            tensor.dtype,
            buffer=content,
            offset=tensor.offset * size,
            strides=tuple(stride * size for stride in tensor.strides),
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise ConversionError(f'storage {tensor.storage.key!r:.40} is truncated or damaged') from error
    kind = np.float32 if jnp.issubdtype(tensor.dtype, jnp.floating) else None
    try:
        with np.errstate(over='raise'):
            return np.array(arrange(window), kind, order='C')
    except FloatingPointError as error:
        raise ConversionError(
            f'a tensor of shape {tensor.shape} has values that single precision cannot hold'
        ) from error
