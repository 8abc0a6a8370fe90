"""Fetches the archives that a data set's file names, once, when its images are not there."""

import http.client
import logging
import pathlib
import urllib.parse
import zipfile
from collections.abc import Mapping
from typing import Any

from jaxprune import downloads
from jaxprune.errors import UserError

_LOG = logging.getLogger(__name__)


def download(file: pathlib.Path, split: str, source: object, root: pathlib.Path) -> None:
    """Downloads and unpacks zip archives under the data set's folder.

    Args:
        file: the data set's file (for messages).
        split: the split that is missing.
        source: the entry `download`: an address, a list of addresses, or one of those per split. An item may be a
            mapping with `url` and `into`, a folder relative to `root`. Commands and code are never run.
        root: the data set's folder.

    Raises:
        UserError: an item is no http(s) address, or could not be fetched or unpacked.
    """
    chosen = source.get(split) if isinstance(source, Mapping) else source
    items = chosen if isinstance(chosen, list) else [chosen]
    for url, folder in [_item(file, split, item, root) for item in items]:
        _LOG.warning('%s: downloading %s into %s', file.name, url, folder)
        _fetch(file, url, folder)


def _item(file: pathlib.Path, split: str, item: Any, root: pathlib.Path) -> tuple[str, pathlib.Path]:
    url, into = (item.get('url'), item.get('into', '.')) if isinstance(item, Mapping) else (item, '.')
    if not isinstance(url, str) or not url.strip().startswith(('http://', 'https://')):
        raise UserError(
            f'{file}: the images of {split!r} are not in {root}, and the entry download is not the address of'
            ' a zip file (commands are not run); fetch the data yourself and put it there'
        )
    return url.strip(), root / str(into)


def _fetch(file: pathlib.Path, url: str, folder: pathlib.Path) -> None:
    """Downloads an archive to where it is unpacked; one that is cut off stays, and the next call goes on with it."""
    part = folder / f'.{pathlib.PurePosixPath(urllib.parse.urlsplit(url).path).name}.part'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        downloads.download(url, part, plain=True)
        try:
            with zipfile.ZipFile(part) as content:
                content.extractall(folder)
        finally:
            part.unlink()
            downloads.forget(part)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile) as error:
        raise UserError(
            f'{file}: could not get {url} ({downloads.cause(error)}); fetch it yourself and unpack it in {folder}'
        ) from error
