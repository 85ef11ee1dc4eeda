"""Where a data set's bytes come from, and what is checked of them once read.

Order of search for the published sets: the given root, then (in `store`) the cache, then the hub.
"""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smallvit.cores import usable_cores
from smallvit.data import hub
from smallvit.data.arrays import read_arrays
from smallvit.data.batches import read_batches
from smallvit.data.cache import file_sha256
from smallvit.data.folder import read_images
from smallvit.data.listing import list_images
from smallvit.data.parquet import find_shards, read_shards
from smallvit.data.spec import BinaryBatches, DatasetSpec, PythonBatches
from smallvit.data.split import Decoded, Split, canonical, digest
from smallvit.errors import SmallvitError
from smallvit.files import exists

ALTERED = "differs from the official release"
"""Words of the note on a split whose pixels or labels are not the published ones."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files found, and how to read them: nothing is decoded before `read` is called."""

    where: Path
    files: tuple[Path, ...]
    read: Callable[[], Decoded]
    notes: tuple[str, ...] = ()
    """What the search itself found worth telling; what reading finds is in Decoded."""

    def key(self) -> str:
        """Return 16 hex digits of a hash of the files' names (within `where`) and contents."""
        ended = threading.Event()

        def one(path: Path) -> str:
            return f"{path.relative_to(self.where).as_posix()}\0{file_sha256(path, ended)}\n"

        with ThreadPoolExecutor(usable_cores()) as pool:
            try:
                lines = "".join(pool.map(one, self.files))
            finally:  # an interrupt waits for no file
                ended.set()
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:16]


def find_folder(root: Path, size: int) -> Source:
    """Return the source of the user's own images, a folder of pictures or an .npz of arrays, to be fitted to `size`."""
    _exists(root)
    if root.is_file():
        if root.suffix != ".npz":
            expected = "a folder of images, one subfolder a class, or an .npz file of arrays"
            raise SmallvitError(f"data.root: {root} is a file; expected {expected}")
        return Source(where=root.parent, files=(root,), read=lambda: read_arrays(root, size))
    listing = list_images(root)
    return Source(
        where=root, files=listing.files(), read=lambda: read_images(listing, size), notes=tuple(listing.notes)
    )


def find_published(root: Path, spec: DatasetSpec) -> Source:
    """Return the source of a published data set in any of its public forms under `root`."""
    _exists(root)
    if root.is_file():
        return _archive(root, spec)
    places = (root, root / spec.name)
    for place in places:
        shards = _shards(place, spec)
        if shards:
            return shards
    for layout in filter(None, (spec.binary, spec.python)):
        for place in places:
            for candidate in (place, place / layout.folder, place / layout.archive):
                if candidate.is_file() or any((candidate / name).is_file() for name in (*layout.train, *layout.test)):
                    return _batches(candidate, spec, layout)
    found = ", ".join(sorted(entry.name for entry in root.iterdir())[:5]) or "nothing"
    holds_folders = any(entry.is_dir() for entry in root.iterdir())
    hint = "; for images of your own, --data.dataset folder, or smallvit evaluate RUN FOLDER" if holds_folders else ""
    raise SmallvitError(f"data.root: {root} holds {found}; expected {forms(spec)}{hint}")


def find_hub(spec: DatasetSpec) -> Source:
    """Return the source of a published data set on the hub; hub.HubError where it cannot be had."""
    if spec.parquet is None:
        raise hub.HubError(f"{spec.name} is not on the hub")
    train, test = hub.fetch(spec.parquet)
    return _parquet(train[0].parent, train, test, spec)


def forms(spec: DatasetSpec) -> str:
    """Return, in words, the public forms in which a data set may be supplied."""
    words: list[str] = []
    if spec.parquet:
        words.append(
            f"parquet (train*.parquet and test*.parquet with columns {spec.parquet.image_column}, "
            f"{spec.parquet.label_column})"
        )
    words += [f"{layout.folder}/ or {layout.archive}" for layout in (spec.binary, spec.python) if layout]
    return ", or ".join(words)


def _exists(root: Path) -> None:
    if not exists(root):
        where = "" if root.is_absolute() else f" in {Path.cwd()}"
        raise SmallvitError(f"data.root: {root} does not exist{where}; --data.root says where the images are")


def _archive(root: Path, spec: DatasetSpec) -> Source:
    for layout in filter(None, (spec.binary, spec.python)):
        if root.name.split(".")[0] == layout.archive.split(".")[0]:
            return _batches(root, spec, layout)
    raise SmallvitError(f"data.root: {root} is not an archive of {spec.name}; expected {forms(spec)}")


def _batches(place: Path, spec: DatasetSpec, layout: BinaryBatches | PythonBatches) -> Source:
    def read() -> Decoded:
        splits = read_batches(place, spec, layout)
        return _verified(splits["train"], splits["test"], spec, place, jpeg=False)

    if place.is_file():
        return Source(where=place.parent, files=(place,), read=read)
    files = tuple(place / name for name in (*layout.train, *layout.test) if (place / name).is_file())
    return Source(where=place, files=files, read=read)


def _shards(root: Path, spec: DatasetSpec) -> Source | None:
    if spec.parquet is None:
        return None
    for place in dict.fromkeys((root, root / Path(spec.parquet.train[0]).parent)):
        train, test = find_shards(place, "train"), find_shards(place, "test")
        if train or test:
            for name, shards in (("train", train), ("test", test)):
                if not shards:
                    raise SmallvitError(f"{place}: {name}*.parquet is missing; expected {forms(spec)}")
            return _parquet(place, train, test, spec)
    return None


def _parquet(place: Path, train: tuple[Path, ...], test: tuple[Path, ...], spec: DatasetSpec) -> Source:
    def read() -> Decoded:
        assert spec.parquet is not None
        first, lossy_first = read_shards(train, spec, spec.parquet, f"Decoding {spec.name} train")
        second, lossy_second = read_shards(test, spec, spec.parquet, f"Decoding {spec.name} test")
        return _verified(first, second, spec, place, jpeg=lossy_first or lossy_second)

    return Source(where=place, files=(*train, *test), read=read)


def _verified(train: Split, test: Split, spec: DatasetSpec, place: Path, *, jpeg: bool) -> Decoded:
    """Return the splits in canonical order, counted against the spec; a note says where pixels are not the official."""
    train, test = canonical(train), canonical(test)
    sizes = {"train": spec.train_size, "test": spec.test_size}
    sums = {"train": spec.train_sha256, "test": spec.test_sha256}
    notes: list[str] = []
    for name, split in (("train", train), ("test", test)):
        if len(split) != sizes[name]:
            raise SmallvitError(
                f"{place}: {len(split):,} {name} images; {spec.name} has {sizes[name]:,} (a shard missing?)"
            )
        counts = np.bincount(split.labels, minlength=spec.num_classes)
        each = sizes[name] // spec.num_classes
        wrong = np.flatnonzero(counts != each)
        if len(wrong):
            label = int(wrong[0])
            which = f"class {label} ({spec.class_names[label]})"
            raise SmallvitError(f"{place}: {counts[label]:,} {name} images of {which}; expected {each:,}")
        if sums[name] and digest(split) != sums[name]:
            why = "JPEG images, which lose detail: expect another accuracy" if jpeg else "altered images or labels"
            notes.append(f"{name} {ALTERED} of {spec.name} ({why})")
    return Decoded(train=train, val=None, test=test, class_names=spec.class_names, notes=tuple(notes))
