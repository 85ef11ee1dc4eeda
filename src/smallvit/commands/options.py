"""Options that several commands have, or that stand beside the run's own: where bytes lie, what is asked of Slurm."""

from dataclasses import dataclass
from pathlib import Path


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
