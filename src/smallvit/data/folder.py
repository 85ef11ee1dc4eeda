"""Your own pictures, as `listing` finds them, as arrays."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from smallvit.console import printable
from smallvit.data.decode_many import decode_files
from smallvit.data.listing import Listing, refuse_broken
from smallvit.data.split import Decoded, Split, canonical


def read_images(listing: Listing, size: int) -> Decoded:
    """Return the listed images as RGB, fitted to `size`, each split in canonical order."""
    read = {name: read_split(listing, name, size) for name in listing.splits}
    splits = {name: split for name, (split, _) in read.items()}
    return Decoded(
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        train_moments=moments(splits["train"].images),
        class_names=tuple(map(printable, listing.class_names)),
        notes=tuple(note for _, notes in read.values() for note in notes),
    )


def read_split(listing: Listing, name: str, size: int) -> tuple[Split, list[str]]:
    """Return the listed images of a split, as `read_images` has them, and notes on those of which much is lost."""
    paths = [path for path, _ in listing.splits[name]]
    keys: dict[Path, bytes] = {}

    def look(path: Path, upright: Image.Image) -> None:
        keys[path] = picture_key(upright)

    found = decode_files(paths, size=size, title=f"Decoding {listing.root.name} {name}", look=look)
    refuse_broken(found.broken)
    labels = np.array([label for _, label in listing.splits[name]], dtype=np.int64)
    files = np.array([printable(path.relative_to(listing.root).as_posix()).encode() for path in paths])
    in_order = np.array([keys[path] for path in paths], dtype="S16")
    split = Split(images=found.images, labels=labels, keys=in_order, files=files)
    return canonical(split), found.notes(listing.root)


def picture_key(upright: Image.Image) -> bytes:
    """Return the hash by which a picture is ordered, and which only exact copies of it share."""
    key = hashlib.blake2b(f"{upright.size}".encode(), digest_size=16)
    key.update(upright.tobytes())
    return key.digest()


def moments(images: UInt8[np.ndarray, "n 3 H W"]) -> Float64[np.ndarray, "n 2 3"]:
    """Return each image's mean and mean square per channel, in units of 0..1."""
    moments = np.empty((len(images), 2, 3))
    for row, image in enumerate(images):
        scaled = image.reshape(3, -1) / 255
        moments[row] = scaled.mean(axis=1), np.square(scaled).mean(axis=1)
    return moments
