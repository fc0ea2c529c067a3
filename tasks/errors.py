"""The one error a user can mend: its message names the value and what is allowed."""


class InputError(ValueError):
    """Bad input from a user: the command line prints its message as one line and exits with status 2."""
