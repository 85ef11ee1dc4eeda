"""Decoded arrays on disk: written whole or not at all, checked and memory-mapped when opened.

An entry is a folder `<dataset>-<size>-<16 hex of the source's hash>/` of .npy files and a manifest.json with the
sha256 of each. It is written in a hidden sibling folder, flushed to disk, then renamed, so a killed writer leaves
nothing that looks whole. One writer at a time holds the entry's lock, which the kernel drops when its process dies.
"""

import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from smallvit.errors import SmallvitError
from smallvit.files import discard, expanded, leftover_of, replacing_folder, write_json

SCHEMA = 1
_FOLDER_SCHEMA = 5
"""Of the entries of users' own folders: 2 ordered rows whatever the size, 3 keeps the files' names, 4 tells what
pictures lose, 5 also of 16-bit colour, and heeds the transparency of grey of 2 and 4 bits."""
_KEY_DIGITS = 16
_NAME = re.compile(r".+-\d+-[0-9a-f]+")
_SETTLED_SECONDS = 2.5
"""Longer than a tick of the clock by which files are dated: two seconds on a FAT disk."""
_MANIFEST = "manifest.json"
_BLOCK_BYTES = 2**20


class BrokenEntryError(SmallvitError):
    """A cache entry that is not whole; the message names the file and what is wrong with it."""


class UnwritableError(SmallvitError):
    """The cache folder cannot be written; the message names it and says why."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The arrays of one data set at one size, and the facts that were stored beside them."""

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


def cache_folder(configured: Path | None) -> Path:
    """Return the configured folder, else $SMALLVIT_CACHE, else smallvit/ in $XDG_CACHE_HOME or ~/.cache."""
    if configured is not None:
        return expanded(configured, "data.cache")
    if own := os.environ.get("SMALLVIT_CACHE"):
        return expanded(Path(own), "SMALLVIT_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    return (base if base.is_absolute() else expanded(Path("~/.cache"), "data.cache (or SMALLVIT_CACHE)")) / "smallvit"


def open_entry(folder: Path) -> Entry:
    """Return the entry, memory-mapped, once every file's checksum is found right; else BrokenEntryError."""
    manifest = folder / _MANIFEST
    try:
        stored = json.loads(manifest.read_bytes())
        schema, facts, sums = stored["schema"], stored["facts"], dict[str, str](stored["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenEntryError(f"{manifest} is missing or broken") from error
    if schema != (ours := _schema(folder.name)):
        raise BrokenEntryError(f"{manifest} was written by another version (schema {schema}, expected {ours})")
    arrays: dict[str, np.ndarray] = {}
    for name, expected in sums.items():
        path = folder / f"{name}.npy"
        try:
            if file_sha256(path) != expected:
                raise BrokenEntryError(f"{path} is cut short or altered (its sha256 is not the manifest's)")
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise BrokenEntryError(f"{path} cannot be read ({error.strerror or error})") from error
    return Entry(arrays=arrays, facts=facts)


def _schema(name: str) -> int:
    return _FOLDER_SCHEMA if name.startswith("folder-") else SCHEMA


@dataclass(frozen=True)
class FileState:
    """What of a file is another where its content is."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


def file_states(files: Sequence[Path]) -> dict[Path, FileState]:
    """Return the state that each file is in."""
    states = ((path, path.stat()) for path in files)
    return {path: FileState(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for path, s in states}


def remembered(cache: Path, where: Path, states: Mapping[Path, FileState], key: Callable[[], str]) -> str:
    """Return `key()`, or what it returned when the same files, found at `where`, were in the same states.

    Reading gigabytes of pictures at every start only to find them unchanged would take longer than decoding a few.
    """
    told = [f"{where.absolute()}"]
    told += [f"{p.absolute()}\0{s.size}\0{s.modified_ns}\0{s.changed_ns}\0{s.inode}" for p, s in states.items()]
    note = cache / ".seen" / hashlib.sha256("\n".join(told).encode(errors="surrogateescape")).hexdigest()
    with suppress(OSError, ValueError):
        if len(known := note.read_text(encoding="utf-8")) == _KEY_DIGITS:
            return known
    begun, found = time.time(), key()
    # A file that changed a moment before it was read may have changed again since within the same tick of the clock:
    # that is not remembered.
    if all(_is_settled(state, begun) for state in states.values()):
        with suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(found, encoding="utf-8")
    return found


def _is_settled(state: FileState, now: float) -> bool:
    """Return whether a file's last change is some time ago. A date in the future, beside a change in the past, was set:
    by a camera, or from an archive of another time zone.
    """
    dates = [ns / 1e9 for ns in (state.modified_ns, state.changed_ns)]
    last = dates[1] if dates[1] <= now < dates[0] else max(dates)
    return now - last > _SETTLED_SECONDS


def entries(cache: Path, prefix: str) -> list[Path]:
    """Return the cache's entries whose names begin with `prefix`, the newest first."""
    found = [path for path in cache.glob(f"{prefix}-*") if (path / _MANIFEST).is_file()]
    return sorted(found, key=lambda path: (path / _MANIFEST).stat().st_mtime_ns, reverse=True)


@contextmanager
def building(cache: Path, name: str) -> Generator[None]:
    """Hold the entry's lock, waiting for another builder if need be; on entry, clear what dead builders left."""
    with ExitStack() as held:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            held.enter_context(_lock(cache, name, wait=True))
            _clear_leftovers(cache, name)
        except OSError as error:
            raise UnwritableError(f"{cache} cannot be written ({error.strerror or error})") from error
        yield


def _clear_leftovers(cache: Path, held: str) -> None:
    for leftover in cache.glob(".*"):
        owner = leftover_of(leftover)
        if owner is None or not _NAME.fullmatch(owner):  # no entry's, or another program's
            continue
        if owner == held:
            discard(leftover)
            continue
        with suppress(OSError), _lock(cache, owner, wait=False) as ours:  # perhaps another user's, in a shared cache
            if ours:
                discard(leftover)


def write_entry(cache: Path, name: str, entry: Entry) -> Entry:
    """Write an entry and return it opened; UnwritableError where the folder is read-only or full."""
    try:
        with replacing_folder(cache / name) as draft:
            sums = {array: _save(draft / f"{array}.npy", values) for array, values in entry.arrays.items()}
            write_json(draft / _MANIFEST, {"schema": _schema(name), "facts": dict(entry.facts), "sha256": sums})
    except OSError as error:
        raise UnwritableError(f"{cache} cannot be written ({error.strerror or error})") from error
    return open_entry(cache / name)


def _save(path: Path, values: np.ndarray) -> str:
    """Write one array, flushed to disk, and return the file's sha256."""
    values = np.ascontiguousarray(values)
    with path.open("wb") as file:  # by Python's own writing: that of `np.save` does not say that a disk is full
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(values.data)
        file.flush()
        os.fsync(file.fileno())
    return file_sha256(path)


def file_sha256(path: Path, ended: threading.Event | None = None) -> str:
    """Return the sha256 of a file's content, in hex digits; of a part of it once `ended` is set."""
    sha256 = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while (ended is None or not ended.is_set()) and (block := file.read(_BLOCK_BYTES)):
            sha256.update(block)
    return sha256.hexdigest()


@contextmanager
def _lock(cache: Path, name: str, *, wait: bool) -> Generator[bool]:
    """Yield whether the lock is ours; `OSError` where the file system has none."""
    lock = FileLock(cache / f".{name}.lock", fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            yield False
            return
        print(f"Waiting for another process that is decoding {name} ...", file=sys.stderr)
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()
