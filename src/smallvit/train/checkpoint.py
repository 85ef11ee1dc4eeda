"""Checkpoints that a killed process, a full disk or a flipped bit cannot turn into something else.

A checkpoint is a folder, `step-<step>`, of the files in `checkpoint_format`. It is written under a temporary name,
flushed to the disk file by file, and renamed when whole; an old one is renamed away before it is deleted. So a folder
of that name is whole, or is found out. None of this guards against two writers: see `smallvit.lock`.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from smallvit.checks import require_whole
from smallvit.errors import SmallvitError
from smallvit.files import discard, flush_folder, leftover_of, replacing_folder, retire
from smallvit.train.checkpoint_format import (
    MANIFEST,
    Checkpoint,
    DamagedError,
    ForeignError,
    is_foreign,
    manifest,
    read,
    serialise,
)

_NAME = re.compile(r"step-([0-9]{8,})")
_KEPT = 2


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint to `folder`, delete all but the newest two, and return its path.

    One of the same step that verifies is left as it is, one that does not is replaced; later ones that do not verify
    are deleted, since the run did not go on from them. Raises one `SmallvitError` when the disk is full, the folder
    cannot be written to or the like: nothing partial is left, and the message names the newest whole checkpoint.
    """
    target = _path(folder, checkpoint.step)
    problem = _problem(target, checkpoint.step)
    if isinstance(problem, ForeignError):
        raise SmallvitError(f"{target} is in the way of a new checkpoint: {problem}")
    try:
        if problem is not None:
            files = serialise(checkpoint)
            _make_folder(folder)
            _write_whole(target, checkpoint.step, files)
    except OSError as error:
        raise SmallvitError(
            f"checkpoint {target} cannot be saved: {error.strerror or error}; {_what_remains(folder)}"
        ) from None
    with suppress(OSError):  # the new one is whole: what cannot be deleted stays
        _delete_old(folder, checkpoint.step)
    return target


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[DamagedError]]:
    """Return the newest checkpoint that verifies, on the CPU, and what is wrong with each newer one, its name first.

    Raises `SmallvitError` only if the folder itself cannot be listed; one that is not there holds no checkpoint.
    """
    passed_over: list[DamagedError] = []
    try:
        found = listed(folder)
    except OSError as error:
        raise SmallvitError(f"{folder} cannot be searched for checkpoints: {error.strerror or error}") from None
    for step, path in found:
        try:
            return read(path, step), passed_over
        except DamagedError as error:
            passed_over.append(type(error)(f"{path.name}: {error}"))
    return None, passed_over


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left half written or half deleted.

    Only for the one that holds the run's lock: what another process is just writing would go, too.
    """
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if _NAME.fullmatch(leftover_of(path) or ""):
            discard(path)


def _problem(path: Path, step: int) -> DamagedError | None:
    try:
        read(path, step)
    except DamagedError as error:
        return error
    return None


def _what_remains(folder: Path) -> str:
    with suppress(OSError):
        for step, path in listed(folder):
            if _problem(path, step) is None:
                return f"the newest whole one is {path.name}"
    return "there is no whole one"


def _path(folder: Path, step: int) -> Path:
    require_whole("step", step, 0)
    return folder / f"step-{step:08d}"


def listed(folder: Path) -> list[tuple[int, Path]]:
    """Return steps and paths of what is named as a checkpoint, newest first."""
    paths = list(folder.iterdir()) if folder.is_dir() else []
    found = [(int(match[1]), path) for path in paths if (match := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        flush_folder(folder.parent)


def _write_whole(target: Path, step: int, files: Mapping[str, bytes]) -> None:
    with replacing_folder(target) as temporary:
        written: dict[str, tuple[int, str]] = {}
        for name, data in files.items():
            _write(temporary / name, data)
            written[name] = len(data), hashlib.sha256(data).hexdigest()
        _write(temporary / MANIFEST, manifest(step, written))


def _write(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)


def _delete_old(folder: Path, step: int) -> None:
    older: list[tuple[int, Path]] = []
    for other, path in listed(folder):
        if other <= step:
            older.append((other, path))
        elif type(_problem(path, other)) is DamagedError:
            retire(path)
    for other, path in older[_KEPT:]:
        if not is_foreign(path, other):
            retire(path)
