"""A model on disk: its spec, its variables and the plans that made it, together in one directory."""

from jaxprune.checkpoint._model import check_output, is_model, load, load_metadata, save

__all__ = ['check_output', 'is_model', 'load', 'load_metadata', 'save']
