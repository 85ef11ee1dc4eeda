"""What to train on and where its bytes lie; free of heavy imports, so that `--help` stays fast."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from smallvit.checks import require, require_number, require_one_of, require_whole
from smallvit.data.spec import SPECS
from smallvit.errors import UsageError
from smallvit.files import expanded

DATASETS = (*SPECS, "folder")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set, where its files lie, and how it is divided into train, val and test."""

    dataset: str = "digits"
    """digits (embedded), cifar10, cifar100, or folder (your own images, at root: a folder a class, or an .npz)."""

    root: Path | None = field(default=None, metadata={"digest": False})
    """Folder, .tar.gz or .npz that holds the data set; without it the cache is read, then the Hugging Face hub."""

    cache: Path | None = field(default=None, metadata={"digest": False})
    """Folder of decoded images; by default $SMALLVIT_CACHE, else $XDG_CACHE_HOME/smallvit, else ~/.cache/smallvit."""

    val_fraction: float = 0.1
    """Share of train, drawn class by class, held out as val unless a folder brings its own; 0 trains on everything."""

    test_fraction: float = 0.2
    """Share held out as test where the data set has no test split of its own (digits, a single folder)."""

    split_seed: int = 0
    """Seed of the draws of val and test."""

    def __post_init__(self) -> None:
        for name in ("root", "cache"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path))  # text is as good
                require(_can_be_a_path(str(path)), f"data.{name}", str(path), "it can be no path")
        require_one_of("data.dataset", self.dataset, DATASETS)
        root = None if self.root is None else str(self.root)
        given = self.dataset != "folder" or root is not None
        require(given, "data.root", root, "data.dataset 'folder' needs the folder of your images")
        useful = self.dataset != "digits" or root is None
        require(useful, "data.root", root, "it has no use with data.dataset 'digits', which is embedded")
        require_number("data.val_fraction", self.val_fraction, least=0, below=1)
        require_number("data.test_fraction", self.test_fraction, above=0, below=1)
        require_whole("data.split_seed", self.split_seed, 0, most=None)

    def same_source(self, other: "DataConfig") -> bool:
        """Return whether both take their images from one data set: a folder's are those of one root, by any name."""
        if self.dataset != "folder":
            return self.dataset == other.dataset
        return other.dataset == "folder" and _place(self.root) == _place(other.root)

    def require_beside(self, name: str, place: Path) -> None:
        """Raise `UsageError` where a folder to write to lies among the images, where it would be taken for a class; a
        hidden one would not.
        """
        if self.dataset != "folder" or self.root is None:
            return
        root = expanded(self.root, "data.root")
        images = [root / split for split in ("train", "val", "test")] if (root / "train").is_dir() else [root]
        resolved = _real(place)
        for folder in map(_real, images):
            parts = resolved.relative_to(folder).parts if resolved.is_relative_to(folder) else (".",)
            if not any(part.startswith(".") for part in parts):
                raise UsageError(
                    f"{name} is {place}: it lies among the images of data.root, {root}; name another folder"
                )


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _place(root: Path | None) -> Path | None:
    return None if root is None else _real(expanded(root, "data.root"))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `resolve` raises for a link to itself
