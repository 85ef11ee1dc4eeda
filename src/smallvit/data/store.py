"""From a DataConfig to arrays: find the bytes, decode them once, keep them in the cache, divide them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from smallvit.checks import require_whole
from smallvit.console import first_few, printable
from smallvit.data import cache as cached
from smallvit.data.config import DataConfig
from smallvit.data.decode_many import decode_all
from smallvit.data.digits import read_digits
from smallvit.data.hub import HubError
from smallvit.data.source import Source, find_folder, find_hub, find_published, forms
from smallvit.data.spec import SPECS, DatasetSpec
from smallvit.data.split import Decoded, Split, Splits, hold_out, uneven
from smallvit.errors import SmallvitError, line_of
from smallvit.files import expanded, is_there

IN_TRAIN, IN_VAL = "are in train, too", "are in val, too"
"""What notes say of pictures of val or test; by those of train an accuracy is too good."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(Splits):
    """A data set ready to train on."""

    spec: DatasetSpec
    test: Split
    notes: tuple[str, ...]
    """What the user must be told: a cache rebuilt, pixels that are not the official ones, files passed over."""


def load_dataset(config: DataConfig, *, image_size: int = 32) -> Dataset:
    """Return the configured data set with images of `image_size` x `image_size` pixels.

    Decoded once and memory-mapped from the cache after that. SmallvitError names the file, the row and what was
    expected.
    """
    require_whole("image_size", image_size, 1)
    try:
        return load_from_spec(SPECS.get(config.dataset), config, image_size=image_size)
    except OSError as error:
        raise SmallvitError(line_of(error)) from error


def load_from_spec(spec: DatasetSpec | None, config: DataConfig, *, image_size: int) -> Dataset:
    """Return the data set of a spec; None is a folder, whose spec is made from what is found."""
    if spec is not None and spec.name == "digits":
        decoded = read_digits(spec)
        return _divided(spec, _pack(_resized(decoded, image_size)), config, [])
    folder = cached.cache_folder(config.cache)
    if spec is None:
        assert config.root is not None
        source = find_folder(expanded(config.root, "data.root"), image_size)
        config.require_beside("data.cache (or SMALLVIT_CACHE)", folder)
        entry, notes = _cached_or_built(folder, "folder", source, image_size)
        notes += source.notes
    elif config.root is not None:
        source = find_published(expanded(config.root, "data.root"), spec)
        entry, notes = _cached_or_built(folder, spec.name, source, image_size)
    else:
        entry, notes = _without_root(folder, spec, image_size)
    notes += entry.facts["notes"]
    return _divided(spec or _folder_spec(entry), entry.arrays, config, notes)


def _without_root(folder: Path, spec: DatasetSpec, size: int) -> tuple[cached.Entry, list[str]]:
    """Return the cache's entry, or one made from the cache's entry at native size, or one from the hub."""
    broken: list[str] = []
    found: list[tuple[int, Path, cached.Entry]] = []
    for at_size in dict.fromkeys((size, spec.native_size)):
        for path in cached.entries(folder, f"{spec.name}-{at_size}"):
            try:
                found.append((at_size, path, cached.open_entry(path)))
            except cached.BrokenEntryError as error:
                broken.append(str(error))
        if not all(entry.facts["notes"] for _, _, entry in found):
            break
    if found:
        # Pixels known to differ from the official ones are the second choice.
        at_size, path, entry = min(found, key=lambda each: (bool(each[2].facts["notes"]), each[0] != size))
        if at_size == size:
            return entry, [f"cache: {problem}; another copy is used" for problem in broken]
        return _cached_or_built(folder, spec.name, _stored(path, entry), size)
    try:
        source = find_hub(spec)
    except HubError as error:
        problems = "".join(f" ({problem})" for problem in broken)
        raise SmallvitError(
            f"{spec.name}: not in the cache {folder}{problems} and not to be had from the hub {error}; "
            f"supply it in one of three ways: --data.root with {forms(spec)}; a cache filled on another machine, "
            f"in {folder} or where --data.cache or SMALLVIT_CACHE points; or a network route to the hub or a mirror "
            "(HF_ENDPOINT)"
        ) from error
    entry, notes = _cached_or_built(folder, spec.name, source, size)
    return entry, [f"cache rebuilt: {problem}" for problem in broken] + notes


def _cached_or_built(folder: Path, dataset: str, source: Source, size: int) -> tuple[cached.Entry, list[str]]:
    """Return the source's cache entry, decoding it first where there is none that is whole."""
    states = cached.file_states(source.files)
    key = cached.remembered(folder, source.where, states, source.key)
    name = f"{dataset}-{size}-{key}"
    entry, _ = _opened(folder / name)
    if entry is not None:
        return entry, []
    built: cached.Entry | None = None
    try:
        with cached.building(folder, name):
            entry, notes = _opened(folder / name)  # another process may have built it while this one waited
            if entry is None:
                built = _decoded(source, size, states, key)
                entry = cached.write_entry(folder, name, built)
            return entry, notes
    except cached.UnwritableError as error:
        return built or _decoded(source, size, states, key), [f"cache: {error}; every start decodes again"]


def _opened(path: Path) -> tuple[cached.Entry | None, list[str]]:
    try:
        return (cached.open_entry(path) if is_there(path) else None), []
    except cached.BrokenEntryError as error:
        return None, [f"cache rebuilt: {error}"]


def _decoded(source: Source, size: int, states: Mapping[Path, cached.FileState], key: str) -> cached.Entry:
    """Return what a source holds, at `size`; `SmallvitError` where its files, which were in these states, no longer
    have the key by which what was read will be found again.
    """
    decoded = _resized(source.read(), size)
    now = cached.file_states(source.files)
    changed = [path.relative_to(source.where) for path in states if now[path] != states[path]]
    if changed and source.key() != key:
        raise SmallvitError(f"{source.where}: changed while it was read ({first_few(changed)}): start again")
    facts = {"class_names": decoded.class_names, "notes": decoded.notes}
    return cached.Entry(arrays=_pack(decoded), facts=facts)


def _pack(decoded: Decoded) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, split in decoded.splits().items():
        arrays |= {f"{name}_{part}": values for part, values in vars(split).items() if values is not None}
    if decoded.train_moments is not None:
        arrays["train_moments"] = decoded.train_moments
    return arrays


def _stored(path: Path, entry: cached.Entry) -> Source:
    """Return an entry of the cache as a source, to be resized from."""

    def read() -> Decoded:
        names, notes = tuple(entry.facts["class_names"]), tuple(entry.facts["notes"])
        train, test = _split(entry.arrays, "train"), _split(entry.arrays, "test")
        return Decoded(train=train, val=None, test=test, class_names=names, notes=notes)

    return Source(where=path, files=(path / "manifest.json",), read=read)


def _split(arrays: Mapping[str, np.ndarray], name: str) -> Split:
    labels = np.asarray(arrays[f"{name}_labels"])
    keys, files = arrays.get(f"{name}_keys"), arrays.get(f"{name}_files")
    return Split(images=arrays[f"{name}_images"], labels=labels, keys=keys, files=files)


def _resized(decoded: Decoded, size: int) -> Decoded:
    """Return the splits at `size`, by Pillow's bicubic filter; as they are where they have it."""

    def resize(image: np.ndarray) -> np.ndarray:
        pillow = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        return np.asarray(pillow.resize((size, size), Image.Resampling.BICUBIC))

    def resized(split: Split) -> Split:
        images = decode_all(list(split.images), resize, size=size, title=f"Resizing to {size} pixels")
        return replace(split, images=images)

    if decoded.train.images.shape[-1] == size:
        return decoded
    return replace(decoded, train=resized(decoded.train), test=resized(decoded.test) if decoded.test else None)


def _divided(spec: DatasetSpec, arrays: Mapping[str, np.ndarray], config: DataConfig, notes: list[str]) -> Dataset:
    """Hold test and val out of train where the source does not bring them; statistics are of what train keeps."""
    train = _split(arrays, "train")
    rows = np.arange(len(train))
    if "test_images" in arrays:
        test = _split(arrays, "test")
    else:
        kept, held = hold_out(train, config.test_fraction, seed=config.split_seed, stream="test")
        if not len(held):
            counts = np.bincount(train.labels, minlength=spec.num_classes)
            label = int(counts.argmin())
            raise SmallvitError(
                f"data.test_fraction is {config.test_fraction}: too few different images to hold any out as test, "
                f"{counts[label]} of class {spec.class_names[label]}: add images, or bring train/ and test/ of your own"
            )
        train, test, rows = train.take(kept), train.take(held), rows[kept]
    val = None
    if "val_images" in arrays:
        val = _split(arrays, "val")
    elif config.val_fraction > 0:
        kept, held = hold_out(train, config.val_fraction, seed=config.split_seed, stream="val")
        if len(held):
            train, val, rows = train.take(kept), train.take(held), rows[kept]
        else:
            notes = [*notes, "val: too few images to hold any out of train"]
    if "train_moments" in arrays:
        mean, square = arrays["train_moments"][rows].mean(axis=0)
        std = np.sqrt(np.maximum(square - mean**2, 0))
        # A channel without any variation would be divided by zero: one grey level is the least step there is.
        spec = replace(spec, mean=_channels(mean), std=_channels(np.maximum(std, 1 / 255)))
    measured = {"val": val, "test": test}
    notes = [*notes, *_absent(measured, spec), *_copies(train, measured), *_imbalance(test, spec)]
    return Dataset(spec=spec, train=train, val=val, test=test, notes=tuple(map(printable, notes)))


def _absent(measured: Mapping[str, Split | None], spec: DatasetSpec) -> list[str]:
    """Return notes on the splits that lack a class: what is measured on them says nothing of it."""
    notes: list[str] = []
    for name, split in measured.items():
        if split is not None and (absent := sorted({*range(spec.num_classes)} - {*split.labels.tolist()})):
            names = first_few(spec.class_names[label] for label in absent)
            notes.append(f"{name}: no image of {len(absent)} of {spec.num_classes} classes: {names}")
    return notes


def _copies(train: Split, measured: Mapping[str, Split | None]) -> list[str]:
    """Return notes on exact copies of pictures where they spoil what is measured, if there are keys to tell them by."""
    found = {name: split for name, split in {"train": train, **measured}.items() if split is not None}
    keys = {name: split.keys for name, split in found.items() if split.keys is not None}
    told: list[tuple[str, np.ndarray, str]] = []
    for name, other, words in (("val", "train", IN_TRAIN), ("test", "train", IN_TRAIN), ("test", "val", IN_VAL)):
        if name in keys and other in keys:
            told.append((name, np.isin(keys[name], keys[other]), words))
    if keys:
        _, copies = np.unique(np.concatenate([*keys.values()]), return_inverse=True)
        labels = np.concatenate([found[name].labels for name in keys])
        different = np.unique(np.stack([copies, labels]), axis=1)[0]
        of_two = np.split(np.bincount(different)[copies] > 1, np.cumsum([len(each) for each in keys.values()])[:-1])
        told += [(name, mask, "are of two classes") for name, mask in zip(keys, of_two, strict=True)]
    return [f"{name}: {found[name].told(np.flatnonzero(mask), words)}" for name, mask, words in told if mask.any()]


def _imbalance(test: Split, spec: DatasetSpec) -> list[str]:
    counts = np.bincount(test.labels, minlength=spec.num_classes).tolist()
    if not uneven(counts):
        return []
    most, least = max(counts), min(count for count in counts if count)
    name, rarest = (spec.class_names[counts.index(count)] for count in (most, least))
    share, images = 100 * most / len(test), f"{least} image{'s' if least > 1 else ''}"
    return [
        f"classes are uneven: to answer {name} whatever the image is right on {share:.2f} % of test; {rarest} has "
        f"{images} of it"
    ]


def _channels(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue


def _folder_spec(entry: cached.Entry) -> DatasetSpec:
    return DatasetSpec(
        name="folder",
        title="folder",
        class_names=tuple(entry.facts["class_names"]),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        horizontal_flip=None,
        train_size=len(entry.arrays["train_labels"]),
        test_size=len(entry.arrays.get("test_labels", ())),
    )
