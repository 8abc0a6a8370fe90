"""Files and directories that appear whole or not at all."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from jaxprune.errors import UserError

Path = str | os.PathLike[str]


def write_bytes(path: Path, content: bytes) -> pathlib.Path:
    """Writes a file to a temporary name, then renames it; makes its directory where that is missing.

    Raises:
      UserError: where it cannot be written, such as on a full disk; what was there before stays.
    """
    with atomic_file(path) as file:
        file.write(content)
    return pathlib.Path(path)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside `path`, open to be written, that takes its place when the block ends without an error.

    Raises:
      UserError: where it cannot be written, such as on a full disk; what was there before stays.
    """
    final = pathlib.Path(path)
    temporary = final.with_name(f'.{final.name}.{os.getpid()}')
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open('wb') as file:
            yield file
        os.replace(temporary, final)
    except OSError as error:
        raise UserError(f'{final}: cannot be written ({error.strerror}); choose another output') from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> pathlib.Path:
    """`write_bytes` of text as UTF-8."""
    return write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> pathlib.Path:
    """`write_bytes` of JSON."""
    return write_text(path, json.dumps(content, indent=1) + '\n')


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[pathlib.Path]:
    """A temporary directory beside `path` that takes its place when the block ends without an error.

    Raises:
      UserError: where it cannot be written, such as on a full disk; what was there before stays.
    """
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


def check_space(path: Path, needed: int) -> None:
    """Raises `UserError` where the disk that holds `path`, an existing directory, has fewer bytes left than needed."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise UserError(f'{path}: {needed:,} bytes are needed, but only {free:,} are left on the disk; make room')


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the `ValueError` by which orbax's storage reports a full disk into the `OSError` that it is."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file's contents; `UserError` where it cannot be read."""
    try:
        with pathlib.Path(path).open('rb') as content:
            return hashlib.file_digest(content, 'sha256').hexdigest()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error


def digest(directory: Path) -> str:
    """A short digest of all files in a directory, their names and contents; hidden ones do not count."""
    root, state = pathlib.Path(directory), hashlib.sha256()
    for file in sorted(path for path in root.rglob('*') if path.is_file() and path.name[0] != '.'):
        state.update(file.relative_to(root).as_posix().encode() + b'\0')
        state.update(bytes.fromhex(file_digest(file)))
    return state.hexdigest()[:32]


def _swap(work: pathlib.Path, final: pathlib.Path) -> None:
    if not final.exists():
        os.replace(work, final)
        return
    old = pathlib.Path(tempfile.mkdtemp(prefix=f'.{final.name}.old.', dir=final.parent))
    os.replace(final, old / 'old')
    os.replace(work, final)
    shutil.rmtree(old, ignore_errors=True)
