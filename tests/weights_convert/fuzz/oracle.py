"""What may happen to a file: it converts to a model that fits its spec, or is refused with one clear line. No more.

Nothing may be opened besides the file, nothing imported, run, printed or warned of, and time and memory have limits.
"""

import codecs
import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxprune import models, trees
from jaxprune.models import spec as specs
from weights_convert import ConversionError, Converted, convert_checkpoint

HANG = 5.0  # seconds of wall-clock time after which a file is given up
SLOW = 1.0, 100e-6  # seconds of processor time: for any file, and per byte of it
LARGE = 100 << 20, 60  # bytes of additional memory: for any file, and per byte of it
LONGEST = 2000  # characters of an error message
CONVERTED, REFUSED, FINDING = 'converted', 'refused', 'finding'

for _encoding in ('raw-unicode-escape', 'unicode-escape', 'utf-8', 'cp437', 'ascii', 'latin-1'):
    codecs.lookup(_encoding)  # loads it; opcodes and archives use these

# What Python reports about itself in passing; everything else is an act of the program.
_HARMLESS = (
    'mmap.',
    'object.__getattr__',
    'object.__setattr__',
    'sys._getframe',
    'code.__new__',
    'gc.',
    'builtins.id',
    'time.sleep',
)
_READING = ('open', 'os.scandir', 'os.listdir', 'pathlib.Path.glob', 'glob.glob')
_WRITING = ('open', 'os.rename', 'os.remove', 'os.mkdir', 'os.chmod', 'tempfile.')
_ROOT = pathlib.Path(__file__).parents[3]
_OWN = tuple(
    str(path) for path in (_ROOT, pathlib.Path(os.__file__).parent, *filter(None, [sys.prefix, sys.exec_prefix]))
)
_VARIABLE = re.compile(r"'(?:[^'\\]|\\.)*'?|\"[^\"]*\"|\([\d, ]*\)|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|\w+(?:\.\w+)+|…+")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
      kind: `converted`, `refused` or `finding`.
      text: the message without what varies in it; of a finding what was wrong.
      seconds: processor time.
      memory: largest additional memory, in bytes.
      detail: of a finding, the whole story.
    """

    kind: str
    text: str
    seconds: float
    memory: int
    detail: str = ''


class _Hang(BaseException):
    """Raised in the midst of a conversion that takes too long."""


class _Watch:
    """Events that Python's audit hook reports while a file is being converted."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.thread: int | None = None
        self.allowed = ''
        self.writes: str | None = None
        self._installed = False

    @contextlib.contextmanager
    def __call__(self, allowed: pathlib.Path, writes: pathlib.Path | None) -> Iterator[list[str]]:
        if not self._installed:
            sys.addaudithook(self._hook)  # cannot be taken away again, and does nothing outside of this block
            self._installed = True
        self.events, self.allowed, self.writes = [], str(allowed), f'{writes}/' if writes else None
        self.thread = threading.get_ident()
        try:
            yield self.events
        finally:
            self.thread = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.thread != threading.get_ident() or event.startswith(_HARMLESS):
            return
        if (
            event in _READING
            and arguments[0] is not None
            and self._may_read(os.fspath(arguments[0]), str(arguments[1]) if event == 'open' else 'r')
        ):
            return
        if self.writes and event.startswith(_WRITING) and f'{arguments[0]}/'.startswith(self.writes):
            return
        self.events.append(f'{event} {", ".join(map(_short, arguments[:2]))}')

    def _may_read(self, path: str | bytes | int, mode: str) -> bool:
        """The file and what it may be written to; the project's configurations; and source lines, for tracebacks."""
        own = isinstance(path, str) and path.startswith(_OWN) and path.endswith(('.py', '.yaml', '/models'))
        return path == self.allowed or (own and not set(mode) & set('wax+'))


def _short(value: object) -> str:
    return repr(value)[:80] if isinstance(value, str | bytes | int | pathlib.Path | None) else type(value).__name__


_watch = _Watch()


def check(
    path: pathlib.Path,
    *,
    convert: Callable[[pathlib.Path], Converted] = convert_checkpoint,
    writes: pathlib.Path | None = None,
) -> Outcome:
    """Converts a file and says what became of it.

    Args:
      path: the file.
      convert: what is to be tested.
      writes: a folder in which it may leave one file, `out.pt`.
    """
    size = path.stat().st_size
    problems: list[str] = []
    kind, text = FINDING, ''
    output = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, _memory() as memory:
        warnings.simplefilter('always')
        start = time.thread_time()
        try:
            with _output_to(output), _alarm(), _watch(path, writes) as events:
                converted = convert(path)
            kind, text = CONVERTED, f'converted ({converted.spec.form})'
        except ConversionError as error:
            kind, text = REFUSED, normalised(str(error).partition('.pt: ')[2])
            problems += _wrong_message(str(error), path, writes)
        except _Hang:
            problems.append(f'takes more than {HANG} s')
        except BaseException as error:
            problems.append(_raised(error))
            if isinstance(error, KeyboardInterrupt):
                raise
        seconds = time.thread_time() - start
    problems += [f'does {event}' for event in dict.fromkeys(events)]
    problems += [f'warns: {warning.category.__name__}: {warning.message}' for warning in warned]
    problems += [f'prints {output.getvalue()[:200]!r}'] if output.getvalue() else []
    problems += [f'takes {seconds:.1f} s for {size} bytes'] if seconds > SLOW[0] + SLOW[1] * size else []
    problems += [f'takes {memory[0] >> 20} MB for {size} bytes'] if memory[0] > LARGE[0] + LARGE[1] * size else []
    left = {file.name for file in writes.iterdir()} - {'out.pt'} if writes and writes.exists() else ()
    problems += [f'leaves {name}' for name in left]
    problems += _misfits(converted) if kind == CONVERTED else []
    if problems:
        kind, text = FINDING, normalised(problems[0].splitlines()[0])
    return Outcome(kind, text, seconds, memory[0], '\n'.join(problems))


@contextlib.contextmanager
def _output_to(output: io.StringIO) -> Iterator[None]:
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield


def normalised(message: str) -> str:
    """An error message without names and numbers, so that equal ones can be counted."""
    return _VARIABLE.sub('…', message)[:110]


def _wrong_message(message: str, path: pathlib.Path, writes: pathlib.Path | None) -> list[str]:
    wrong = []
    if not message.startswith((f'{path}: ', *([f'{writes}/out.pt: '] if writes else []))):
        wrong.append('message does not name the file')
    if not message.isprintable():
        wrong.append('message is not one printable line')
    if len(message) - len(str(path)) > LONGEST:
        wrong.append('message is too long')
    return [f'{each}: {message[:400]!a}' for each in wrong]


def _raised(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if 'weights_convert' in frame.filename]
    place = next((f'{pathlib.Path(frame.filename).name}:{frame.name}' for frame in reversed(frames)), '?')
    text = ''.join(traceback.format_exception(error, limit=-12))
    return f'raises {type(error).__name__} in {place}: {str(error)[:100]!a}\n{text[-3000:]}'


def _misfits(converted: Converted) -> list[str]:
    """Where a spec makes no sense, or the variables are not those that it needs."""
    spec = converted.spec
    try:
        plain = json.loads(json.dumps(spec.to_json(), allow_nan=False))
        expected = _shapes(dataclasses.replace(spec, name='-', classes=('-',) * len(spec.classes)))
    except Exception as error:
        return [f'converts to an unusable spec: {_raised(error)}']
    wrong = [] if specs.ArchSpec.from_json(plain) == spec else ['converts to a spec that does not survive JSON']
    leaves = trees.flatten(converted.variables).values()
    if trees.diff(expected, converted.variables) or any(leaf.dtype != np.float32 for leaf in leaves):
        wrong.append('converts to variables that do not fit the spec')
    if not ''.join((spec.name, *spec.classes, *converted.unexpected_calls)).isprintable():
        wrong.append('converts to names that cannot be printed')
    return wrong


@functools.lru_cache(maxsize=256)
def _shapes(spec: specs.ArchSpec) -> dict[str, Any]:
    return models.shapes(spec)


def forward(converted: Converted) -> list[str]:
    """Runs a converted model on the smallest image; problems, if there are any. Takes seconds, to compile."""
    size = converted.spec.max_stride
    try:
        outputs = models.heads(
            models.Detector(converted.spec), converted.variables, np.zeros((1, size, size, 3), np.float32)
        )
    except Exception as error:
        return [f'converts to a model that does not run: {_raised(error)}']
    shapes = [output.shape[3:] for output in outputs]
    fits = all(
        shape == (len(level), 5 + len(converted.spec.classes))
        for shape, level in zip(shapes, converted.spec.anchors, strict=True)
    )
    return [] if fits else [f'converts to a model with outputs of shapes {shapes}']


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Hang

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, HANG, 0.5)  # again and again, as others catch all exceptions
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory() -> Iterator[list[int]]:
    """Largest resident memory within the block, beyond that at its beginning (Linux; elsewhere 0)."""
    peak = [0]
    try:
        pathlib.Path('/proc/self/clear_refs').write_text('5')  # forget the largest so far
        before = _resident()[0]
    except OSError:
        yield peak
        return
    yield peak
    peak[0] = max(0, _resident()[1] - before)


def _resident() -> tuple[int, int]:
    """Bytes of resident memory, now and at most."""
    with open('/proc/self/status', 'rb') as file:
        text = file.read()
    now, most = (int(text[text.index(key) + len(key) :].split(None, 1)[0]) << 10 for key in (b'VmRSS:', b'VmHWM:'))
    return now, most
