"""Downloads from a server on this machine: whole, resumed, held to a checksum, and every way in which they fail."""

import hashlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest

from jaxprune import models
from jaxprune.downloads import _transfer, cache, fetch, releases
from jaxprune.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent


def _cut(server, size):
    """One download that ends after `size` bytes."""
    server.cut = size
    with pytest.raises(UserError):
        fetch('small')
    server.cut = None


def _await_bytes(part) -> None:
    for _ in range(3000):
        if part.exists() and part.stat().st_size:
            return
        time.sleep(0.01)
    raise TimeoutError(part)


def _fails(*words, name='small') -> str:
    """What a failed download says: one line with the address, the way out without a network, and `words`."""
    with pytest.raises(UserError) as raised:
        fetch(name)
    text = str(raised.value)
    assert '\n' not in text
    missing = [word for word in words if str(word) not in text]
    assert not missing, text
    return text


def _fails_with_advice(server, *words) -> None:
    _fails(server.url, 'without a network', f'put the file at {cache() / "small.pt"}', 'give the path', *words)
    assert not (cache() / 'small.pt').exists()


def test_released_names_are_those_of_the_architectures():
    known = releases()
    deploy = set(models.architectures()) - {'yolov7-tiny-silu'}  # never released
    assert set(known) == deploy | {f'{name}_training' for name in deploy - {'yolov7-tiny'}}
    start = 'https://github.com/WongKinYiu/yolov7/releases/download/v0.1'
    assert all(url == f'{start}/{name}.pt' for name, url in known.items())


def test_unknown_name_lists_the_known_ones(server):
    assert _fails('yolov9', 'small', name='yolov9')
    assert server.asked == []


def test_whole_file_then_no_request(server, capsys):
    file = fetch('small')
    assert file == cache() / 'small.pt'
    assert file.read_bytes() == server.body
    shown = capsys.readouterr().err
    assert 'small.pt' in shown
    assert '300.0/300.0 kB' in shown
    assert '/s' in shown
    assert fetch('small') == file
    assert server.asked == [None]
    left = {path.name for path in cache().iterdir()}
    assert left == {'small.pt', 'small.pt.sha256', 'small.pt.lock'}


@pytest.mark.parametrize(
    'headers',
    [{'ETag': '"one"'}, {'Last-Modified': 'Mon, 04 Jul 2022 10:00:00 GMT'}],
    ids=lambda value: next(iter(value)),
)
def test_goes_on_where_the_connection_was_cut(server, headers, capsys):
    server.headers = headers
    for size in (1, 70_000, 131_072, 98_926):  # the last one leaves one byte
        _cut(server, size)
    assert (cache() / 'small.pt.part').stat().st_size == 299_999
    capsys.readouterr()
    assert fetch('small').read_bytes() == server.body
    assert '300.0/300.0 kB' in capsys.readouterr().err
    assert server.asked == [None, 'bytes=1-', 'bytes=70001-', 'bytes=201073-', 'bytes=299999-']
    assert server.sent == len(server.body)


@pytest.mark.parametrize('headers', [{}, {'ETag': 'W/"one"'}])
def test_nothing_tells_the_version_so_it_starts_again(server, headers):
    server.headers = headers
    _cut(server, 100_000)
    assert fetch('small').read_bytes() == server.body
    assert server.asked == [None, None]


def test_server_without_range_starts_again(server):
    server.ranges = False
    _cut(server, 100_000)
    assert fetch('small').read_bytes() == server.body
    assert server.asked == [None, 'bytes=100000-']
    assert server.sent == 400_000


@pytest.mark.parametrize(('if_range', 'requests'), [(True, 2), (False, 3)], ids=['If-Range', 'only-Range'])
@pytest.mark.parametrize('size', [300_000, 250_000])
def test_parts_of_two_versions_are_never_joined(server, if_range, requests, size):
    server.if_range = if_range
    _cut(server, 100_000)
    server.body, server.headers = server.body[::-1][:size], {'ETag': '"two"'}
    assert fetch('small').read_bytes() == server.body
    assert len(server.asked) == requests


def test_size_tells_two_versions_apart_where_the_tag_does_not(server):
    _cut(server, 100_000)
    server.body = server.body[::-1][:250_000]
    assert fetch('small').read_bytes() == server.body
    assert server.asked == [None, 'bytes=100000-', None]


def test_file_that_became_shorter_than_the_part(server):
    server.if_range = False  # answers 416
    _cut(server, 100_000)
    server.body = server.body[:50_000]
    assert fetch('small').read_bytes() == server.body
    assert server.asked == [None, 'bytes=100000-', None]


def test_part_of_another_address_is_not_used(server):
    _cut(server, 100_000)
    server.url = server.url.replace('release', 'asset')
    assert fetch('small').read_bytes() == server.body
    assert server.asked == [None, None]


def test_damaged_state_starts_again(server):
    _cut(server, 100_000)
    (cache() / 'small.pt.part.json').write_bytes(b'\xff{')
    assert fetch('small').read_bytes() == server.body
    assert server.asked == [None, None]


def test_whole_part_needs_no_request(server, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch('small')
    assert fetch('small').read_bytes() == server.body
    assert server.asked == [None]


def test_too_short(server):
    server.length = 10
    _fails_with_advice(server, 'only 300,000 of 300,010 bytes')
    assert not (cache() / 'small.pt.sha256').exists()


def test_no_length(server):
    server.length = None
    _fails_with_advice(server, 'does not say how long')


def test_chunks_have_no_length_but_an_end(server):
    server.headers, server.length = {'ETag': '"one"', 'Transfer-Encoding': 'chunked'}, None
    server.body = b'5\r\nhello\r\n0\r\n\r\n'
    _cut(server, 6)
    assert not (cache() / 'small.pt').exists()
    server.ranges = False  # offsets of chunked answers are not those of the file
    assert fetch('small').read_bytes() == b'hello'


def test_page_instead_of_a_file_keeps_the_part(server):
    _cut(server, 100_000)
    server.headers = {'Content-Type': 'text/html; charset=utf-8'}
    _fails_with_advice(server, 'web page')
    assert (cache() / 'small.pt.part').stat().st_size == 100_000


@pytest.mark.parametrize('status', [403, 404, 500, 204])
def test_status(server, status):
    server.status = status
    server.body = b''
    _fails_with_advice(server, status)


def test_refused_connection(server):
    with socket.create_server(('127.0.0.1', 0)) as free:
        server.url = f'http://127.0.0.1:{free.getsockname()[1]}/release'
    _fails_with_advice(server, 'Connection refused')


def test_no_network(server, monkeypatch):
    def unknown(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    server.url = 'https://host.invalid/release'
    _fails_with_advice(server, 'Name or service not known')


def test_stalled_server(server, monkeypatch):
    monkeypatch.setattr(_transfer, 'TIMEOUT', 0.2)
    server.cut, server.at_cut = 100_000, lambda: server.open.wait(30)
    _fails_with_advice(server, 'no answer for 0.2 seconds')
    assert 0 < (cache() / 'small.pt.part').stat().st_size <= 100_000


@pytest.mark.parametrize(
    'location', ['file:///etc/hostname', 'http://example.invalid/x', 'ftp://127.0.0.1/x', 'data:,x']
)
def test_redirect_to_another_scheme(server, location):
    server.location = location
    _fails_with_advice(server, location)


@pytest.mark.parametrize('url', ['http://example.invalid/x', 'file:///etc/hostname'])
def test_address_that_is_not_https(server, url):
    server.url = url
    _fails_with_advice(server, 'not https')


def test_little_room(server, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: types.SimpleNamespace(free=1000))
    _fails_with_advice(server, '300,000 bytes are needed', 'only 1,000')
    assert server.sent <= 300_000


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full')
def test_full_disk(server):
    cache().mkdir()
    (cache() / 'small.pt.part').symlink_to('/dev/full')
    _fails_with_advice(server, 'No space left on device')


def test_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / 'cache').write_text('a file, where a directory should be')
    _fails_with_advice(server, str(tmp_path / 'cache'), 'JAXPRUNE_CACHE')
    assert server.asked == []


def test_cache_directory(monkeypatch):
    monkeypatch.setenv('HOME', '/h')
    monkeypatch.setenv('XDG_CACHE_HOME', '/x')
    monkeypatch.setenv('JAXPRUNE_CACHE', '~/own')
    assert str(cache()) == '/h/own'
    monkeypatch.setenv('JAXPRUNE_CACHE', '')
    assert str(cache()) == '/x/jaxprune'
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert str(cache()) == '/h/.cache/jaxprune'


def test_checksum_is_recorded_and_held(server):
    file = fetch('small')
    known = hashlib.sha256(server.body).hexdigest()
    assert (cache() / 'small.pt.sha256').read_text() == f'{known}  small.pt\n'
    file.write_bytes(b'changed')
    _fails(file, known, hashlib.sha256(b'changed').hexdigest(), f'delete {file}')
    assert file.read_bytes() == b'changed'
    file.unlink()
    assert fetch('small').read_bytes() == server.body


def test_damaged_download_is_not_kept(server):
    good, file = server.body, fetch('small')
    file.unlink()
    server.body = bytes(len(good))
    _fails(server.url, hashlib.sha256(good).hexdigest(), hashlib.sha256(server.body).hexdigest())
    server.body = good
    assert fetch('small').read_bytes() == good


def test_release_that_was_replaced(server):
    file, known = fetch('small'), hashlib.sha256(server.body).hexdigest()
    file.unlink()
    server.body, server.headers = b'replaced', {'ETag': '"two"'}
    record = cache() / 'small.pt.sha256'
    _fails(server.url, known, hashlib.sha256(b'replaced').hexdigest(), f'delete {record}')
    assert not file.exists()
    record.unlink()
    assert fetch('small').read_bytes() == b'replaced'


def test_file_put_there_by_hand(server):
    cache().mkdir()
    file = cache() / 'small.pt'
    file.write_bytes(b'by hand')
    assert fetch('small') == file
    assert server.asked == []
    file.write_bytes(b'by foot')
    _fails(hashlib.sha256(b'by hand').hexdigest(), hashlib.sha256(b'by foot').hexdigest())


def test_control_c_keeps_the_part(server):
    part = cache() / 'small.pt.part'

    def interrupt():
        _await_bytes(part)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        server.open.wait(30)

    server.cut, server.at_cut = 200_000, interrupt
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a shell's background jobs
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch('small')
    finally:
        signal.signal(signal.SIGINT, before)
    there = part.stat().st_size
    assert 0 < there <= 200_000
    server.cut = None
    assert fetch('small').read_bytes() == server.body
    assert server.asked == [None, f'bytes={there}-']


@pytest.fixture
def start(server):
    """Starts another process that fetches the file."""
    code = f'from jaxprune.downloads import _releases\n_releases.releases = lambda: {{"small": {server.url!r}}}\n'
    code += 'print(_releases.fetch("small"))'
    started = []

    def run() -> subprocess.Popen:
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
        started.append(subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, text=True, **pipes))
        return started[-1]

    yield run
    server.open.set()
    for process in started:
        process.kill()
        process.communicate()


def test_two_at_once_download_once(server, start):
    arrived = threading.Event()
    server.cut, server.at_cut = 200_000, lambda: (arrived.set(), server.open.wait(30))
    first = start()
    assert arrived.wait(30)
    second = start()
    assert 'another process' in second.stderr.readline()
    server.cut = None
    server.open.set()
    for process in (first, second):
        assert process.communicate(timeout=30)[0].strip() == str(cache() / 'small.pt')
        assert process.returncode == 0
    assert (cache() / 'small.pt').read_bytes() == server.body
    assert (server.asked, server.sent) == ([None], 300_000)


def test_killed_process_leaves_no_lock(server, start):
    part, arrived = cache() / 'small.pt.part', threading.Event()
    server.cut, server.at_cut = 200_000, lambda: (arrived.set(), server.open.wait(30))
    process = start()
    assert arrived.wait(30)
    _await_bytes(part)
    process.kill()
    process.wait()
    there = part.stat().st_size
    server.cut = None
    assert fetch('small').read_bytes() == server.body
    assert server.asked == [None, f'bytes={there}-']
