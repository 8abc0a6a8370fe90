"""The optional libraries, imported when an export is asked for and not before."""

import importlib
from types import ModuleType

from jaxprune.errors import UserError


def require(module: str) -> ModuleType:
    """Imports `module` (such as `onnx.helper`).

    Raises:
      UserError: it is not installed; the message says which command installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition('.')[0]
        raise UserError(f'the package {package!r} is not installed: run `pip install {package}`') from error
