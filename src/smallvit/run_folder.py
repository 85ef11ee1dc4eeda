"""A run folder: what a run writes there, and whose it is while it runs."""

import shlex
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from smallvit import files
from smallvit.config import RunConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.lock import LOCK, OWNER, is_held, run_lock
from smallvit.record import RunRecord
from smallvit.seen import SEEN
from smallvit.train.checkpoint import listed, remove_leftovers
from smallvit.weights import BEST, MODEL, read_tensors

CONFIG, METRICS, RECORD, PREDICTIONS = "config.json", "metrics.jsonl", "record.json", "test.safetensors"
FORKED_WEIGHTS = "fork.safetensors"
"""What a forked run started from."""
PAGE = "index.html"
BEGUN = (FORKED_WEIGHTS, SEEN)
"""What is written before the config, with which a folder is a run's."""
FILES = (METRICS, RECORD, MODEL, BEST, PREDICTIONS, PAGE, *BEGUN, CONFIG)
CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints."""


@contextmanager
def claimed(folder: Path, note: Callable[[str], None]) -> Generator[None]:
    """Hold a run folder, made if need be; one that was made for a run that never began is taken away again."""
    try:
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for each in new:
            files.flush_folder(each.parent)
    except OSError as error:
        raise SmallvitError(f"{folder} cannot be made a run folder: {error.strerror}") from None
    with run_lock(folder) as died:
        try:
            if died is not None and not (folder / RECORD).exists():
                note(died)
            remove_leftovers(folder / CHECKPOINTS)
            for name in (*FILES, OWNER):
                # `smallvit report` writes the page without the lock.
                files.remove_leftovers(folder / name, files.ABANDONED_SECONDS if name == PAGE else 0.0)
            yield
        finally:
            with suppress(OSError):
                if new and is_held(folder) and {path.name for path in folder.iterdir()} <= {LOCK, OWNER, *BEGUN}:
                    shutil.rmtree(folder, ignore_errors=True)


def require_unfinished(folder: Path) -> None:
    """Raise `UsageError` for the folder of a finished run."""
    if not (folder / RECORD).exists():
        return
    if _is_whole(folder):
        delete_checkpoints(folder, ignore_errors=True)  # of a run that was killed when all but that was done
    page = folder / PAGE
    where = f"its page is {page}" if page.exists() else f"for its page: smallvit report {as_word(folder)}"
    raise UsageError(
        f"{folder} already holds a finished run ({where}): for another, name another folder with --out, or delete it"
    )


def _is_whole(folder: Path) -> bool:
    """Return whether a record and weights that can be read lie beside the config of their run."""
    try:
        record, config = RunRecord.load(folder / RECORD), RunConfig.load(folder / CONFIG)
        read_tensors(folder / MODEL, "weights")
    except SmallvitError:
        return False
    return record.config_digest == config.digest()


def require_own(folder: Path) -> None:
    """Raise `UsageError` for a folder that is no run's and holds something by a name that a run's files have: another
    program's, which the run would replace.
    """
    names = [name for name in (*FILES, CHECKPOINTS) if name not in BEGUN and (folder / name).exists()]
    if names and not (folder / CONFIG).exists():
        raise UsageError(f"{folder} holds {', '.join(names)}, and no run: name another folder with --out")


def resume_command(folder: Path) -> str:
    """Return the shell command that goes on with the run in a folder."""
    return f"smallvit train --resume {as_word(folder)}"


def as_word(folder: Path) -> str:
    """Return a folder's path as a shell's word, which is not taken for an option."""
    return shlex.quote(f"./{folder}" if str(folder).startswith("-") else str(folder))


def record_of(folder: Path) -> RunRecord:
    """Return the record of a finished run; `UsageError` says what the folder is instead."""
    if not files.exists(folder / RECORD):
        if files.exists(folder / CONFIG):
            raise UsageError(f"{folder} holds an unfinished run; to go on: {resume_command(folder)}")
        raise UsageError(f"{folder} holds no run" if files.exists(folder) else f"{folder} is not there")
    return RunRecord.load(folder / RECORD)


def delete_run(folder: Path) -> None:
    """Delete what a run wrote, and nothing else that is in the folder; last the config, which says whose the rest is
    where this is killed.
    """
    delete_checkpoints(folder)
    for path in folder.glob("nonfinite-step-*.json"):
        path.unlink()
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def delete_checkpoints(folder: Path, *, ignore_errors: bool = False) -> None:
    """Delete the checkpoints, for which a finished run has no more use, and nothing else beside them; `ignore_errors`
    leaves a file that somebody holds open, which a disk in a network keeps.
    """
    with suppress(OSError) if ignore_errors else nullcontext():  # it may go at this moment, by the run itself
        for _, path in listed(folder / CHECKPOINTS):
            shutil.rmtree(path, ignore_errors=ignore_errors)
    with suppress(OSError):
        (folder / CHECKPOINTS).rmdir()
