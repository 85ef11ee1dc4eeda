"""Which pictures of your own there are: one folder a class, any size and mode; and the layout of Tiny ImageNet.

Read are `train/<class>/*` with `test/<class>/*` or `val/<class>/*` or both; `<class>/*` alone; and `train/<class>/*`
with `val/val_annotations.txt` (Tiny ImageNet). Classes are the folders' names, sorted by code point. A `val/` without
a labelled `test/` serves as test, and val is then held out of train. Links to folders are followed. Hidden files,
Thumbs.db and desktop.ini are passed over; other files in class folders that no Pillow decoder claims, images beside
these folders and folders beside `train/` are passed over and named in a note.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from smallvit.checks import did_you_mean
from smallvit.console import MOST_NAMED, composed, first_few, printable
from smallvit.data.decode import formats
from smallvit.errors import SmallvitError
from smallvit.files import walk

_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_ANNOTATIONS = "val_annotations.txt"
SPLITS = ("train", "val", "test")
_SPLIT_LIKE = (*SPLITS, "training", "valid", "validation", "testing")
NAMED_BROKEN = 20
"""Files that cannot be used that are named one by one."""


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
    folders = _subfolders(root)
    split_layout = "train" in folders
    _require_known_splits(root, folders)
    train = root / "train" if split_layout else root
    names = tuple(_subfolders(train))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        taken = (
            " (train/ is taken for a split: rename it if it is a class)" if split_layout and len(folders) > 1 else ""
        )
        raise SmallvitError(f"{train}: expected at least 2 class folders with images in them, found {found}{taken}")
    alike = Counter(map(composed, names)).most_common(1)
    if alike[0][1] > 1:
        raise SmallvitError(f"{train}: has {alike[0][0]}/ twice, with its accents written in two ways: make it one")
    listing = Listing(root=root, class_names=names, splits={})
    listing.splits["train"] = _classes(train, listing)
    if (root / "val" / _ANNOTATIONS).is_file():
        listing.splits["test"] = _annotated(root / "val", listing)
        listing.notes.append(f"{root / 'val'} serves as test (of {_ANNOTATIONS}); val is held out of train")
        if (root / "test").is_dir() and not _unlabelled(root / "test", listing):
            listing.notes.append(f"{root / 'test'}: passed over, beside val/{_ANNOTATIONS}")
    elif split_layout:
        _own_splits(root, listing)
    if others := [root / name for name in folders if split_layout and name not in SPLITS]:
        listing.notes.append(passed_over(others, "folders beside train/", root))
    _end_listing(listing)
    return listing


def _end_listing(listing: Listing) -> None:
    """Add the note on files that are passed over; refuse links to nothing, which may have been folders of images."""
    if listing.strays:
        listing.notes.append(passed_over(listing.strays, "files that are not images of a class", listing.root))
    listed = [*listing.files(), *listing.strays]
    refuse_broken({path: "is a link to nothing" for path in listed if not path.exists()})


def list_labelled(root: Path, class_names: Sequence[str]) -> Listing:
    """Return what a folder of classes holds, some of `class_names`, as test; errors are as those of `list_images`."""
    found = _subfolders(root)
    _require_classes(root, map(printable, found), class_names, "the run")
    there = {composed(printable(name)): name for name in found}
    listing = Listing(root=root, class_names=tuple(there.get(composed(n), n) for n in class_names), splits={})
    listing.splits["test"] = _classes(root, listing)
    _end_listing(listing)
    return listing


def passed_over(paths: Sequence[Path], what: str, root: Path) -> str:
    """Return a note that names the first few of the paths under `root` that are left out, and of many their endings."""
    endings = Counter(path.suffix.lower() for path in paths if path.suffix).most_common(MOST_NAMED)
    if len(paths) > MOST_NAMED:
        kinds = ", ".join(f"{count} {ending}" for ending, count in endings)
        what = f"{len(paths)} {what} ({kinds})" if kinds else f"{len(paths)} {what}"
    named = first_few(path.relative_to(root) for path in sorted(paths))
    return printable(f"{root}: passed over {what}: {named}")


def _require_known_splits(root: Path, folders: list[str]) -> None:
    """Raise `SmallvitError` where folders that are named like splits would be read as something else."""
    alike = [name for name in folders if name.lower() in _SPLIT_LIKE]
    misnamed = [name for name in alike if name not in SPLITS]
    if "train" in folders:
        if misnamed:
            raise SmallvitError(f"{root}: has {'/, '.join(misnamed)}/ beside train/; rename it to val/ or test/")
        for name in SPLITS:
            if (root / name).exists() and name not in folders:
                raise SmallvitError(f"{root / name}: is no folder; expected {name}/<class>/")
    elif alike := alike or _parts_of_names(root, folders):
        raise SmallvitError(
            f"{root}: has {'/, '.join(alike)}/ but no train/; expected train/<class>/, and test/<class>/ or "
            "val/<class>/ beside it (if it is a class, rename it)"
        )
    elif folders and all((root / name / "train").is_dir() for name in folders):
        raise SmallvitError(
            f"{root / folders[0]}: has train/; expected the classes in train/, not train/ in each class"
        )


def _parts_of_names(root: Path, folders: Sequence[str]) -> list[str]:
    """Return the folders that are splits by a part of their names, `seg_train` and `seg_test` say, and have two classes
    in common: a `bullet_train` with pictures in it is a class.
    """
    words = {name: {*re.split(r"[\W_]+", name.lower())} for name in folders}
    train = [name for name in folders if words[name] & {"train", "training"}]
    others = [name for name in folders if name not in train and words[name] & {*_SPLIT_LIKE}]
    common = [{*_subfolders(root / one)} & {*_subfolders(root / other)} for one in train for other in others]
    return [*train, *others] if any(len(names) > 1 for names in common) else []


def refuse_broken(broken: Mapping[Path, str]) -> None:
    """Raise `SmallvitError` if there are any, with all that are to be mended in one line, in their order."""
    if not broken:
        return
    named = [f"{path}: {why}" for path, why in broken.items()]
    more = f"; and {len(named) - NAMED_BROKEN} more" if len(named) > NAMED_BROKEN else ""
    count = f"{len(named)} pictures cannot be used: " if len(named) > 1 else ""
    raise SmallvitError(f"{count}{'; '.join(named[:NAMED_BROKEN])}{more}")


def _own_splits(root: Path, listing: Listing) -> None:
    for name in ("val", "test"):
        folder = root / name
        if not folder.is_dir() or (name == "test" and "val" in listing.splits and _unlabelled(folder, listing)):
            continue
        _require_classes(folder, _subfolders(folder), listing.class_names, "train/")
        listing.splits[name] = _classes(folder, listing)
    if "val" in listing.splits and "test" not in listing.splits:
        listing.splits["test"] = listing.splits.pop("val")
        why = "test/ has no labels" if (root / "test").is_dir() else "there is no test/"
        listing.notes.append(f"{root / 'val'} serves as test ({why}); val is held out of train")


def _require_classes(folder: Path, found: Iterable[str], class_names: Sequence[str], of: str) -> None:
    """Raise `SmallvitError` unless a folder's folders, `found`, are some of the classes that train/, say, has."""
    found, known = {*found}, {*map(composed, class_names)}
    extra = sorted(name for name in found if composed(name) not in known)
    if extra or not found:
        what = f"class folder {extra[0]!r} that {of} has not" if extra else "no class folders"
        meant = did_you_mean(extra[0], class_names) if extra else ""
        hint = "" if found else " (or move it away: `smallvit predict` takes pictures without labels)"
        raise SmallvitError(f"{folder}: {what}; {meant}expected some of {', '.join(class_names[:10])}{hint}")


def _unlabelled(folder: Path, listing: Listing) -> bool:
    """Return whether the folder's images lie in it or its images/, not in folders of classes."""
    return set(_subfolders(folder)) <= {"images"} - {*listing.class_names} and bool(find_images(folder)[0])


def _subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in one, hidden ones left out; a link to nothing may have been one."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    refuse_broken({entry: "is a link to nothing" for entry in entries if entry.is_symlink() and not entry.exists()})
    return [entry.name for entry in entries if entry.is_dir()]


def _classes(folder: Path, listing: Listing) -> list[tuple[Path, int]]:
    items: list[tuple[Path, int]] = []
    beside = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    listing.strays += [path for path in beside if is_image(path)]
    empty: list[str] = []
    labels = {composed(name): label for label, name in enumerate(listing.class_names)}
    for name in _subfolders(folder):
        images, strays = find_images(folder / name)
        listing.strays += strays
        if not images:
            empty.append(f"{folder / name}: class folder without images{unreadable(strays)}")
        label = labels[composed(name)]
        items += [(path, label) for path in images]
    if empty:
        raise SmallvitError(f"{', '.join(empty)}; add some or remove the folder{'s' if len(empty) > 1 else ''}")
    return items


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folder's images at any depth, and its files that are not images, both sorted.

    Links are followed, to no folder twice. Raises `SmallvitError` for a folder that cannot be read.
    """
    images: list[Path] = []
    strays: list[Path] = []
    for parent, folders, files in walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = parent / name
            if name.startswith(".") or name.lower() in _SYSTEM_FILES or name == f"{folder.name}_boxes.txt":
                continue
            special = path.exists() and not path.is_file()  # a pipe, or a device, has no end
            (images if is_image(path) and not special else strays).append(path)
    return sorted(images), sorted(strays)


def unreadable(strays: Sequence[Path]) -> str:
    """Return, for an error about a folder without images, which formats are read, if there are files of others."""
    return f" ({strays[0].name} is by its name none of {', '.join(formats())})" if strays else ""


def is_image(path: Path) -> bool:
    """Return whether a file's name ends as that of a picture that is read."""
    return path.suffix.lower() in _readable_suffixes()


@cache
def _readable_suffixes() -> set[str]:
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in formats()}


def _annotated(folder: Path, listing: Listing) -> list[tuple[Path, int]]:
    """Return the images named by Tiny ImageNet's annotations: file, class and a box on each line, by tabs."""
    numbers = {name: label for label, name in enumerate(listing.class_names)}
    items: list[tuple[Path, int]] = []
    seen: set[Path] = set()
    for number, line in enumerate((folder / _ANNOTATIONS).read_text("utf-8", "surrogateescape").splitlines(), start=1):
        where = f"{folder / _ANNOTATIONS} line {number}"
        cells = line.split("\t")
        if len(cells) < 2 or cells[1] not in numbers:
            raise SmallvitError(f"{where}: {line!r}; expected an image, a tab and a class of train/")
        if Path(cells[0]).name != cells[0]:
            raise SmallvitError(f"{where}: {cells[0]!r} is not the name of a file in images/")
        path = folder / "images" / cells[0]
        if not path.is_file():
            raise SmallvitError(f"{where}: {path} is missing")
        if path in seen:
            raise SmallvitError(f"{where}: {cells[0]!r} was named before; expected each image once")
        seen.add(path)
        items.append((path, numbers[cells[1]]))
    if not items:
        raise SmallvitError(
            f"{folder / _ANNOTATIONS}: names no image; expected an image, a tab and a class on each line"
        )
    listing.strays += sorted({*find_images(folder / "images")[0]} - {path for path, _ in items})
    return items
