"""Finds the network in what a checkpoint file stands for: a module, or tensors by name."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from weights_convert._errors import ConversionError
from weights_convert._plain import Object, show
from weights_convert._tensors import TensorRef, tensor

Entry = Object | Mapping[str, TensorRef]

ENTRIES = ('ema', 'ema_state_dict', 'model', 'model_state_dict', 'state_dict', 'module', 'net', 'weights')
_WRAPPED = ('module', '_orig_mod', '_fsdp_wrapped_module')  # the only submodule of DataParallel and the like
_COMPILED = 'torch._dynamo.eval_frame.OptimizedModule'  # called with the module that torch.compile was given
_HUB = ('models.common.autoShape', 'models.common.AutoShape')
_MAX_DEPTH = 8
_LONGEST_NAME = 200
_MAX_TENSORS = 20_000


def find(value: Any) -> Entry:
    """The network: a module (an `Object` with submodules), or the tensors of a state_dict under the names in the file.

    Where there is an average (`ema`), it is that one, as YOLOv7 prefers it too. Wrappers (DataParallel, torch.compile,
    averages) are taken off.

    Raises:
      ConversionError: neither is in the file.
    """
    for _ in range(_MAX_DEPTH):
        inner = _step(value)
        if inner is None:
            break
        value = inner
    if isinstance(value, Object) and '_modules' in value.attributes:
        return value
    found = _tensors(value) if isinstance(value, dict) else {}
    if not found:
        raise ConversionError(
            "no model in it: expected a module, a state_dict, or a dictionary with 'ema', 'model' or 'state_dict'"
        )
    return found


def _step(value: Any) -> Any:
    """What a dictionary, a wrapper or an average holds; None where the value is none of these."""
    if isinstance(value, tuple | list):  # an average beside its number of updates
        candidates: Iterable[Any] = value[:1]
    elif isinstance(value, dict):
        candidates = (value.get(name) for name in ENTRIES)
    else:
        candidates = _wrapped(value) if isinstance(value, Object) else ()
    return next(filter(_is_container, candidates), None)


def _wrapped(value: Object) -> Iterable[Any]:
    """What an object that is no network itself may hold the network in."""
    children = value.attributes.get('_modules')
    if value.class_name == _COMPILED:
        return value.arguments[:1]
    if not isinstance(children, dict):
        return (value.attributes.get(name) for name in ('ema', 'module'))
    if value.class_name in _HUB:
        return (children.get('model'),)
    return (children[name] for name in _WRAPPED if list(children) == [name])


def _is_container(value: Any) -> bool:
    return isinstance(value, Object | dict | tuple | list) and tensor(value) is None and value not in ({}, (), [])


def _tensors(entries: dict[Any, Any]) -> dict[str, TensorRef]:
    found = {name: ref for name, entry in entries.items() if (ref := tensor(entry)) is not None}
    if len(found) > _MAX_TENSORS:
        raise ConversionError(f'more than {_MAX_TENSORS} tensors in it')
    for name in found:
        if not isinstance(name, str) or not re.fullmatch(rf'[\w.]{{1,{_LONGEST_NAME}}}', name, re.ASCII):
            raise ConversionError(f'{show(name)} is not a name of a tensor')
    return found
