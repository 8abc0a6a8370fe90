"""The result table of a scan: JSON, a row per line, appended and flushed as rows are measured.

Where several processes share a scan, each appends to a file of its own beside the table (`NAME.shard-K`) and reads
those of the others; whoever finds the table complete joins them.
"""

import contextlib
import dataclasses
import fcntl
import glob
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

import jax

from jaxprune import files
from jaxprune.errors import UserError

Key = tuple[int | str | None, float]
_SETTINGS = 'settings'
_START = '{"layer": '


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of a scan a process does: number `index` of `count`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f'share {self.index} of {self.count}: shares are counted from 0 to {self.count - 1}')


def own_share() -> Share:
    """That of this process among those of `jax.distributed`."""
    return Share(jax.process_index(), jax.process_count())


class Table:
    """A table on disk that a scan goes on with.

    Every row carries `settings`, a digest of the model, the data and the options that it was measured with.

    Attributes:
      share: of this process.
      rows: (layer, rate) -> row, of all processes, as far as known.
    """

    def __init__(self, path: str | os.PathLike[str], settings: str, *, share: Share | None = None) -> None:
        """Reads the rows that are there; a last line that was cut off by a kill is dropped.

        Until `close`, no other process can add to the file.

        Args:
          path: the table.
          settings: digest of everything that the rows depend on.
          share: of this process; None: `own_share()`.

        Raises:
          UserError: where the file is not a table, was measured with other settings, is being added to by another
            process, or cannot be written.
        """
        self._path = pathlib.Path(path)
        self._settings = settings
        self.share = share or own_share()
        shard = f'{self._path.name}.shard-{self.share.index}'
        self._own = self._path if self.share.count == 1 else self._path.with_name(shard)
        self.rows: dict[Key, dict[str, Any]] = {}
        self.refresh()  # refuses what is no table before there is a file
        self._file = _opened(self._own)
        try:
            self._mend()
            self.refresh()
        except UserError:
            self.close()
            raise

    def __contains__(self, key: Key) -> bool:
        return key in self.rows

    def refresh(self) -> None:
        """Reads what all processes have measured by now."""
        for file in (self._path, *self._shards()):
            self.rows |= {(row['layer'], row['rate']): _without_settings(row) for row in self._read(file)}

    def append(self, row: dict[str, Any]) -> None:
        """Adds a measured row and flushes it to the disk."""
        self.rows[row['layer'], row['rate']] = row
        with self._writing():
            self._file.write(self._line(row))

    def join(self, keys: Iterable[Key]) -> bool:
        """Whether all these rows are there; if so, the table has them in this order, and the shards are gone."""
        self.refresh()
        keys = list(keys)
        if any(key not in self.rows for key in keys):
            return False
        shards = self._shards()
        if shards:
            order = dict.fromkeys([*keys, *self.rows])
            files.write_text(self._path, ''.join(self._line(self.rows[key]) for key in order))
            for shard in shards:
                shard.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Closes the file; a row that could not be written has been reported by then."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _shards(self) -> list[pathlib.Path]:
        return sorted(self._path.parent.glob(f'{glob.escape(self._path.name)}.shard-*'))

    def _read(self, file: pathlib.Path) -> list[dict[str, Any]]:
        try:
            rows = _parse(file)
        except FileNotFoundError:
            return []
        if any(row.get(_SETTINGS) != self._settings for row in rows):
            raise UserError(
                f'{file}: was measured with another model, data set or options; name another file or remove it'
            )
        return rows

    def _mend(self) -> None:
        """Leaves whole rows in the file: a last one that was cut off goes."""
        lines = self._own.read_text(encoding='utf-8').splitlines(keepends=True)
        rows = lines[: len(self._read(self._own))]
        with self._writing():
            self._file.truncate(len(''.join(rows).encode()))
            if rows and not rows[-1].endswith('\n'):
                self._file.write('\n')

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
            self._file.flush()
        except OSError as error:
            raise UserError(f'{self._own}: cannot be written ({error.strerror}); rows up to here are kept') from error

    def _line(self, row: dict[str, Any]) -> str:
        return json.dumps({**row, _SETTINGS: self._settings}) + '\n'


def _opened(file: pathlib.Path) -> IO[str]:
    """To be added to, by one process at a time; the system forgets the lock when the process ends, however it ends."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open('a', encoding='utf-8')
    except OSError as error:
        raise UserError(f'{file}: cannot be written ({error.strerror}); name another file') from error
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        opened.close()
        raise UserError(
            f'{file}: another process is measuring it; wait for its end, or give every process a share of its own'
        ) from error
    except OSError:
        pass  # a file system without locks
    return opened


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a table, `settings` left out.

    Raises:
      UserError: where the file is missing or is not a table.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f'{file}: no such file; make it with "jaxprune scan"')
    return [_without_settings(row) for row in _parse(file)]


def _without_settings(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != _SETTINGS}


def _parse(file: pathlib.Path) -> list[dict[str, Any]]:
    if file.exists() and not file.is_file():
        raise UserError(f'{file}: is not a file, as a table of "jaxprune scan" is; name another one')
    try:
        lines = file.read_text(encoding='utf-8').splitlines(keepends=True)
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{file}: cannot be read ({error}); it should be a table of "jaxprune scan"') from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines) and _is_cut_off(line):
                break
            raise UserError(
                f'{file}, line {number}: not a row of a scan ({error}); remove the line or the file'
            ) from error
    return rows


def _row(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row['layer'], int | str | None) or not isinstance(row['rate'], int | float):
        raise TypeError(f'layer {row["layer"]!r} or rate {row["rate"]!r} is none')
    return row


def _is_cut_off(line: str) -> bool:
    """Whether a line is the beginning of a row, and not something else that the user keeps in the file."""
    return not line.endswith('\n') and (line.startswith(_START) or _START.startswith(line))
