"""Files and directories that appear whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from jaxprune.errors import UserError


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A temporary directory beside `path` that takes its place when the block ends without an error."""
    final = pathlib.Path(path)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(prefix=f'.{final.name}.', dir=final.parent))
    except OSError as error:
        raise UserError(f'{final}: cannot be written ({error.strerror}); choose another output directory') from error
    try:
        yield work
        work.chmod(0o755)
        _swap(work, final)
    except OSError as error:
        raise UserError(f'{final}: cannot be written ({error.strerror or error}); nothing was changed') from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(work: pathlib.Path, final: pathlib.Path) -> None:
    if not final.exists():
        os.replace(work, final)
        return
    old = pathlib.Path(tempfile.mkdtemp(prefix=f'.{final.name}.old.', dir=final.parent))
    os.replace(final, old / 'old')
    os.replace(work, final)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON to a temporary name, then renames it."""
    final = pathlib.Path(path)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f'.{final.name}.{os.getpid()}')
        temporary.write_text(json.dumps(content, indent=1) + '\n')
        os.replace(temporary, final)
    except OSError as error:
        raise UserError(f'{final}: cannot be written ({error.strerror}); choose another output file') from error
