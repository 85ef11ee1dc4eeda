"""A split's arrays, their canonical order and digest, and seeded slices of every class held out of them.

Canonical order: rows sorted by label, then by a hash of their pixels as they came, before any resizing. Index i is then
the same image whatever file form, shard count or row order the bytes came in, and at every size, so seeded draws over
indices mean the same images everywhere.

Shapes: n images, of which k are kept and h held out; H height, W width.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Shaped, UInt8

from smallvit.console import first_few
from smallvit.rng import generator


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images and their labels, row by row."""

    images: UInt8[np.ndarray, "n 3 H W"]
    labels: Int64[np.ndarray, " n"]
    keys: Shaped[np.ndarray, " n"] | None = None
    """Of pictures that were fitted: hashes of what they were before; equal keys are copies."""
    files: Shaped[np.ndarray, " n"] | None = None
    """Of a folder's pictures: their paths within it, in UTF-8."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int64[np.ndarray, " k"]) -> "Split":
        """Return the given rows, as a copy."""
        keys, files = (None if of_rows is None else of_rows[rows] for of_rows in (self.keys, self.files))
        return Split(images=self.images[rows], labels=self.labels[rows], keys=keys, files=files)

    def file_names(self, rows: Int64[np.ndarray, " k"] | slice = slice(None)) -> list[str] | None:
        """Return the paths of a folder's pictures within it, all or those of some rows; None of other data sets."""
        return None if self.files is None else [bytes(name).decode() for name in self.files[rows]]

    def told(self, rows: Int64[np.ndarray, " k"], words: str) -> str:
        """Return what is told of some of the pictures, with the names of the first few."""
        names = sorted(self.file_names(rows) or ())
        return f"{len(rows):,} of {len(self):,} pictures {words}: {first_few(names)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """A data set's splits."""

    train: Split
    val: Split | None
    test: Split | None

    def splits(self) -> dict[str, Split]:
        """Return the splits that are there, by name."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded(Splits):
    """A source's splits as they were read, with what only the source could tell."""

    train_moments: Float64[np.ndarray, "n 2 3"] | None = None
    """Each train image's mean and mean square per channel, in units of 0..1, where no statistics are published."""
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def canonical(split: Split) -> Split:
    """Return the split with its rows in canonical order."""
    keys = split.keys
    if keys is None:
        hashes = [hashlib.blake2b(image, digest_size=16).digest() for image in np.ascontiguousarray(split.images)]
        keys = np.array(hashes, dtype="S16")
    return split.take(np.lexsort((keys, split.labels)))


def digest(split: Split) -> str:
    """Return the sha256 of the pixels [n, 3, H, W] followed by the labels as little-endian int64."""
    state = hashlib.sha256(np.ascontiguousarray(split.images).data)
    state.update(split.labels.astype("<i8").data)
    return state.hexdigest()


def uneven(counts: Sequence[int]) -> bool:
    """Whether the largest class has at least one and a half times as many images as the smallest that has any."""
    return 2 * max(counts) >= 3 * min(count for count in counts if count)


def hold_out(
    split: Split, fraction: float, *, seed: int, stream: str
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " h"]]:
    """Return the rows (kept, held): of every class, `fraction` of its images is held out, at least one of two or more.

    The split must be in canonical order, where exact copies within a class are neighbours: they stay on one side. So of
    a class with too many copies less is held out, perhaps nothing.
    """
    held = np.zeros(len(split), dtype=bool)
    for label in np.unique(split.labels):
        first, end = np.searchsorted(split.labels, (label, label + 1))
        starts = _starts(split, slice(first, end))
        ends = np.append(starts[1:], end - first)
        quota = min(max(round(fraction * (end - first)), 1), end - first - 1)
        for group in generator(seed, f"data/{stream}", int(label)).permutation(len(starts)):
            size = ends[group] - starts[group]
            if size <= quota:  # a group of copies that would overshoot is passed over
                held[first + starts[group] : first + ends[group]] = True
                quota -= size
            if quota <= 0:
                break
    return np.flatnonzero(~held), np.flatnonzero(held)


def _starts(split: Split, part: slice) -> Int64[np.ndarray, " groups"]:
    """Return the rows of a part that differ from the row before: where each group of equal neighbours starts."""
    if split.keys is not None:
        keys = split.keys[part]
        return np.setdiff1d(np.arange(len(keys)), np.flatnonzero(keys[1:] == keys[:-1]) + 1)
    images = split.images[part]
    middle = images[:, :, images.shape[2] // 2]
    # One line of pixels tells nearly all images apart; only where it does not, the rest is compared.
    alike = np.flatnonzero((middle[1:] == middle[:-1]).all(axis=(1, 2)))
    copies = [row + 1 for row in alike if np.array_equal(images[row], images[row + 1])]
    return np.setdiff1d(np.arange(len(images)), copies)
