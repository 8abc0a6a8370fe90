"""The result table of a scan: JSON, a row per line, appended and flushed as rows are measured."""

import contextlib
import json
import os
import pathlib
from typing import Any

from jaxprune import files
from jaxprune.errors import UserError

Key = tuple[int | None, float]
_SETTINGS = 'settings'
_START = '{"layer": '


class Table:
    """A table on disk that a scan goes on with.

    Every row carries `settings`, a digest of the model, the data and the options that it was measured with.
    """

    def __init__(self, path: str | os.PathLike[str], settings: str) -> None:
        """Reads the rows that are there; a last line that was cut off by a kill is dropped.

        Raises:
          UserError: where the file is not a table, was measured with other settings, or cannot be written.
        """
        self._path = pathlib.Path(path)
        self._settings = settings
        rows = _parse(self._path) if self._path.exists() else []
        if any(row.get(_SETTINGS) != settings for row in rows):
            raise UserError(
                f'{self._path}: was measured with another model, data set or options; name another file or remove it'
            )
        self.rows = {(row['layer'], row['rate']): _without_settings(row) for row in rows}
        self._rewrite(rows)
        try:
            self._file = self._path.open('a', encoding='utf-8')
        except OSError as error:
            raise UserError(f'{self._path}: cannot be written ({error.strerror}); name another file') from error

    def __contains__(self, key: Key) -> bool:
        return key in self.rows

    def append(self, row: dict[str, Any]) -> None:
        """Adds a measured row and flushes it to the disk."""
        self.rows[row['layer'], row['rate']] = row
        try:
            self._file.write(json.dumps({**row, _SETTINGS: self._settings}) + '\n')
            self._file.flush()
        except OSError as error:
            raise UserError(
                f'{self._path}: cannot be written ({error.strerror}); rows before this one are kept'
            ) from error

    def close(self) -> None:
        """Closes the file; a row that could not be written has been reported by then."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        text = ''.join(json.dumps(row) + '\n' for row in rows)
        if self._path.exists() and self._path.read_text(encoding='utf-8') == text:
            return
        files.write_text(self._path, text)


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
    try:
        lines = file.read_text(encoding='utf-8').splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{file}: cannot be read ({error}); it should be a table of "jaxprune scan"') from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and _is_cut_off(line):
                break
            raise UserError(
                f'{file}, line {number}: not a row of a scan ({error}); remove the line or the file'
            ) from error
    return rows


def _row(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row['layer'], int | None) or not isinstance(row['rate'], int | float):
        raise TypeError(f'layer {row["layer"]!r} or rate {row["rate"]!r} is not a number')
    return row


def _is_cut_off(line: str) -> bool:
    """Whether a line is the beginning of a row, and not something else that the user keeps in the file."""
    return not line.endswith('\n') and (line.startswith(_START) or _START.startswith(line))
