"""The files to try: each follows from the seed of a campaign and its number, so that any can be made again."""

import functools
import pathlib
import random
import zipfile

from fuzz import by_bytes, by_opcode, by_zip, networks
from fuzz.emit import archive, legacy

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden' / 'convert'
_LARGE = 0.01  # of the files are made from a whole architecture, and take long
_LARGEST_SEED = 14_000  # bytes; a file takes time in proportion


@functools.cache
def pickles() -> dict[str, bytes]:
    """Pickles to start from: of hand-made networks, and of small files that PyTorch wrote."""
    found = {name: networks.seed(name) for name in networks.TREES if name != 'registry'}
    for path in sorted(GOLDEN.rglob('*.pt')):
        if path.stat().st_size < _LARGEST_SEED and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                found[path.stem] = file.read(next(name for name in file.namelist() if name.endswith('/data.pkl')))
    return found


@functools.cache
def wholes() -> dict[str, bytes]:
    """Whole files to start from."""
    storages = {'0': networks.ONES}
    found = {f'{name}-zip': archive(content, storages) for name, content in pickles().items()}
    found |= {f'{name}-legacy': legacy(networks.seed(name), storages) for name in networks.TREES if name != 'registry'}
    found |= {f'{name}-packed': archive(networks.seed(name), storages, compression=8) for name in ('tiny', 'parallel')}
    small = [path for path in sorted(GOLDEN.rglob('*.pt')) if path.stat().st_size < _LARGEST_SEED]
    return found | {path.stem: path.read_bytes() for path in small}


def make(seed: int, index: int) -> tuple[str, bytes]:
    """A file, and a word for how it was made."""
    generator = random.Random(f'{seed}:{index}')
    storage = networks.ONES if generator.random() < 0.95 else generator.randbytes(len(networks.ONES))
    choice = generator.random()
    if choice < 0.15:
        files = list(wholes().values())
        return 'bytes', by_bytes.mutate(generator.choice(files), files, generator)
    contents = list(pickles().values())
    content = networks.seed('registry') if generator.random() < _LARGE else generator.choice(contents)
    if choice < 0.75:
        content = by_opcode.mutate(content, contents, generator)
        packed = legacy(content, {'0': storage}) if generator.random() < 0.2 else archive(content, {'0': storage})
        return 'opcodes', packed
    if choice < 0.9:
        return 'archive', by_zip.mutate(content, storage, generator)
    return 'pickle bytes', archive(by_bytes.mutate(content, contents, generator), {'0': storage})
