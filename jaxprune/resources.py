"""Where the data that travels with the program is."""

import pathlib

_PACKAGE = pathlib.Path(__file__).parent


def path(*parts: str) -> pathlib.Path:
    """A file or folder under `configs/`: beside the package in a checkout, inside it in a wheel."""
    installed = _PACKAGE / 'configs'
    root = installed if installed.is_dir() else _PACKAGE.parent / 'configs'
    return root.joinpath(*parts)
