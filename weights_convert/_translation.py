"""The spec that grows while the modules of a checkpoint are translated, one after the other."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxprune.models import spec as specs
from weights_convert._errors import ConversionError
from weights_convert._modules import Module

# Appends what a module computes from the nodes named, and returns its output: None for the detection module.
Translator = Callable[['Translation', Module, tuple[str, ...]], str | None]


@dataclasses.dataclass
class Translation:
    """What has been translated so far.

    Attributes:
      translators: by kind of module.
      nodes, outputs, auxiliary: as in the spec.
      detect: the detection module, once it has been met.
    """

    translators: Mapping[str, Translator]
    nodes: list[specs.Node] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    auxiliary: list[str] = dataclasses.field(default_factory=list)
    detect: Module | None = None

    def add(self, cls: type[specs.Node], path: str, inputs: tuple[str, ...], **options: Any) -> str:
        """Appends a node for the module at `path` and returns its name."""
        name = path.replace('.', '_')
        self.nodes.append(cls(name=name, pytorch_name=path, inputs=inputs, **options))
        return name

    def translate(self, module: Module, inputs: tuple[str, ...]) -> str | None:
        """Appends what `module` computes from the nodes `inputs`; returns its output, None for the detection module.

        Raises:
          ConversionError: a module or a setting that is not supported.
        """
        if module.kind not in self.translators:
            supported = ', '.join(self.translators)
            raise ConversionError(f'{module.place}: this module is not supported; supported are {supported}')
        return self.translators[module.kind](self, module, inputs)

    def chain(self, module: Module, source: str, *names: str) -> str:
        """Appends the submodules `names`, each reading the one before it, the first one `source`."""
        for name in names:
            source = self.follow(module.child(name), source)
        return source

    def follow(self, module: Module, source: str) -> str:
        """Appends a module within another one, which reads one node and has an output that others can read."""
        output = self.translate(module, (source,))
        if output is None:
            raise ConversionError(f'{module.place}: a detection module within another module is not supported')
        return output


def one(module: Module, inputs: tuple[str, ...]) -> str:
    """The only input of a module."""
    if len(inputs) != 1:
        raise ConversionError(f'{module.place} reads {len(inputs)} layers, expected one')
    return inputs[0]
