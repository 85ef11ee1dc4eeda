"""Your own images as arrays in an .npz: held to a folder of the same pictures, and refused with the array's name."""

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smallvit.data.config import DataConfig
from smallvit.data.split import digest
from smallvit.data.store import Dataset, load_dataset
from smallvit.errors import SmallvitError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 12, 16, 3), dtype=np.uint8)
LABELS = np.arange(24) % 3
NAMES = np.array(["ant", "bee", "cat"])


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    def of(size: int = 8, **arrays: Any) -> Dataset:
        path = tmp_path / "own.npz"
        np.savez_compressed(path, **arrays)
        return load_dataset(DataConfig(dataset="folder", root=path, cache=tmp_path / "cache"), image_size=size)

    return of


def folder_of(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = root / NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row}.png")


@pytest.mark.parametrize("name", ["class_names", "test_labels"])
def test_a_member_that_is_no_array_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, train_images=RGB, train_labels=LABELS, test_images=RGB)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "ant\nbee\ncat\n")
        archive.writestr("README", "another")
    with pytest.raises(SmallvitError, match=f"own.npz is not an .npz file of plain arrays: {name} is no array"):
        load_dataset(DataConfig(dataset="folder", root=path, cache=tmp_path / "cache"), image_size=8)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_members_of_every_compression_are_one_line(tmp_path: Path, kind: int) -> None:
    plain, path = tmp_path / "plain.npz", tmp_path / "own.npz"
    np.savez(plain, train_images=RGB, train_labels=LABELS)
    with zipfile.ZipFile(plain) as arrays, zipfile.ZipFile(path, "w", kind) as archive:
        for name in arrays.namelist():
            archive.writestr(name, arrays.read(name))
    whole = path.read_bytes()
    for at in (80, len(whole) // 4):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(SmallvitError, match=r"own\.npz is not an \.npz file of plain arrays: "):
            load_dataset(DataConfig(dataset="folder", root=path, cache=tmp_path / "cache"), image_size=8)


@pytest.mark.parametrize("images", [RGB, RGB[..., 0]], ids=["RGB", "grey"])
@pytest.mark.parametrize("own_test", [True, False])
def test_arrays_are_what_a_folder_of_the_same_pictures_is(
    images: np.ndarray, own_test: bool, tmp_path: Path, load: Callable[..., Dataset]
) -> None:
    order = RNG.permutation(24)
    if own_test:
        folder_of(tmp_path / "own" / "train", images[:18], LABELS[:18])
        folder_of(tmp_path / "own" / "test", images[18:], LABELS[18:])
        order = np.sort(order[order < 18])[::-1]
    else:
        folder_of(tmp_path / "own", images, LABELS)
    folder = load_dataset(DataConfig(dataset="folder", root=tmp_path / "own", cache=tmp_path / "cache"), image_size=8)
    rest = {"test_images": images[18:], "test_labels": LABELS[18:]} if own_test else {}
    arrays = load(train_images=images[order], train_labels=LABELS[order], class_names=NAMES, **rest)
    assert arrays.spec == folder.spec
    assert arrays.notes == folder.notes == ()
    for name in ("train", "val", "test"):
        assert digest(getattr(arrays, name)) == digest(getattr(folder, name))
    row = int(re.fullmatch(r"own\.npz t\w+_images\[(\d+)\]", arrays.test.files[0].decode())[1])
    picture = images[18:][row] if own_test else images[order][row]
    assert np.array_equal(picture, np.asarray(Image.open(tmp_path / "own" / folder.test.files[0].decode())))


def test_a_file_whose_name_is_not_utf_8_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.npz")
    np.savez(path, train_images=RGB, train_labels=LABELS, meta=LABELS)
    for _ in range(2):  # decoded, and from the cache
        data = load_dataset(DataConfig(dataset="folder", root=path, cache=tmp_path / "cache"), image_size=8)
        assert data.notes == (r"caf\udce9.npz: passed over meta",)
        assert all(name.startswith(rb"caf\udce9.npz train_images[") for name in data.test.files.tolist())


def test_arrays_that_python_2_wrote_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", LABELS)
    labels = (tmp_path / "labels.npy").read_bytes().replace(b"(24,), }", b"(24L,),}")
    path = tmp_path / "own.npz"
    np.savez(path, x_train=RGB)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_train.npy", labels)
    found = load_dataset(DataConfig(dataset="folder", root=path, cache=tmp_path / "cache"), image_size=8)
    assert (found.notes, len(found.train) + len(found.test) + len(found.val or ())) == ((), 24)


def test_names_and_shapes_of_medmnist_and_of_keras(load: Callable[..., Dataset]) -> None:
    grey = RGB[..., :1]
    medmnist = {f"{name}_images": grey[rows, ..., 0] for name, rows in (("train", slice(12)), ("val", slice(12, 18)))}
    medmnist |= {"train_labels": LABELS[:12, None].astype(np.uint8), "val_labels": LABELS[12:18, None].astype(np.uint8)}
    found = load(**medmnist, test_images=grey[18:, ..., 0], test_labels=LABELS[18:, None].astype(np.uint8))
    assert found.spec.class_names == ("0", "1", "2")
    assert (len(found.train), len(found.val or ()), len(found.test)) == (12, 6, 6)
    same = load(x_train=grey[:12], y_train=LABELS[:12], x_val=grey[12:18], y_val=LABELS[12:18])
    assert found.val is not None
    assert digest(same.test) == digest(found.val)
    assert same.val is not None
    assert same.notes == ("x_val serves as test (there is no other); val is held out of train",)


def test_arrays_that_are_not_used_are_named(load: Callable[..., Dataset]) -> None:
    unused = {"x_valid": RGB, "y_valid": LABELS, "meta": np.array({"made by": "someone"}, dtype=object)}
    (note,) = load(x_train=RGB, y_train=LABELS, **unused).notes
    assert note == "own.npz: passed over meta, x_valid, y_valid"


def test_labels_need_not_begin_at_0(load: Callable[..., Dataset]) -> None:
    found = load(train_images=RGB, train_labels=np.array([7, -2, 40])[LABELS])
    assert found.spec.class_names == ("-2", "7", "40")
    named = load(train_images=RGB, train_labels=LABELS + 1, class_names=np.array(["none", *NAMES]))
    assert named.spec.class_names == tuple(NAMES)


def test_long_pictures_are_told_of(load: Callable[..., Dataset]) -> None:
    (note,) = load(train_images=RGB[:, :5], train_labels=LABELS).notes
    assert note.startswith("the 24 pictures of train_images are more than twice as long as wide")


def test_a_split_that_lacks_a_class_is_told_of(load: Callable[..., Dataset]) -> None:
    some = LABELS < 2
    notes = load(x_train=RGB, y_train=LABELS, x_test=RGB[some] + 1, y_test=LABELS[some]).notes
    assert f"test: no image of 1 of 3 classes: {LABELS.max()}" in notes


def test_copies_in_test_are_told_of(load: Callable[..., Dataset]) -> None:
    notes = load(x_train=RGB, y_train=LABELS, x_test=RGB[:2], y_test=LABELS[:2]).notes
    assert "test: 2 of 2 pictures are in train, too: own.npz x_test[0], own.npz x_test[1]" in notes


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "holds nothing; expected train_images and train_labels, or x_train and y_train"),
    ({"arr_0": RGB}, "holds arr_0; expected train_images and train_labels"),
    ({"train_images": RGB}, "has train_images without train_labels"),
    ({"y_train": LABELS}, "has y_train without x_train"),
    ({"x_train": RGB / 255, "y_train": LABELS}, "x_train is float64 of shape [24, 12, 16, 3]; expected uint8"),
    ({"x_train": RGB[:23], "y_train": LABELS}, "expected uint8 of shape [24, height, width] or [24, height, width, 1 "),
    ({"x_train": RGB.transpose(0, 3, 1, 2), "y_train": LABELS}, "is uint8 of shape [24, 3, 12, 16]; expected uint8"),
    ({"x_train": RGB[..., None], "y_train": LABELS}, "is uint8 of shape [24, 12, 16, 3, 1]; expected uint8"),
    ({"x_train": RGB[:, :0], "y_train": LABELS}, "is uint8 of shape [24, 0, 16, 3]; expected uint8"),
    ({"x_train": RGB, "y_train": np.eye(3)[LABELS]}, "y_train is float64 of shape [24, 3]; expected whole numbers"),
    ({"x_train": RGB, "y_train": np.eye(3, dtype=int)[LABELS]}, "y_train is int64 of shape [24, 3]; expected whole"),
    ({"x_train": RGB, "y_train": LABELS * 0 + 5}, "expected images of at least 2 classes, found only 5"),
    ({"x_train": RGB[:0], "y_train": LABELS[:0]}, "y_train is int64 of shape [0]; expected whole numbers"),
    (
        {"x_train": RGB, "y_train": LABELS, "x_test": RGB, "y_test": LABELS + 1},
        "y_test has 3, which y_train has not",
    ),
    ({"x_train": RGB, "y_train": LABELS, "class_names": NAMES[:2]}, "class_names must have a name of its own for each"),
    ({"x_train": RGB, "y_train": LABELS, "class_names": np.array(["a", " ", "c"])}, "a name of its own for each"),
    ({"x_train": RGB, "y_train": LABELS, "class_names": np.array(["a", "a ", "c"])}, "a name of its own for each"),
    ({"x_train": RGB, "y_train": LABELS, "class_names": NAMES[[0, 1, 1]]}, "for each label, 0 to 2"),
    ({"x_train": RGB, "y_train": LABELS - 1, "class_names": NAMES}, "for labels from 0 on; it is "),
    ({"x_train": RGB, "y_train": LABELS, "class_names": NAMES.astype("S")}, "must be texts (str), [k], for labels "),
    (
        {"x_train": RGB, "y_train": np.array([None] * 24)},
        "is not an .npz file of plain arrays: y_train: Object arrays cannot",
    ),
    ({"x_train": RGB, "y_train": LABELS, "class_names": NAMES.astype(object)}, "plain arrays: class_names: Object arr"),
    (
        {"x_train": RGB, "y_train": np.array([5, 2**64 - 1] * 12, dtype=np.uint64)},
        "y_train has 18446744073709551615; expected whole numbers below 2 ** 63",
    ),
]


@pytest.mark.parametrize(("arrays", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_cannot_be_used_is_named(arrays: dict[str, Any], words: str, load: Callable[..., Dataset]) -> None:
    with pytest.raises(SmallvitError) as refused:
        load(**arrays)
    assert words in str(refused.value)
    assert "own.npz" in str(refused.value)
    assert "\n" not in str(refused.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_one_line_or_the_same_pictures(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "own.npz"
    np.savez_compressed(path, x_train=RGB[:6], y_train=LABELS[:6])
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = load_dataset(DataConfig(dataset="folder", root=path, cache=folder / "cache"), image_size=8)
    except SmallvitError as error:
        told, count = str(error), 6
    else:
        told, count = "own.npz", len(found.train) + len(found.test) + len(found.val or ())
    assert "own.npz" in told
    assert "\n" not in told
    assert count == 6


def test_an_archive_with_a_damaged_directory_is_one_line_and_left_closed(tmp_path: Path) -> None:
    """NumPy, which would open the file itself, left it open: warnings are errors here."""
    path = tmp_path / "own.npz"
    np.savez(path, x_train=RGB[:6], y_train=LABELS[:6])
    path.write_bytes(path.read_bytes().replace(b"PK\1\2", b"PK\1\3", 1))
    with pytest.raises(SmallvitError, match=r"is not an \.npz file of plain arrays: Bad magic number for central"):
        load_dataset(DataConfig(dataset="folder", root=path, cache=tmp_path / "cache"), image_size=8)


def test_a_damaged_header_of_a_large_array_is_one_line(tmp_path: Path) -> None:
    """Of a small one the check sum is looked at before."""
    path = tmp_path / "own.npz"
    np.savez(path, x_train=np.zeros((1000, 20, 20, 3), np.uint8), y_train=np.arange(1000) % 2)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"{'descr': '|u1'", b"*'descr': '|u1'", 1))
    with pytest.raises(SmallvitError, match=r"is not an \.npz file of plain arrays: x_train: "):
        load_dataset(DataConfig(dataset="folder", root=path, cache=tmp_path / "cache"), image_size=8)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "lone.npy", RGB)
    (tmp_path / "lone.npy").rename(tmp_path / "lone.npz")
    (tmp_path / "own.mat").touch()
    for name, words in (
        ("lone.npz", "is not an .npz file of plain arrays"),
        ("own.mat", "is a file; expected a folder of images, one subfolder a class, or an .npz file of arrays"),
    ):
        with pytest.raises(SmallvitError, match=re.escape(words)):
            load_dataset(DataConfig(dataset="folder", root=tmp_path / name, cache=tmp_path / "cache"))
