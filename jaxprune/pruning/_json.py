"""Reading and writing plans as JSON."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxprune.errors import UserError

VERSION = 1


def check_header(plain: Any, kind: str) -> None:
    """A `UserError` unless `plain` is a plan of this kind and of a version that can be read here."""
    if not isinstance(plain, Mapping) or 'version' not in plain:
        raise UserError('this is not a plan: it has no version')
    if plain['version'] != VERSION:
        raise UserError(f'plan version {plain["version"]!r} cannot be read here (this program reads version {VERSION})')
    if plain.get('kind') != kind:
        raise UserError(f'plan is of kind {plain.get("kind")!r}, not {kind!r}')


def read_json(file: str | os.PathLike[str]) -> Any:
    """What a JSON file says; a `UserError` names the file if it is missing or no JSON."""
    try:
        return json.loads(pathlib.Path(file).read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{file}: cannot be read: {error.strerror}') from error
    except ValueError as error:
        raise UserError(f'{file}: is not JSON: {error}') from error


def whole_numbers(values: Any) -> tuple[int, ...]:
    """The values, if all are whole numbers; else a TypeError."""
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f'{value!r} is not a whole number')
    return tuple(values)
