"""What to train on and where its bytes lie; free of heavy imports, so that `--help` stays fast."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from smallvit.data.spec import SPECS
from smallvit.errors import UsageError

DATASETS = (*SPECS, "folder")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set, where its files lie, and how it is divided into train, val and test."""

    dataset: str = "digits"
    """digits (embedded), cifar10, cifar100, or folder (your own images, under root)."""

    root: Path | None = field(default=None, metadata={"digest": False})
    """Folder or .tar.gz that holds the data set; without it the cache is read, then the Hugging Face hub."""

    cache: Path | None = field(default=None, metadata={"digest": False})
    """Folder of decoded images; by default $SMALLVIT_CACHE, else $XDG_CACHE_HOME/smallvit, else ~/.cache/smallvit."""

    val_fraction: float = 0.1
    """Share of train, drawn class by class, held out as val unless a folder brings its own; 0 trains on everything."""

    test_fraction: float = 0.2
    """Share held out as test where the data set has no test split of its own (digits, a single folder)."""

    split_seed: int = 0
    """Seed of the draws of val and test."""

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            near = difflib.get_close_matches(self.dataset.lower(), DATASETS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"data.dataset: unknown {self.dataset!r}; {hint}allowed: {', '.join(DATASETS)}")
        if self.dataset == "folder" and self.root is None:
            raise UsageError("data.root: needed with data.dataset 'folder'; give the folder of your images")
        if self.dataset == "digits" and self.root is not None:
            raise UsageError(f"data.root: {str(self.root)!r} has no use with data.dataset 'digits', which is embedded")
        if not 0 <= self.val_fraction < 1:
            raise UsageError(f"data.val_fraction: {self.val_fraction} is not allowed; 0 <= val_fraction < 1")
        if not 0 < self.test_fraction < 1:
            raise UsageError(f"data.test_fraction: {self.test_fraction} is not allowed; 0 < test_fraction < 1")
        if self.split_seed < 0:
            raise UsageError(f"data.split_seed: {self.split_seed} is not allowed; split_seed >= 0")
