"""One writer for a run folder: `with run_lock(folder):`, and a second process is refused by name.

The lock is the operating system's (flock, through filelock), on an empty file `.lock` that stays in the folder: the
kernel lets it go when its holder dies, however it dies, and to delete it would let two processes lock two files of
one name. Who holds it stands in `.owner.json`; it is gone after a clean end, and one that is found while the lock is
free was left by a process that died. Where a file system has no flock, filelock falls back to the existence of the
file, and takes over from a dead process of the same host only.

A lock goes with its folder: one that is deleted or moved while its holder is stopped may be made anew, and locked, by
another process. The holder finds that out: `.lock` is then another file than the one that it holds, and another owner
stands in `.owner.json`.
"""

import os
import socket
import threading
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from smallvit.errors import SmallvitError
from smallvit.files import exists, identity, write_json
from smallvit.strict_json import from_json, read, to_json

LOCK, OWNER = ".lock", ".owner.json"
GRACE_SECONDS = 0.5
_HELD: dict[Path, tuple[tuple[int, int], "Owner"]] = {}
"""The folders whose locks this process holds, which file each lock is, and what was written beside it."""
_FILTERS = threading.Lock()
"""Filters of warnings are the process's: two threads at once would put back each other's."""


class LockedError(SmallvitError):
    """A run folder that another process writes to."""


class LostFolderError(SmallvitError):
    """A run folder that is no longer the one that this process locked."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who writes to a run folder."""

    host: str
    pid: int
    since: str
    """Coordinated universal time, ISO 8601."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def run_lock(folder: Path) -> Generator[str | None]:
    """Hold the lock of a run folder, made if it is not there; yield a note if its last holder died, else None.

    Raises `LockedError`, at once, if another process holds it (with host, process and time), and `SmallvitError` if the
    folder cannot be locked.
    """
    lock = FileLock(folder / LOCK)
    _acquire(lock, folder)
    me = os.getpid()
    try:
        note = _note_of_the_dead(folder)
        _HELD[folder] = identity(folder / LOCK), _owner()
        _write_owner(folder, _HELD[folder][1])
        yield note
    finally:
        if os.getpid() == me:  # a forked child that unwinds holds nothing
            with suppress(OSError):
                if is_held(folder):
                    (folder / OWNER).unlink(missing_ok=True)
            _HELD.pop(folder, None)
            lock.release()


def is_held(folder: Path) -> bool:
    """Return whether a folder is still the one that this process locked under that path; `OSError` where that cannot be
    told.
    """
    if folder not in _HELD:
        return False
    file, owner = _HELD[folder]
    try:
        there = identity(folder / LOCK)
    except FileNotFoundError:
        return exists(folder)  # that file alone is gone: nobody else has begun here
    return there == file or _read_owner(folder) == owner  # some network file systems number files anew


def require_held(folder: Path) -> None:
    """Raise `LostFolderError` if this process locked a folder that has been deleted, moved or made anew since."""
    if folder in _HELD and not is_held(folder):
        who = _read_owner(folder)
        now = f"{who} writes to what is there now" if who else "it was deleted or moved"
        raise LostFolderError(
            f"{folder} is no longer the folder that this run began in ({now}), so nothing more is written; if it was "
            "moved, the run goes on from its last checkpoint by smallvit train --resume and its new place"
        )


def _acquire(lock: BaseFileLock, folder: Path) -> None:
    """Take the lock, or raise with its holder; one that has only just come or is just going gets a moment for it."""
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        try:
            with _FILTERS, warnings.catch_warnings():  # of the fallback, which is described above
                warnings.simplefilter("ignore", UserWarning)
                lock.acquire(timeout=0)
        except Timeout:
            owner = _read_owner(folder)
            if (owner is None or not _may_be_alive(owner)) and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            who, remedy = owner or "another process", "wait for it, or end it first"
            if isinstance(lock, SoftFileLock):  # one that died on another host is not found out
                remedy += f"; if it is no more, delete {folder / LOCK}"
            raise LockedError(f"{folder} is being written to by {who}: {remedy}") from None
        except OSError as error:
            raise SmallvitError(f"{folder} cannot be locked: {error.strerror or error}") from None
        return


def _note_of_the_dead(folder: Path) -> str | None:
    if not (folder / OWNER).exists():
        return None
    owner = _read_owner(folder)
    end = "which died" if owner is None or not _may_be_alive(owner) else "which left no word of its end"
    return f"{folder} was last written to by {owner or 'a process'}, {end}"


def _owner() -> Owner:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Owner(host=socket.gethostname(), pid=os.getpid(), since=now)


def _write_owner(folder: Path, owner: Owner) -> None:
    try:
        write_json(folder / OWNER, to_json(owner))  # never through a link
    except OSError as error:
        raise SmallvitError(f"{folder} cannot be locked: {error.strerror or error}") from None


def _read_owner(folder: Path) -> Owner | None:
    try:
        return from_json(Owner, read(folder / OWNER, "owner"), OWNER)
    except SmallvitError:
        return None


def _may_be_alive(owner: Owner) -> bool:
    if owner.host != socket.gethostname():
        return True
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
