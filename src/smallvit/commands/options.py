"""Options that several commands have, or that stand beside the run's own: where bytes lie, what is asked of Slurm."""

import os
from dataclasses import dataclass
from pathlib import Path

from smallvit.checks import require


def file_to_write(option: str, path: Path) -> Path:
    """Return where a file that an option names will lie, which of a link is what it leads to.

    Raises `UsageError` where no file can: no folder for it, or something else is there.
    """
    place = Path(os.path.realpath(path))  # Path.resolve raises for links in a circle
    require(place.parent.is_dir(), option, str(path), "its folder must exist")
    new = not (path.exists() or place.exists())  # of a pipe what it leads to has no such name
    require(place.is_file() or new, option, str(path), "it must be a file, or the name of a new one")
    from smallvit.run_folder import CONFIG, FILES, RECORD

    in_run = (place.parent / CONFIG).exists() or (place.parent / RECORD).exists()
    require(not (in_run and place.name in FILES), option, str(path), "it must not be a run's own file")
    return place


@dataclass(frozen=True, kw_only=True)
class DataPlace:
    """Where the data set lies."""

    root: Path | None = None
    """Folder, .tar.gz or .npz that holds the data set; without it the one that the run's config names, else the cache,
    then the Hugging Face hub."""


@dataclass(frozen=True, kw_only=True)
class StudyData(DataPlace):
    """What to train on, and where it lies."""

    dataset: str | None = None
    """digits, cifar10, cifar100 or folder (your own images, at root), for all rows; without it the study's own."""


@dataclass(frozen=True, kw_only=True)
class SlurmUse:
    """What is asked of Slurm for each run."""

    partition: str | None = None
    """Partition to submit to; by default the cluster's own."""
    account: str | None = None
    """Account to charge; by default the user's own."""
    minutes: int = 240
    """Time limit of a job; a run that needs longer saves in time, and is queued again."""
