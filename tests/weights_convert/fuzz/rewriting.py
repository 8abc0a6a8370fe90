"""The way back, with a damaged original: it is written as what it was read as, or refused with one clear line."""

import dataclasses
import functools
import pathlib
import random

import numpy as np

from fuzz import by_opcode, networks
from fuzz.emit import archive, legacy
from jaxprune import trees
from weights_convert import ConversionError, Converted, convert_checkpoint, write_checkpoint

_WRITABLE = ('tiny', 'fused', 'rep', 'pyramid', 'wiring', 'auxiliary', 'parallel', 'optimiser')


@functools.cache
def _network(name: str, folder: pathlib.Path) -> Converted:
    path = folder / f'{name}.pt'
    path.write_bytes(archive(networks.seed(name), {'0': networks.ONES}))
    return convert_checkpoint(path)


@dataclasses.dataclass
class Rewrite:
    """Reads a file, writes it again into `folder`, reads what was written, and compares the two.

    A file that cannot be read is taken as the original of the network that it was made from.
    """

    folder: pathlib.Path
    name: str

    def __post_init__(self) -> None:
        (self.folder / 'seeds').mkdir(parents=True, exist_ok=True)
        self.network = _network(self.name, self.folder / 'seeds')

    def __call__(self, path: pathlib.Path) -> Converted:
        target = self.folder / 'written' / 'out.pt'
        try:
            before = convert_checkpoint(path)
        except ConversionError:
            write_checkpoint(self.network.spec, self.network.variables, target, like=path)
            return convert_checkpoint(target)
        write_checkpoint(before.spec, before.variables, target, like=path)
        after = convert_checkpoint(target, name=before.spec.name)
        if after.spec != before.spec:
            raise AssertionError('another spec is read from what was written')
        if not _equal(before, after):
            raise AssertionError('other values are read from what was written')
        return after


def _equal(one: Converted, other: Converted) -> bool:
    left, right = trees.flatten(one.variables), trees.flatten(other.variables)
    return left.keys() == right.keys() and all(
        np.array_equal(left[path].view(np.uint32), right[path].view(np.uint32)) for path in left
    )


def make(seed: int, index: int) -> tuple[str, bytes]:
    """The name of a network, and a file made from it."""
    generator = random.Random(f'like {seed}:{index}')
    name = generator.choice(_WRITABLE)
    others = [networks.seed(other) for other in _WRITABLE]
    content = by_opcode.mutate(networks.seed(name), others, generator)
    pack = legacy if generator.random() < 0.2 else archive
    return name, pack(content, {'0': networks.ONES})
