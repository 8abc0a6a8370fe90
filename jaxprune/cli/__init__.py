"""The command line: parse, call one function of `jaxprune.pipeline`, print what it returns."""

from jaxprune.cli._main import main

__all__ = ['main']
