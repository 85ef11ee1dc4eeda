"""Errors that are the user's to mend: one line each, shown without a traceback."""

import re
from typing import NoReturn

# Of a GPU, of a CPU (three ways), of cuBLAS.
_NO_MEMORY = re.compile("out of memory|allocate memory|enough memory|bad_alloc|ALLOC_FAILED")


class SmallvitError(Exception):
    """Something outside the program is wrong (a file, a data set, a run folder); the command line exits with 1."""

    exit_status = 1
    ends_at_once = False
    """Whether the process is to end without the interpreter's own end."""


class UsageError(SmallvitError):
    """The request itself is wrong (an option, a value, a name); the command line exits with 2."""

    exit_status = 2


def refuse_unreadable(error: OSError) -> NoReturn:
    """Raise `SmallvitError` for a file or folder that cannot be read, as `os.walk` takes it for `onerror`."""
    raise SmallvitError(f"{error.filename} cannot be read ({error.strerror})")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error is torch's or Python's that there is not enough memory."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def line_of(error: Exception) -> str | None:
    """Return one line on a disk or a memory that has had enough, and None for what is not the user's to mend."""
    if isinstance(error, OSError):
        return f"{error.filename or 'standard output, or a file'}: {error.strerror or error}"
    if not ran_out_of_memory(error):
        return None
    first = (str(error).strip() or "out of memory").splitlines()[0]
    return f"memory ran out ({first}): smaller batches, images or models need less; what a run has saved is kept"
