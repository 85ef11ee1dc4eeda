"""Files that are written whole or not at all, and folders whose names last."""

import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from errno import EINVAL, ENOTSUP
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, a text as UTF-8, so that readers see the old one or the whole new one."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


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
        temporary.unlink()


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
