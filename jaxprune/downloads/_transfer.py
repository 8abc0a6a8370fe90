"""One file over HTTP, going on where an earlier transfer ended."""

import contextlib
import dataclasses
import errno
import http.client
import json
import os
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, BinaryIO

from jaxprune import files, progress
from jaxprune.errors import UserError

TIMEOUT = 30  # seconds without an answer: to connect, and between two pieces
_PIECE = 1 << 16  # bytes; what a cut connection loses at most
_LOCAL = ('127.0.0.1', 'localhost', '::1')


@dataclasses.dataclass(frozen=True)
class _Version:
    """What the server had when a part was begun; kept beside the part, so that two files are never glued together."""

    url: str
    tag: str  # ETag or Last-Modified; empty if there is neither
    size: int | None  # bytes; None if not told


def download(url: str, part: pathlib.Path, *, plain: bool = False) -> None:
    """Makes `part` whole, going on where it ends if the server still has the file that it was begun with.

    Args:
      url: its address, https.
      part: the file that grows; what the server had when it was begun is kept beside it until `forget`.
      plain: whether http is good enough.

    Raises:
      OSError, http.client.HTTPException: it is not whole; what has come so far stays.
    """
    begun = _begun(part, url)
    start = part.stat().st_size if begun else 0
    if begun and start == begun.size:
        return
    response, start = _request(url, start, begun, plain)
    with contextlib.ExitStack() as stack:
        stack.enter_context(response)
        size = begun.size if begun and start else _size(response)
        target = stack.enter_context(part.open('ab' if start else 'wb'))
        if not start:  # after `part` is emptied: never an old part with a new state
            _state(part).write_text(json.dumps(dataclasses.asdict(_Version(url, _tag(response), size))))
        _check_space(part.parent, (size or 0) - start)
        done = _receive(response, target, start, size)
    if size not in (None, done):
        raise ConnectionError(f'only {done:,} of {size:,} bytes have come')


def forget(part: pathlib.Path) -> None:
    """Removes what is kept beside a part, once that has its place."""
    _state(part).unlink(missing_ok=True)


def _state(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(f'{part.name}.json')


def _begun(part: pathlib.Path, url: str) -> _Version | None:
    """The version that a part is of; None where there is nothing to go on with."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        version = _Version(**json.loads(_state(part).read_bytes()))
        if version.url == url and version.tag and part.stat().st_size:
            return version
    return None


def _request(url: str, start: int, begun: _Version | None, plain: bool) -> tuple[http.client.HTTPResponse, int]:
    """The answer of the server, and the byte that it starts with: `start`, or 0 if going on is not possible."""
    try:
        response = _open(url, {'Range': f'bytes={start}-', 'If-Range': begun.tag} if begun else {}, plain)
    except urllib.error.HTTPError as error:
        if begun and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _request(url, 0, None, plain)
        raise
    if response.status == http.HTTPStatus.OK:
        return response, 0
    if begun and _goes_on(response, start, begun):
        return response, start
    response.close()
    if begun:
        return _request(url, 0, None, plain)
    raise ConnectionError(f'the server answers {response.status} {response.reason}')


def _goes_on(response: http.client.HTTPResponse, start: int, begun: _Version) -> bool:
    # Not every server that knows Range knows If-Range, so the answer is compared too.
    span = re.fullmatch(r'bytes (\d+)-\d+/(\d+)', response.headers.get('Content-Range', ''))
    return span is not None and (int(span[1]), int(span[2]), _tag(response)) == (start, begun.size, begun.tag)


def _tag(response: http.client.HTTPResponse) -> str:
    etag: str = response.headers.get('ETag', '')
    return etag if etag and not etag.startswith('W/') else response.headers.get('Last-Modified', '')


def _size(response: http.client.HTTPResponse) -> int | None:
    """Bytes of the whole file; None if it comes in chunks, whose end is marked."""
    if response.headers.get_content_type() == 'text/html':
        raise ConnectionError('the answer is a web page, not a file')
    if response.length is None and not response.chunked:
        raise ConnectionError('the server does not say how long the file is')
    return response.length


def _receive(response: http.client.HTTPResponse, target: BinaryIO, start: int, size: int | None) -> int:
    """Appends the body of the answer, each piece as it comes; returns the length of the file."""
    done = start
    title = pathlib.Path(target.name).stem
    with progress.bar(title, size, unit='bytes', done=start) as advance:
        while piece := response.read(_PIECE):
            target.write(piece)
            done += len(piece)
            advance(steps=len(piece))
    target.flush()
    os.fsync(target.fileno())
    return done


def _check_space(folder: pathlib.Path, needed: int) -> None:
    try:
        files.check_space(folder, needed)
    except UserError as error:
        raise OSError(errno.ENOSPC, str(error)) from error


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects to where a download may start; the standard handler would follow one to http or ftp."""

    def __init__(self, plain: bool) -> None:
        self._plain = plain

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: PLR0917
        if not _is_safe(newurl, self._plain):
            raise urllib.error.HTTPError(newurl, code, f'redirected to {newurl}, which is not https', headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_safe(url: str, plain: bool) -> bool:
    address = urllib.parse.urlsplit(url)
    return address.scheme == 'https' or (address.scheme == 'http' and (plain or address.hostname in _LOCAL))


def _open(url: str, headers: dict[str, str], plain: bool) -> http.client.HTTPResponse:
    if not _is_safe(url, plain):
        raise ConnectionError('it is not https')
    opener = urllib.request.build_opener(_SafeRedirects(plain))
    try:
        response: http.client.HTTPResponse = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    return response


def cause(error: Exception) -> str:
    """Why it failed, for an error message."""
    if isinstance(error, urllib.error.HTTPError):
        return str(error)
    reason = getattr(error, 'reason', error)
    if isinstance(reason, TimeoutError):
        return f'no answer for {TIMEOUT} seconds'
    text = getattr(reason, 'strerror', None) or str(reason) or type(reason).__name__
    where = getattr(reason, 'filename', None)
    return f'{where}: {text}' if where else str(text)
