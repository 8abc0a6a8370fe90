"""A model on disk: its spec, its variables and the plan that made it, together in one directory."""

from jaxprune.checkpoint._files import atomic_directory, write_json
from jaxprune.checkpoint._model import is_model, load, load_metadata, save

__all__ = ['atomic_directory', 'is_model', 'load', 'load_metadata', 'save', 'write_json']
