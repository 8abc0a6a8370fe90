"""Plain data that stands for what a pickle names, makes and refers to."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Global:
    """The dotted name of a class or function; a name and no more."""

    name: str


@dataclasses.dataclass(eq=False, repr=False, slots=True)
class Object:
    """What a class or function would have made: `class_name` names it, `attributes` are what the pickle sets."""

    class_name: str
    arguments: tuple[Any, ...] = ()
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A tensor's memory, kept outside the pickle: `type_name` such as `torch.HalfStorage`, `size` in elements."""

    type_name: str
    key: str
    size: int


def show(value: Any) -> str:
    """A short text for error messages; of containers and objects, which may be endless, only the type."""
    if value is None or isinstance(value, str | float | bool) or (isinstance(value, int) and abs(value) < 1 << 64):
        return f'{value!r:.40}'
    return type(value).__name__
