"""Structured pruning of any JAX model as pure functions over pytrees, and YOLOv7 in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprune.checkpoint import load, save
    from jaxprune.errors import UserError
    from jaxprune.frameworks import resize
    from jaxprune.graph import trace
    from jaxprune.models import count, create, heads, predict
    from jaxprune.pipeline import prune
    from jaxprune.pruning import Plan, mask, select_channels, verify
    from jaxprune.pruning import slice_variables as slice
    from jaxprune.replaying import replay
    from jaxprune.sensitivity import scan_model as scan

_HOMES = {
    'Plan': ('jaxprune.pruning', 'Plan'),
    'UserError': ('jaxprune.errors', 'UserError'),
    'count': ('jaxprune.models', 'count'),
    'create': ('jaxprune.models', 'create'),
    'heads': ('jaxprune.models', 'heads'),
    'load': ('jaxprune.checkpoint', 'load'),
    'mask': ('jaxprune.pruning', 'mask'),
    'predict': ('jaxprune.models', 'predict'),
    'prune': ('jaxprune.pipeline', 'prune'),
    'replay': ('jaxprune.replaying', 'replay'),
    'resize': ('jaxprune.frameworks', 'resize'),
    'save': ('jaxprune.checkpoint', 'save'),
    'scan': ('jaxprune.sensitivity', 'scan_model'),
    'select_channels': ('jaxprune.pruning', 'select_channels'),
    'slice': ('jaxprune.pruning', 'slice_variables'),
    'trace': ('jaxprune.graph', 'trace'),
    'verify': ('jaxprune.pruning', 'verify'),
}
__all__ = [
    'Plan',
    'UserError',
    'count',
    'create',
    'heads',
    'load',
    'mask',
    'predict',
    'prune',
    'replay',
    'resize',
    'save',
    'scan',
    'select_channels',
    'slice',
    'trace',
    'verify',
]
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that `jaxprune --help` does not wait for JAX."""
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
