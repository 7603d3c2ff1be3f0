"""The one error a user is expected to cause."""


class InputError(ValueError):
    """Input that cannot be used: its message is one line that names what is wrong and what to do.

    Stage scripts print the message on stderr and exit with status 2 (`options.stage_entry`).
    """
