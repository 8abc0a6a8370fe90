"""The module tree of a checkpoint: every PyTorch module with its class, settings, tensors and submodules."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from weights_convert._errors import ConversionError
from weights_convert._plain import Object, show
from weights_convert._tensors import TensorRef, tensor

_LONGEST_PATH = 200
_MAX_MODULES = 100_000
_SPARE_MODULES = 1_000  # that even a tiny file may have
_BYTES_PER_MODULE = 50  # a small part of what one takes that is not another one once more


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    """A PyTorch module as data.

    Attributes:
      path: its name in the network, such as `model.24.conv`; empty for the network itself.
      class_name: with the Python module that defines it, such as `models.common.Conv`.
      attributes: what its Python object held, as plain data.
      tensors: its own parameters and buffers; those that are None are left out.
      children: its submodules in order.
    """

    path: str
    class_name: str
    attributes: Mapping[str, Any]
    tensors: Mapping[str, TensorRef]
    children: Mapping[str, 'Module']

    @property
    def kind(self) -> str:
        """Class name without the Python module, for those of PyTorch (`nn.Conv2d`) and YOLOv7 (`Conv`)."""
        home, _, name = self.class_name.rpartition('.')
        if home.startswith('torch.nn.'):
            return f'nn.{name}'
        known = any(f'.{home}'.endswith(f'.{file}') for file in ('models.common', 'models.yolo', 'utils.activations'))
        return name if known else self.class_name

    @property
    def place(self) -> str:
        """For error messages: the path and the class."""
        return f'{self.path or "the network"} ({self.class_name})'

    @property
    def is_fused(self) -> bool:
        """Whether YOLOv7's `fuse` has changed what it computes: its `forward` is the method `fuseforward`."""
        return 'fuseforward' in getattr(self.attributes.get('forward'), 'arguments', ())

    def child(self, name: str) -> 'Module':
        """A submodule that must be there."""
        if name not in self.children:
            raise ConversionError(f'{self.place} has no submodule {name!r}')
        return self.children[name]

    def tensor(self, name: str, rank: int) -> TensorRef:
        """A parameter or buffer that must be there, with that many axes, none of them empty."""
        if name not in self.tensors:
            raise ConversionError(f'{self.place} has no tensor {name!r}')
        shape = self.tensors[name].shape
        if len(shape) != rank or 0 in shape:
            raise ConversionError(f'{self.place}: {name!r} has shape {shape}, expected {rank} axes, none of them empty')
        return self.tensors[name]

    def number(self, name: str) -> float:
        """A number among the attributes."""
        value = self.attributes.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 < value < 1e9:
            raise ConversionError(f'{self.place}: attribute {name!r} is {show(value)}, expected a number')
        return float(value)

    def flag(self, name: str) -> bool:
        """A truth value among the attributes."""
        value = self.attributes.get(name)
        if not isinstance(value, bool):
            raise ConversionError(f'{self.place}: attribute {name!r} is {show(value)}, expected True or False')
        return value

    def pair(self, name: str, *, minimum: int = 1) -> tuple[int, int]:
        """A (rows, columns) setting; one number stands for both."""
        value = self.attributes.get(name)
        pair = value if isinstance(value, tuple | list) else (value, value)
        if len(pair) != 2 or not all(type(number) is int and minimum <= number < 1 << 12 for number in pair):
            raise ConversionError(
                f'{self.place}: attribute {name!r} is {show(value)}, expected a size or a pair of sizes'
            )
        return pair[0], pair[1]

    def require(self, **expected: Any) -> None:
        """Raises `ConversionError` where an attribute is there and is not what this converter can carry over."""
        for name, value in expected.items():
            actual = self.attributes.get(name, value)
            if actual not in (value, (value, value)):
                raise ConversionError(f'{self.place}: {name}={show(actual)} is not supported, only {value!r}')

    def walk(self) -> Iterator['Module']:
        """The module itself and all below it, in order."""
        yield self
        for child in self.children.values():
            yield from child.walk()


def network(value: Object, *, file_size: int) -> Module:
    """The module tree of a PyTorch module, in a file of that many bytes."""
    return _module(value, '', [min(_MAX_MODULES, _SPARE_MODULES + file_size // _BYTES_PER_MODULE)])


def _module(value: Object, path: str, left: list[int]) -> Module:
    left[0] -= 1
    if len(path) > _LONGEST_PATH or left[0] < 0:
        raise ConversionError(f'{path[:60]!r}: more modules than the file can hold, or too deep within each other')
    prefix = f'{path}.' if path else ''
    children = {
        _name(name, path): _module(child, f'{prefix}{name}', left)
        for name, child in dictionary(value, '_modules').items()
        if isinstance(child, Object)
    }
    own = (*dictionary(value, '_parameters').items(), *dictionary(value, '_buffers').items())
    tensors = {_name(name, path): found for name, entry in own if (found := tensor(entry)) is not None}
    return Module(path, value.class_name, value.attributes, tensors, children)


def _name(name: Any, path: str) -> str:
    """A name that can be part of a path, which keeps odd ones out of every file name made from it."""
    if not isinstance(name, str) or not re.fullmatch(r'\w{1,64}', name, re.ASCII):
        raise ConversionError(f'{path or "the network"}: {show(name)} is not a name of a module or tensor')
    return name


def dictionary(value: Object, name: str) -> dict[Any, Any]:
    """One of the dictionaries that a module's object holds; empty where there is none."""
    entry = value.attributes.get(name, {})
    return entry if isinstance(entry, dict) else {}
