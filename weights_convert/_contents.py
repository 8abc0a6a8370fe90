"""Tensors to be written: what stands for them in a pickle, and their bytes, made when they are asked for."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from weights_convert._errors import ConversionError
from weights_convert._plain import Global, Mapping, Object, Storage

_STORAGES = {'float32': 'torch.FloatStorage', 'float16': 'torch.HalfStorage', 'int64': 'torch.LongStorage'}
FLOATS = ('float32', 'float16')
_TENSOR = Global('torch._utils._rebuild_tensor_v2', 'torch._utils')
_ORDERED = Global('collections.OrderedDict', 'collections')


class Contents:
    """New storages beside those of a checkpoint; called with one, gives its bytes."""

    def __init__(self, old: Callable[[Storage], bytes] | None = None) -> None:
        self._old = old
        self._new: dict[Storage, Callable[[], bytes]] = {}

    def add(self, name: str, shape: tuple[int, ...], dtype: str, values: Callable[[], np.ndarray]) -> Storage:
        """A storage for the tensor `name`, whose values are asked for when it is written."""
        storage = Storage(_STORAGES[dtype], name, math.prod(shape))
        self._new[storage] = lambda: _cast(name, values(), dtype).tobytes()
        return storage

    def __call__(self, storage: Storage) -> bytes:
        if storage in self._new:
            return self._new[storage]()
        if self._old is None:
            raise LookupError(storage.key)
        return self._old(storage)


def _cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over='ignore'):
        cast = array.astype(dtype)
    if dtype == 'float16' and np.any(np.isinf(cast) & np.isfinite(array)):
        raise ConversionError(f'{name} has values that float16 cannot hold; write float32')
    return cast


def window(storage: Storage, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The arguments that place a contiguous tensor on all of a storage: storage, offset, shape, strides."""
    return storage, 0, shape, tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def new_tensor(storage: Storage, shape: tuple[int, ...]) -> Object:
    """What stands for a tensor in a pickle."""
    return Object(_TENSOR.name, (*window(storage, shape), False, new_mapping()), maker=_TENSOR)


def new_mapping() -> Mapping:
    """An empty ordered dictionary."""
    return Mapping(_ORDERED, ())
