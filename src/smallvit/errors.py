"""Errors that are the user's to mend: one line each, shown without a traceback."""

import re
import textwrap
from typing import NoReturn

# Of a GPU, of a CPU (three ways), of cuBLAS, of torch for more than any memory.
_NO_MEMORY = re.compile(
    "out of memory|allocate memory|enough memory|bad_alloc|ALLOC_FAILED|Storage size calculation overflowed"
)
# Of torch, of cuDNN.
_NO_ATTENTION = re.compile("No available kernel|cuDNN Frontend error.*")
_WITHOUT_GPU = "the CPU, as where no GPU is seen (CUDA_VISIBLE_DEVICES=)"
_COMPILER_ERROR = re.compile(r".*(?:\b[Ee]rror: |cannot find).*")


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


def compiler_error(said: str) -> str | None:
    """Return the first line in which a compiler or a linker says what is wrong, if there is one."""
    found = _COMPILER_ERROR.search(said)
    return None if found is None else found[0].strip()


def telling_line(error: Exception) -> str:
    """Return the line of an error that tells most: a compiler's, what a traceback in it ends with, or else the first
    that announces no other.
    """
    said = str(error)
    after_traceback = said.rpartition("Traceback (most recent call last):")[2].splitlines()
    lines = [line for line in after_traceback if line[:1].strip() and not line.endswith(":")]
    line = compiler_error(said) or (lines or [type(error).__name__])[0]
    return textwrap.shorten(line, 300, placeholder=" ...")


def line_of(error: Exception) -> str | None:
    """Return one line on a disk or a memory that has had enough, or on what torch cannot do on this machine, and None
    for what is not the user's to mend.
    """
    if isinstance(error, OSError):
        return f"{error.filename or 'standard output, or a file'}: {error.strerror or error}"
    said = str(error)
    if ran_out_of_memory(error):
        first = (said.strip() or "out of memory").splitlines()[0]
        return f"memory ran out ({first}): smaller batches, images or models need less; what a run has saved is kept"
    if "CUDA error: no kernel image" in said:
        return f"this torch has no code for this GPU (no kernel image): another build of torch, or {_WITHOUT_GPU}"
    if (attention := _NO_ATTENTION.search(said)) is not None:
        return (
            f"the attention that was chosen does not work on this GPU ({attention[0]}): train takes another, as "
            f"--device.attention sdpa; or {_WITHOUT_GPU}"
        )
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        how = f"--device.compile off does without it; or {_WITHOUT_GPU}"
        return f"torch.compile cannot compile here: {telling_line(error)}; {how}"
    return None
