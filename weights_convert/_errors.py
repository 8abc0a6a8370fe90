"""The error of a file that cannot be converted."""

from jaxprune.errors import UserError


class ConversionError(UserError):
    """A checkpoint cannot be converted: the message names the file, the place in it and what would be accepted."""
