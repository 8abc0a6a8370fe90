"""A server on this machine that does what real ones do, and counts what it sends."""

import contextlib
import dataclasses
import http.server
import random
import threading
from collections.abc import Callable, Iterator

import pytest

from jaxprune.downloads import _releases

BODY = random.Random(0).randbytes(300_000)


@dataclasses.dataclass
class Server:
    """Answers `/release` with a redirect to `/asset`, as GitHub does; the fields say how `/asset` behaves."""

    url: str = ''
    body: bytes = BODY
    headers: dict[str, str] = dataclasses.field(default_factory=lambda: {'ETag': '"one"'})
    status: int = 200
    length: int | None = 0  # added to the true Content-Length; None: no such header
    ranges: bool = True
    if_range: bool = True
    cut: int | None = None  # the connection is closed after so many bytes of an answer ...
    at_cut: Callable[[], object] = lambda: None  # ... and this; the rest is sent if `cut` is None by then
    location: str = '/asset'
    asked: list[str | None] = dataclasses.field(default_factory=list)  # header Range of every request for `/asset`
    sent: int = 0  # bytes of bodies
    open: threading.Event = dataclasses.field(default_factory=threading.Event)  # set when the test is over


class _Handler(http.server.BaseHTTPRequestHandler):
    state: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == '/release':
            self._head(302, {'Location': self.state.location, 'Content-Length': '0'})
        else:
            self.state.asked.append(self.headers['Range'])
            self._asset(self.state)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _asset(self, state: Server) -> None:
        status, start, headers = state.status, 0, dict(state.headers)
        same = not state.if_range or self.headers['If-Range'] in (*state.headers.values(), None)
        if state.ranges and self.headers['Range'] and same:
            start = int(self.headers['Range'].removeprefix('bytes=').removesuffix('-'))
            status = 206 if start < len(state.body) else 416
            headers['Content-Range'] = f'bytes {start}-{len(state.body) - 1}/{len(state.body)}'
        body = state.body[start:]
        if state.length is not None:
            headers['Content-Length'] = str(len(body) + state.length)
        self._head(status, headers)
        self._send(state, body)

    def _send(self, state: Server, body: bytes) -> None:
        cut = len(body) if state.cut is None else state.cut
        with contextlib.suppress(ConnectionError):
            self._write(state, body[:cut])
            if cut < len(body):
                state.at_cut()
            if state.cut is None:
                self._write(state, body[cut:])

    def _write(self, state: Server, piece: bytes) -> None:
        self.wfile.write(piece)
        state.sent += len(piece)


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Server]:
    for variable in ('http_proxy', 'HTTP_PROXY', 'https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('JAXPRUNE_CACHE', str(tmp_path / 'cache'))
    state = Server()
    handler = type('Handler', (_Handler,), {'state': state})
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as listening:
        listening.daemon_threads = False  # so that leaving this block waits for all answers
        thread = threading.Thread(target=listening.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        state.url = f'http://127.0.0.1:{listening.server_port}/release'
        monkeypatch.setattr(_releases, 'releases', lambda: {'small': state.url})
        try:
            yield state
        finally:
            state.open.set()
            listening.shutdown()
            thread.join()
