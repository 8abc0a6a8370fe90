"""Files that a coverage-guided fuzzer finds: it keeps those that reach new lines of the reader, to change them more.

Needs atheris; the process must have called `instrument` before it imports the reader. An input is one byte that says
how the rest is packed, and a pickle or a whole file.
"""

import os
import random
import sys
import traceback
from collections.abc import Callable
from typing import Any

ZIP, LEGACY, WHOLE, ODD_ZIP = range(4)
_LONGEST = 20_000  # bytes of a file
_READER = ('weights_convert', 'zipfile')  # atheris 2.3.0 breaks pickletools on Python 3.11


def instrument() -> None:
    """Loads the reader so that its branches and comparisons are counted."""
    import atheris

    for name in _READER:
        sys.modules.pop(name, None)
    with atheris.instrument_imports(include=list(_READER)):
        import weights_convert  # noqa: F401


def packed(data: bytes) -> bytes:
    """The file that an input stands for."""
    from fuzz import by_zip, networks
    from fuzz.emit import archive, legacy

    kind, content = (data[0] % 4 if data else WHOLE), data[1:]
    if kind == WHOLE:
        return content
    if kind == ODD_ZIP:
        return by_zip.mutate(content, networks.ONES, random.Random(content))
    return (archive if kind == ZIP else legacy)(content, {'0': networks.ONES})


def mutated(data: bytes, longest: int, seed: int) -> bytes:
    """Another input: by opcodes where it is a pickle, by bytes where it is not, or not any more."""
    import atheris

    from fuzz import by_bytes, by_opcode, files

    generator = random.Random(seed)
    kind, content = (data[0] % 4 if data else ZIP), data[1:] or b'N.'
    if generator.random() < 0.05:
        kind = generator.choice((ZIP, LEGACY, ODD_ZIP))
    choice = generator.random()
    if choice < 0.1:
        content = atheris.Mutate(content, longest - 1)
    elif choice < 0.85 and kind != WHOLE:
        contents = list(files.pickles().values())
        try:
            content = by_opcode.mutate(content, contents, generator)
        except (ValueError, UnicodeError, OverflowError):
            content = by_bytes.mutate(content, contents, generator)
    else:
        content = by_bytes.mutate(content, list(files.wholes().values()), generator)
    return (bytes([kind]) + content)[:longest]


def run(worker: Any, seed: int, count: int) -> None:
    """Tries `count` files and ends the process."""
    import atheris

    from fuzz import files

    corpus = worker.folder / 'corpus'
    corpus.mkdir(exist_ok=True)
    for name, content in files.pickles().items():
        (corpus / name).write_bytes(bytes([ZIP]) + content)
        (corpus / f'{name}-legacy').write_bytes(bytes([LEGACY]) + content)
    for name, content in files.wholes().items():
        (corpus / f'{name}-whole').write_bytes(bytes([WHOLE]) + content)
    worker.watches_output = False  # the fuzzer reports on its progress
    start = worker.done

    def attempt(data: bytes) -> None:
        worker.attempt(worker.done - start, 'guided', packed(data))
        if worker.done - start >= count:
            (worker.folder / 'done').touch()
            sys.stdout.flush()
            os._exit(0)  # the fuzzer has no other end

    options = [f'-seed={seed + 1}', f'-max_len={_LONGEST}', '-timeout=0', '-rss_limit_mb=0', '-print_final_stats=1']
    atheris.Setup(
        [sys.argv[0], *options, '-len_control=0', str(corpus)], _guarded(attempt), custom_mutator=_guarded(mutated)
    )
    atheris.Fuzz()


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Ends the process where the fuzzing program itself has an error, or it would wait for its threads forever."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    return call
