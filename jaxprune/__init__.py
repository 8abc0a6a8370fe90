"""YOLOv7 in JAX, and structured filter pruning as pure functions over parameter pytrees."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprune.checkpoint import load, save
    from jaxprune.errors import UserError
    from jaxprune.models import count, create, heads, predict
    from jaxprune.pipeline import prune

_HOMES = {
    'UserError': 'jaxprune.errors',
    'count': 'jaxprune.models',
    'create': 'jaxprune.models',
    'heads': 'jaxprune.models',
    'load': 'jaxprune.checkpoint',
    'predict': 'jaxprune.models',
    'prune': 'jaxprune.pipeline',
    'save': 'jaxprune.checkpoint',
}
__all__ = ['UserError', 'count', 'create', 'heads', 'load', 'predict', 'prune', 'save']
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that `jaxprune --help` does not wait for JAX."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
