"""Your own images as arrays in one .npz file, named as MedMNIST names them, or Keras.

`train_images` and `train_labels`, and where there are, `val_` and `test_` alike; or `x_train` and `y_train`. Images are
uint8, grey or RGB, all of one size, and are fitted as a folder's pictures are; labels are whole numbers, one an image.
The labels of train are the classes; `class_names`, if there, has the name of each, from 0. A val without a test serves
as test, and val is then held out of train.
"""

import tokenize
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from smallvit.console import first_few, printable
from smallvit.data.damaged import DAMAGED
from smallvit.data.decode import LONG, fit_image
from smallvit.data.decode_many import decode_all
from smallvit.data.folder import moments, picture_key
from smallvit.data.listing import SPLITS
from smallvit.data.split import Decoded, Split, canonical
from smallvit.errors import SmallvitError

_NAMES = ("{}_images", "{}_labels"), ("x_{}", "y_{}")
_CLASS_NAMES = "class_names"
_BROKEN = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, tokenize.TokenError, *DAMAGED)
"""What NumPy raises of an .npz file that is not whole, or holds what only a pickle could."""


def read_arrays(path: Path, size: int) -> Decoded:
    """Return the images of a file as RGB, fitted to `size`, each split in the order that a folder of the same pictures
    has. `SmallvitError` names the array that cannot be used, and what was expected.
    """
    try:
        if not zipfile.is_zipfile(path):  # NumPy would read a lone array as well
            raise ValueError("it is no archive, or is cut short")
        wanted = {_CLASS_NAMES, *(name.format(split) for pair in _NAMES for name in pair for split in SPLITS)}
        with path.open("rb") as opened, warnings.catch_warnings(), np.load(opened, allow_pickle=False) as file:
            warnings.simplefilter("ignore")  # of arrays that Python 2 wrote, which are read as well
            there = {*file.files}
            arrays = {name: _member(file, name) for name in sorted(wanted & there)}
    except _BROKEN as error:
        why = " ".join(str(error).split())
        raise SmallvitError(f"data.root: {path} is not an .npz file of plain arrays: {why}") from None
    names = {split: pair for split in SPLITS if (pair := _names(arrays, split, path))}
    if "train" not in names:
        found = printable(", ".join(sorted(there)[:8])) or "nothing"
        raise SmallvitError(
            f"data.root: {path} holds {found}; expected train_images and train_labels, or x_train and y_train, and "
            "those of val and test alike"
        )
    given = {split: _labels(arrays[labels], f"{path}: {labels}") for split, (_, labels) in names.items()}
    classes = np.unique(given["train"])
    class_names = _class_names(arrays, classes, path)
    for split, labels in given.items():
        others = np.setdiff1d(labels, classes)
        if len(others):
            raise SmallvitError(f"{path}: {names[split][1]} has {others[0]}, which {names['train'][1]} has not")
    used = {_CLASS_NAMES, *(name for pair in names.values() for name in pair)}
    left, title = sorted(there - used), printable(path.name)
    notes = [f"{title}: passed over {first_few(left)}"] if left else []
    splits: dict[str, Split] = {}
    for split, (images, _) in names.items():
        values = _images(arrays.pop(images), len(given[split]), f"{path}: {images}")
        if max(values.shape[1:3]) > 2 * min(values.shape[1:3]):
            notes.append(f"the {len(values)} pictures of {images} {LONG}")
        splits[split] = _split(values, np.searchsorted(classes, given[split]), size, f"{title} {images}")
    if "val" in splits and "test" not in splits:
        splits["test"] = splits.pop("val")
        notes.append(f"{names['val'][0]} serves as test (there is no other); val is held out of train")
    return Decoded(
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        train_moments=moments(splits["train"].images),
        class_names=class_names,
        notes=tuple(notes),
    )


def _member(file: Any, name: str) -> np.ndarray:
    try:
        found = file[name]
    except _BROKEN as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(found, np.ndarray):  # NumPy gives the bytes of what has not its format
        raise ValueError(f"{name} is no array")  # noqa: TRY004
    return found


def _names(arrays: dict[str, Any], split: str, path: Path) -> tuple[str, str] | None:
    """Return what the split's images and labels are called in the file; None where it has neither."""
    for pair in _NAMES:
        images, labels = (name.format(split) for name in pair)
        there = [name for name in (images, labels) if name in arrays]
        if len(there) == 1:
            raise SmallvitError(f"{path}: has {there[0]} without {labels if there == [images] else images}")
        if there:
            return images, labels
    return None


def _labels(values: np.ndarray, where: str) -> Int64[np.ndarray, " n"]:
    shape = values.shape[:-1] if values.ndim == 2 and values.shape[1] == 1 else values.shape
    if values.dtype.kind not in "iu" or len(shape) != 1 or not len(values):
        expected = "expected whole numbers, [n] or [n, 1], one an image"
        raise SmallvitError(f"{where} is {values.dtype} of shape {list(values.shape)}; {expected}")
    if values.max() > np.iinfo(np.int64).max:
        raise SmallvitError(f"{where} has {values.max()}; expected whole numbers below 2 ** 63")
    return values.reshape(-1).astype(np.int64)


def _class_names(arrays: dict[str, Any], classes: Int64[np.ndarray, " k"], path: Path) -> tuple[str, ...]:
    if len(classes) < 2:
        raise SmallvitError(f"{path}: expected images of at least 2 classes, found only {classes[0]}")
    if _CLASS_NAMES not in arrays:
        return tuple(map(str, classes.tolist()))
    names = arrays[_CLASS_NAMES]
    if names.ndim != 1 or names.dtype.kind != "U" or classes[0] < 0:
        found = f"{names.dtype} of shape {list(names.shape)}, and the least label {classes[0]}"
        raise SmallvitError(f"{path}: {_CLASS_NAMES} must be texts (str), [k], for labels from 0 on; it is {found}")
    named = tuple(printable(str(names[label])) for label in classes) if classes[-1] < len(names) else ()
    if len({name.strip() for name in named} - {""}) < len(classes):
        raise SmallvitError(
            f"{path}: {_CLASS_NAMES} must have a name of its own for each label, {classes[0]} to {classes[-1]}"
        )
    return named


def _images(values: np.ndarray, count: int, where: str) -> UInt8[np.ndarray, "n H W *c"]:
    bands = values.shape[3:] in ((), (1,), (3,))
    if values.dtype != np.uint8 or values.ndim not in (3, 4) or not bands or 0 in values.shape or len(values) != count:
        expected = f"expected uint8 of shape [{count}, height, width] or [{count}, height, width, 1 or 3]"
        raise SmallvitError(f"{where} is {values.dtype} of shape {list(values.shape)}; {expected}")
    return values[..., 0] if values.shape[3:] == (1,) else values


def _split(values: UInt8[np.ndarray, "n H W *c"], labels: Int64[np.ndarray, " n"], size: int, title: str) -> Split:
    keys: list[bytes] = [b""] * len(values)

    def decode(row: int) -> UInt8[np.ndarray, "size size 3"]:
        image = Image.fromarray(values[row]).convert("RGB")
        keys[row] = picture_key(image)
        return fit_image(image, size)

    images = decode_all(range(len(values)), decode, size=size, title=f"Decoding {title}")
    files = np.array([f"{title}[{row}]".encode() for row in range(len(values))])
    return canonical(Split(images=images, labels=labels, keys=np.array(keys, dtype="S16"), files=files))
