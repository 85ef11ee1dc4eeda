"""Files and folders that are written whole or not at all, and whose names last."""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from errno import EINVAL, ELOOP, ENOENT, ENOTDIR, ENOTSUP
from pathlib import Path
from typing import Any

from smallvit.errors import SmallvitError, refuse_unreadable

_TEMPORARY = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}")
"""What files and folders are called that are being written or deleted."""
ABANDONED_SECONDS = 3600.0
"""Age from which on nobody is still writing a file."""


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


def expanded(path: Path, name: str) -> Path:
    """Return the path with the home folder in place of ~; an error names it as `name`."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise SmallvitError(f"{name}: {path}: no home folder {path.parts[0]} is known, so give another path") from None


def exists(path: Path) -> bool:
    """Return whether something lies at a path; `OSError` where this user may not look, which `Path.exists` calls absent
    since Python 3.14.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR, ELOOP):
            raise
        return False
    except ValueError:  # a name that no file can have
        return False
    return True


def is_there(path: Path) -> bool:
    """Return whether something lies at a path, as far as this user may look."""
    return os.path.exists(path)  # noqa: PTH110  # Path.exists raises before Python 3.14


def remove_leftovers(path: Path, least_age: float = 0.0) -> None:
    """Delete what processes that were killed while they were `replacing` a file left beside it: what is at least so
    many seconds old, where no lock says that nobody is writing it now.
    """
    for temporary in path.parent.glob(f".{path.name}.*-*"):
        if leftover_of(temporary) == path.name and (not least_age or _age(temporary) >= least_age):
            temporary.unlink(missing_ok=True)


def _age(path: Path) -> float:
    """Return how many seconds ago a file was last written; of one that has gone by now, 0."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def leftover_of(path: Path) -> str | None:
    """Return the name of the file or folder that was being written or deleted here; None if this is no such thing."""
    found = _TEMPORARY.fullmatch(path.name)
    return None if found is None else found[1]


def walk(folder: Path) -> Generator[tuple[Path, list[str], list[str]]]:
    """Yield each folder with the names of the folders and files in it, as `os.walk` does; links are followed, to no
    folder twice. Raises `SmallvitError` for a folder that cannot be read.
    """
    seen = {identity(above) for above in Path(os.path.realpath(folder)).parents}
    for parent, folders, names in os.walk(folder, onerror=refuse_unreadable, followlinks=True):
        if (here := identity(Path(parent))) in seen:
            folders.clear()
            continue
        seen.add(here)
        yield Path(parent), folders, names


def identity(path: Path) -> tuple[int, int]:
    """Return what tells a file or folder from all others that there are at the same time."""
    state = path.stat()
    return state.st_dev, state.st_ino


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` only if nothing was raised.

    An `OSError` is made one of `path`: that of a full disk names no file.
    """
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Generator[Path]:
    """Give an empty folder beside `path` to write to; it takes the place of `path` only if nothing was raised.

    It and its name are flushed to the disk; the files in it are for the caller to flush.
    """
    temporary, before = _beside(path), _beside(path)
    try:
        temporary.mkdir()
        yield temporary
        flush_folder(temporary)
        if os.path.lexists(path):
            path.rename(before)
        temporary.rename(path)
    except BaseException:  # an interrupt, too, leaves nothing behind
        discard(temporary)
        raise
    flush_folder(path.parent)
    discard(before)


def retire(folder: Path) -> None:
    """Delete a folder, which has its name no longer when it is no longer whole."""
    away = _beside(folder)
    folder.rename(away)
    discard(away)


def discard(path: Path) -> None:
    """Delete a file or a folder, as far as that goes."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def undated() -> Generator[None]:
    """Keep `SOURCE_DATE_EPOCH` from matplotlib, which raises where it is no date, even if no date is to be written."""
    date = os.environ.pop("SOURCE_DATE_EPOCH", None)
    try:
        yield
    finally:
        if date is not None:
            os.environ["SOURCE_DATE_EPOCH"] = date


def _beside(path: Path) -> Path:
    """Return a name of its own: of containers that share a disk, each has the same numbers for its processes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


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
