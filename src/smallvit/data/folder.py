"""Your own images: one folder a class, any size and mode; and the layout of Tiny ImageNet.

Read are `train/<class>/*` with `test/<class>/*` or `val/<class>/*` or both; `<class>/*` alone; and `train/<class>/*`
with `val/val_annotations.txt` (Tiny ImageNet). Classes are the folders' names, sorted by code point. A `val/` without
a labelled `test/` serves as test, and val is then held out of train. Hidden files, Thumbs.db and desktop.ini are
passed over; other files that no Pillow decoder claims are passed over and named in a note.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from smallvit.data.decode import BadImageError, decode_all, decode_fitted, formats
from smallvit.data.split import Decoded, Split, canonical
from smallvit.errors import SmallvitError

_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_ANNOTATIONS = "val_annotations.txt"
_NAMED = 3


@dataclass(kw_only=True)
class Listing:
    """The images found, by split, before any is opened."""

    root: Path
    class_names: tuple[str, ...]
    splits: dict[str, list[tuple[Path, int]]]
    strays: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def files(self) -> tuple[Path, ...]:
        """Return every file that decides what is read, sorted."""
        annotations = self.root / "val" / _ANNOTATIONS
        images = [path for items in self.splits.values() for path, _ in items]
        return tuple(sorted([*images, annotations] if annotations.is_file() else images))


def list_images(root: Path) -> Listing:
    """Return what the folder holds; errors name the folder and what was expected."""
    split_layout = (root / "train").is_dir()
    if not split_layout:
        for name in ("val", "test"):
            if (root / name).is_dir():
                raise SmallvitError(f"{root}: has {name}/ but no train/; expected train/<class>/ beside it")
    train = root / "train" if split_layout else root
    names = tuple(_subfolders(train))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise SmallvitError(f"{train}: expected at least 2 class folders with images in them, found {found}")
    listing = Listing(root=root, class_names=names, splits={})
    listing.splits["train"] = _classes(train, listing)
    if (root / "val" / _ANNOTATIONS).is_file():
        listing.splits["test"] = _annotated(root / "val", listing)
        listing.notes.append(f"{root / 'val'} serves as test (test/ has no labels); val is held out of train")
    elif split_layout:
        _own_splits(root, listing)
    if listing.strays:
        named = ", ".join(str(path.relative_to(root)) for path in sorted(listing.strays)[:_NAMED])
        more = ", ..." if len(listing.strays) > _NAMED else ""
        listing.notes.append(f"{root}: passed over {len(listing.strays)} files that are not images: {named}{more}")
    return listing


def read_images(listing: Listing, size: int) -> Decoded:
    """Return the listed images as RGB, fitted to `size`, each split in canonical order."""

    def read(name: str) -> Split:
        items = listing.splits[name]
        images = read_files([path for path, _ in items], size, title=f"Decoding {listing.root.name} {name}")
        return canonical(Split(images=images, labels=np.array([label for _, label in items], dtype=np.int64)))

    found = {name: read(name) for name in listing.splits}
    return Decoded(
        train=found["train"],
        val=found.get("val"),
        test=found.get("test"),
        train_moments=_moments(found["train"].images),
        class_names=listing.class_names,
    )


def read_files(paths: Sequence[Path], size: int, *, title: str) -> UInt8[np.ndarray, "n 3 H W"]:
    """Return image files as RGB, fitted to `size`, in order; the error of one that cannot be used names it."""

    def decode(path: Path) -> np.ndarray:
        try:
            return decode_fitted(path, size)
        except BadImageError as error:
            raise SmallvitError(f"{path}: {error}") from error

    return decode_all(paths, decode, size=size, title=title)


def _moments(images: UInt8[np.ndarray, "n 3 H W"]) -> Float64[np.ndarray, "n 2 3"]:
    """Return each image's mean and mean square per channel, in units of 0..1."""
    moments = np.empty((len(images), 2, 3))
    for row, image in enumerate(images):
        scaled = image.reshape(3, -1) / 255
        moments[row] = scaled.mean(axis=1), np.square(scaled).mean(axis=1)
    return moments


def _own_splits(root: Path, listing: Listing) -> None:
    for name in ("val", "test"):
        folder = root / name
        if not folder.is_dir():
            continue
        found = _subfolders(folder)
        extra = sorted(set(found) - set(listing.class_names))
        if extra or not found:
            what = f"class folder {extra[0]!r} that train/ has not" if extra else "no class folders"
            raise SmallvitError(f"{folder}: {what}; expected some of {', '.join(listing.class_names[:10])}")
        absent = len(listing.class_names) - len(found)
        if absent:
            listing.notes.append(f"{folder}: {absent} of {len(listing.class_names)} classes have no folder here")
        listing.splits[name] = _classes(folder, listing)
    if "val" in listing.splits and "test" not in listing.splits:
        listing.splits["test"] = listing.splits.pop("val")
        listing.notes.append(f"{root / 'val'} serves as test (there is no test/); val is held out of train")


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path, listing: Listing) -> list[tuple[Path, int]]:
    items: list[tuple[Path, int]] = []
    for name in _subfolders(folder):
        images, strays = find_images(folder / name)
        listing.strays += strays
        if not images:
            raise SmallvitError(f"{folder / name}: class folder without images; add some or remove the folder")
        items += [(path, listing.class_names.index(name)) for path in images]
    return items


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folder's images at any depth, and its files that are not images, both sorted."""
    readable = _readable_suffixes()
    images: list[Path] = []
    strays: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent) / name
            if name.startswith(".") or name.lower() in _SYSTEM_FILES or name == f"{folder.name}_boxes.txt":
                continue
            (images if path.suffix.lower() in readable else strays).append(path)
    return sorted(images), sorted(strays)


def _readable_suffixes() -> set[str]:
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in formats()}


def _annotated(folder: Path, listing: Listing) -> list[tuple[Path, int]]:
    """Return the images named by Tiny ImageNet's annotations: file, class and a box on each line, by tabs."""
    numbers = {name: label for label, name in enumerate(listing.class_names)}
    items: list[tuple[Path, int]] = []
    for number, line in enumerate((folder / _ANNOTATIONS).read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{folder / _ANNOTATIONS} line {number}"
        cells = line.split("\t")
        if len(cells) < 2 or cells[1] not in numbers:
            raise SmallvitError(f"{where}: {line!r}; expected an image, a tab and a class of train/")
        path = folder / "images" / cells[0]
        if not path.is_file():
            raise SmallvitError(f"{where}: {path} is missing")
        items.append((path, numbers[cells[1]]))
    return items
