"""C++ kernels of our own for a CPU, compiled for this processor when first needed, and kept in a folder.

Where that does not work `UnavailableError` says why, and torch's own functions remain. Kernels share torch's threads.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from smallvit.errors import compiler_error
from smallvit.files import write_atomically

# Not -ffast-math: rounding to whole numbers by a large constant would be reasoned away.
FLAGS = ("-O3", "-march=native", "-std=gnu++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
LIBRARY_FLAGS = ("-fopenmp", "-shared", "-fPIC")
COMPILE_SECONDS = 120.0


class UnavailableError(RuntimeError):
    """The kernel is not to be had here; the message says why."""


def load(source: Path, macros: Sequence[str], folder: Path) -> ctypes.CDLL:
    """Return the library of a C++ file with `macros` (`NAME=value`) defined, compiled into `folder` if need be.

    Raises `UnavailableError` where it cannot be compiled or loaded.
    """
    if sys.platform != "linux" or sys.byteorder != "little":
        raise UnavailableError("it is for Linux, on a processor that has the lowest byte first")
    try:
        return ctypes.CDLL(str(_compiled(source, macros, folder)))
    except OSError as error:
        raise UnavailableError(f"its library cannot be written or loaded: {error}") from error


def version(source: Path) -> str:
    """Return what tells a kernel's C++ file from what it was before."""
    return _short_hash(source.read_bytes())


def address(tensor: Tensor) -> ctypes.c_void_p:
    """Return where a tensor lies, for a kernel that is called while the tensor is kept."""
    return ctypes.c_void_p(tensor.data_ptr())


def _compiled(source: Path, macros: Sequence[str], folder: Path) -> Path:
    """Return the library from `folder` where it lies for this source, compiler and processor.

    Its name has a hash of its content, too: a damaged one, which would crash or compute something else, is replaced.
    One that another user may have written is not taken.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX") or "c++")  # perhaps `ccache g++`
    except ValueError:  # an open quotation mark
        compiler = []
    if not compiler or shutil.which(compiler[0]) is None:
        raise UnavailableError("no C++ compiler was found (c++, or what $CXX names)")
    # What the compiler defines tells its version and the instructions that the processor has.
    defined = _output([*compiler, *FLAGS, "-dM", "-E", "-x", "c++", "/dev/null"])
    what = "\0".join([*macros, *FLAGS, *LIBRARY_FLAGS, defined]).encode() + source.read_bytes()
    name = f"{source.stem.removeprefix('native_')}-{_short_hash(what)}"
    for library in folder.glob(f"{name}-*.so"):
        with suppress(FileNotFoundError):  # another process deletes it just now
            if _is_ours(library):
                if library.name == f"{name}-{_short_hash(library.read_bytes())}.so":
                    return library
                library.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place:  # not in the folder, where it would stay after a kill
        made = Path(place) / "kernel.so"
        defines = [f"-D{macro}" for macro in macros]
        _output([*compiler, *FLAGS, *LIBRARY_FLAGS, *defines, str(source), "-o", str(made)])
        content = made.read_bytes()
    library = folder / f"{name}-{_short_hash(content)}.so"
    write_atomically(library, content)
    library.chmod(stat.S_IRUSR | stat.S_IWUSR)  # whatever the umask leaves to a group
    return library


def _is_ours(library: Path) -> bool:
    """Return whether nobody but this user can have written a library: it is code."""
    state = library.stat()
    return state.st_uid == os.getuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _output(command: list[str]) -> str:
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=COMPILE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{name} took over {COMPILE_SECONDS:.0f} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        why = compiler_error(done.stderr) or " ".join(last) or "it says nothing"
        raise UnavailableError(f"{name} cannot compile it: {why}")
    return done.stdout
