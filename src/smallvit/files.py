"""Files that are written whole or not at all, and folders whose names last."""

import json
import os
import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from errno import EINVAL, ENOTSUP
from pathlib import Path
from typing import Any

from smallvit.errors import refuse_unreadable

_TEMPORARY = re.compile(r"\.\d+-[0-9a-f]{8}$")
"""How the names of files end that are being written."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, a text as UTF-8, so that readers see the old one or the whole new one."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    flush_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, in lines; `ValueError` for NaN or infinities, which are none."""
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def last_lines(path: Path, most_bytes: int, begin: int = 0) -> list[str]:
    """Return the lines that end a file, of so many bytes and from `begin` on; the first may be cut. None of no file."""
    try:
        with path.open("rb") as file:
            file.seek(max(begin, path.stat().st_size - most_bytes))
            return file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return []


def remove_leftovers(path: Path) -> None:
    """Delete what a process that was killed while it was `replacing` a file left beside it."""
    for temporary in path.parent.glob(f".{path.name}.*-*"):
        if _TEMPORARY.search(temporary.name):
            temporary.unlink()


def walk(folder: Path) -> Generator[tuple[Path, list[str], list[str]]]:
    """Yield each folder with the names of the folders and files in it, as `os.walk` does; links are followed, to no
    folder twice. Raises `SmallvitError` for a folder that cannot be read.
    """
    seen = {_identity(above) for above in Path(os.path.realpath(folder)).parents}
    for parent, folders, names in os.walk(folder, onerror=refuse_unreadable, followlinks=True):
        if (identity := _identity(Path(parent))) in seen:
            folders.clear()
            continue
        seen.add(identity)
        yield Path(parent), folders, names


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` only if nothing was raised.

    An `OSError` is made one of `path`: that of a full disk names no file.
    """
    # Of containers that share a disk, each has the same numbers for its processes.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder last, where the file system knows how."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (EINVAL, ENOTSUP):
            raise
    finally:
        os.close(handle)
