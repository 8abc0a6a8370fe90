"""Plain data that stands for what a pickle names, makes and refers to."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Global:
    """The dotted name of a class or function, which the Python module `module` defines; a name and no more."""

    name: str
    module: str


@dataclasses.dataclass(eq=False, repr=False, slots=True)
class Object:
    """What a class or function would have made.

    Attributes:
      class_name: names the class or function.
      arguments: what it would have been called with.
      attributes: what the pickle sets.
      maker: the class or function itself, None in what is not there to be written.
      opcode: how it would have been called: `NEWOBJ`, `NEWOBJ_EX` or `REDUCE`.
      keywords: further arguments, by name, of `NEWOBJ_EX`.
      edits: what the pickle does with it afterwards: an opcode and its operand each.
    """

    class_name: str
    arguments: tuple[Any, ...] = ()
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    maker: Global | None = None
    opcode: str = 'REDUCE'
    keywords: Any = None
    edits: list[tuple[str, Any]] = dataclasses.field(default_factory=list)


class Mapping(dict[Any, Any]):
    """An ordered or other special dictionary: its entries, and as in `Object` how it is made."""

    __slots__ = ('arguments', 'edits', 'maker', 'opcode')

    def __init__(self, maker: Global, arguments: tuple[Any, ...], opcode: str = 'REDUCE') -> None:
        super().__init__()
        self.maker, self.arguments, self.opcode = maker, arguments, opcode
        self.edits: list[tuple[str, Any]] = []


class Size(tuple[Any, ...]):
    """A `torch.Size`."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A tensor's memory, kept outside the pickle: `type_name` such as `torch.HalfStorage`, `size` in elements.

    One that starts `offset` elements into the memory that `key` names is a view of it; PyTorch 0.3 wrote such.
    """

    type_name: str
    key: str
    size: int
    offset: int = 0


def show(value: Any) -> str:
    """A short text for error messages; of containers and objects, which may be endless, only the type."""
    if value is None or isinstance(value, str | float | bool) or (isinstance(value, int) and abs(value) < 1 << 64):
        return f'{value!r:.40}'
    return type(value).__name__
