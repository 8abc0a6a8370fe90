"""The one error that a user's mistake raises."""


class UserError(ValueError):
    """Something the user gave cannot be used: the message names the file, the value and the way out.

    The command line prints the message on one line and exits with code 2; a library caller catches it as a
    `ValueError`.
    """
