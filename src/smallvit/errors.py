"""Errors that are the user's to mend: one line each, shown without a traceback."""


class SmallvitError(Exception):
    """Something outside the program is wrong (a file, a data set, a run folder); the command line exits with 1."""

    exit_status = 1
    ends_at_once = False
    """Whether the process is to end without the interpreter's own end."""


class UsageError(SmallvitError):
    """The request itself is wrong (an option, a value, a name); the command line exits with 2."""

    exit_status = 2
