"""Names, the cache directory, and the checksums in it."""

import contextlib
import hashlib
import http.client
import logging
import os
import pathlib
from collections.abc import Iterator

from jaxprune import files, resources
from jaxprune.downloads import _transfer
from jaxprune.errors import UserError

_LOG = logging.getLogger(__name__)


def releases() -> dict[str, str]:
    """Name -> address of every released checkpoint, from `configs/releases.yaml`."""
    import yaml

    content: dict[str, str] = yaml.safe_load(resources.path('releases.yaml').read_text())
    return content


def cache() -> pathlib.Path:
    """Downloads and compiled programs: in `$JAXPRUNE_CACHE`, `$XDG_CACHE_HOME/jaxprune` or `~/.cache/jaxprune`."""
    own, shared = os.environ.get('JAXPRUNE_CACHE'), os.environ.get('XDG_CACHE_HOME')
    return pathlib.Path(os.path.expanduser(own or os.path.join(shared or '~/.cache', 'jaxprune')))


def fetch(name: str) -> pathlib.Path:
    """The file of a released checkpoint, downloaded first if the cache does not have it.

    `NAME.pt` appears whole or not at all. An interrupted download leaves `NAME.pt.part`, with which the next call goes
    on. `NAME.pt.sha256` records the checksum of the first file; every later one, downloaded or not, is held to it. A
    file that was put into the cache by hand is taken as it is. Several processes may ask for the same file.

    Args:
      name: a key of `releases`.

    Raises:
      UserError: no release has that name; it cannot be downloaded; or the file is not the one first recorded.
    """
    known = releases()
    if name not in known:
        raise UserError(f'{name}: no release has this name; there are {", ".join(known)}')
    file = cache() / f'{name}.pt'
    try:
        if os.path.isfile(file):
            _check(file)
        else:
            _get(known[name], file)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(_advice(known[name], file, error)) from error
    return file


def _get(url: str, file: pathlib.Path) -> None:
    part = file.with_name(f'{file.name}.part')
    file.parent.mkdir(parents=True, exist_ok=True)
    with _lock(file):
        if os.path.isfile(file):
            return  # another process has downloaded and checked it meanwhile
        _transfer.download(url, part)
        _keep(url, part, file)
        _transfer.forget(part)


@contextlib.contextmanager
def _lock(file: pathlib.Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock when the process ends, however it ends."""
    import fcntl

    with file.with_name(f'{file.name}.lock').open('ab') as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.warning('%s: another process is downloading it; waiting', file)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _digests(content: pathlib.Path, file: pathlib.Path) -> tuple[str, str, pathlib.Path]:
    """SHA-256 of `content`, the one recorded for `file` (recorded now if there is none), and where that is."""
    record = file.with_name(f'{file.name}.sha256')
    with content.open('rb') as stream:
        digest = hashlib.file_digest(stream, 'sha256').hexdigest()
    if not record.exists():
        _record(record, digest, file)
    return digest, record.read_text(errors='replace')[:64], record


def _record(record: pathlib.Path, digest: str, file: pathlib.Path) -> None:
    try:
        files.write_text(record, f'{digest}  {file.name}\n')  # what `sha256sum -c` reads
    except UserError as error:
        raise UserError(
            f'{record}: the checksum cannot be recorded ({error.__cause__}); give the path of the file instead of the'
            ' name, or move the cache with JAXPRUNE_CACHE'
        ) from error


def _check(file: pathlib.Path) -> None:
    digest, recorded, record = _digests(file, file)
    if digest != recorded:
        raise UserError(
            f'{file}: its SHA-256 is {digest}, but {record.name} beside it says {recorded}: one of the two has changed;'
            f' delete {file} to download it again'
        )


def _keep(url: str, part: pathlib.Path, file: pathlib.Path) -> None:
    digest, recorded, record = _digests(part, file)
    if digest == recorded:
        os.replace(part, file)
        return
    part.unlink()
    raise UserError(
        f'{url}: the SHA-256 of the download is {digest}, but {record} says {recorded}, from an earlier file; the'
        ' download was not kept: try again, or, if you know that the earlier file was outdated or damaged, delete'
        f' {record}'
    )


def _advice(url: str, file: pathlib.Path, error: Exception) -> str:
    return (
        f'{url}: cannot be fetched ({_transfer.cause(error)}); run the command again to go on, or, without a network,'
        f' download this address on another machine and put the file at {file}, or give the path of the file instead of'
        ' the name (JAXPRUNE_CACHE moves the cache)'
    )
