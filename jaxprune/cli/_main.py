"""From the arguments to an exit code: 0, 2 for a user's mistake (one line on standard error), 130 when interrupted."""

import argparse
import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from jaxprune.cli import _commands
from jaxprune.errors import UserError


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'{self.prog}: error: {message} (see "{self.prog} --help")\n')


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command, the process's own where no arguments are given; raises `SystemExit` where it fails."""
    try:
        _run(arguments)
    except SystemExit as stop:
        if arguments is None and isinstance(stop.code, int) and stop.code:
            _leave(stop.code)
        raise


def _keep_programs() -> None:
    """Compiled programs serve later commands, too, where JAX's own variables do not say otherwise."""
    from jaxprune import downloads

    folder = downloads.cache() / 'compiled'
    with contextlib.suppress(OSError):  # no room or no right to write: they are compiled every time
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder))
        os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.02')
        warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation cache')


def _leave(code: int) -> NoReturn:
    """Ends the process at once: the device may still compute, and crashes when the interpreter goes away under it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _run(arguments: Sequence[str] | None) -> None:
    parser = _Parser(prog='jaxprune', description='YOLOv7 in JAX, and structured filter pruning.')
    commands = parser.add_subparsers(metavar='COMMAND', required=True, parser_class=_Parser)
    for command in _commands.COMMANDS:
        command(commands)
    options = parser.parse_args(arguments)
    if arguments is None:
        _keep_programs()
    try:
        _join_processes(getattr(options, 'distributed', None))
        _set_device(getattr(options, 'device', None))
        options.run(options)
        sys.stdout.flush()
    except UserError as error:
        _fail(' '.join(str(error).split()), 2)
    except KeyboardInterrupt:
        _fail('interrupted; commands that take long go on where they stopped when started again', 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        _fail(f'{error.filename or "output"}: {error.strerror}', 2)


def _fail(message: str, code: int) -> NoReturn:
    print(f'jaxprune: error: {message}', file=sys.stderr)
    sys.exit(code)


def _join_processes(given: Sequence[str] | None) -> None:
    """Makes this one of several processes: coordinator, their number and its own, or nothing where JAX finds them."""
    if given is None:
        return
    import jax

    numbers = [int(number) if number.isascii() and number.isdecimal() else -1 for number in given[1:]]
    if len(given) not in (0, 3) or min(numbers, default=0) < 0 or (numbers and not numbers[0]):
        raise UserError(
            f'--distributed {" ".join(given)}: give HOST:PORT of the first process, how many there are, and which one '
            'this is, counted from 0; or nothing, where JAX finds them itself'
        )
    if numbers and numbers[1] >= numbers[0]:
        raise UserError(f'--distributed {" ".join(given)}: processes are counted from 0 to {numbers[0] - 1}')
    try:
        if given:
            jax.distributed.initialize(given[0], num_processes=numbers[0], process_id=numbers[1])
        else:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UserError(f'--distributed: the processes do not find each other ({error})') from error


def _set_device(name: str | None) -> None:
    """Makes `cpu`, `gpu`, `tpu` or `gpu:1` the device that everything runs on."""
    if name is None:
        return
    import jax

    kind, _, index = name.partition(':')
    try:
        jax.config.update('jax_default_device', jax.devices(kind)[int(index or 0)])
    except (RuntimeError, ValueError, IndexError) as error:
        found = sorted({device.platform for device in jax.devices()})
        raise UserError(f'device {name!r} is not here (found: {", ".join(found)})') from error
