import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smallvit.data import source
from smallvit.data.config import DataConfig
from smallvit.data.decode import DARK
from smallvit.data.listing import find_images, list_labelled
from smallvit.data.store import Dataset, load_dataset
from smallvit.errors import SmallvitError

CAFE = os.fsdecode(b"caf\xe9.png")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    def run(root: Path, size: int = 16, **changes: object) -> Dataset:
        return load_dataset(
            DataConfig(dataset="folder", root=root, cache=tmp_path / "cache", **changes), image_size=size
        )

    return run


def colour(label: int, number: int) -> tuple[int, int, int]:
    return (40 + 60 * label, number, 100)


def fill(
    folder: Path,
    classes: str | list[str] = "abc",
    count: int = 10,
    suffix: str = ".png",
    labels: str | list[str] = "abc",
) -> Path:
    """Images of one colour each: red tells the class, green the number."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            shape = (20 + i, 30)
            Image.new("RGB", shape, colour(labels.index(name), i)).save(folder / name / f"{i}{suffix}")
    return folder


def numbers(split) -> set[tuple[int, int]]:
    for image, label in zip(split.images, split.labels, strict=True):
        assert (image == np.array(colour(int(label), int(image[1, 0, 0])))[:, None, None]).all()
    return {(int(label), int(image[1, 0, 0])) for image, label in zip(split.images, split.labels, strict=True)}


def test_pictures_that_change_while_they_are_decoded_are_refused(tmp_path: Path, load, monkeypatch) -> None:
    """Their entry of the cache would be found again by the content from before."""
    root = fill(tmp_path / "root")
    shutil.copytree(root, tmp_path / "copy")
    real = source.read_images

    def slow(*args: Any) -> Any:
        Image.new("RGB", (20, 30), (255, 255, 255)).save(root / "b" / "3.png")
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(source, "read_images", slow)
        with pytest.raises(SmallvitError, match=r"root: changed while it was read \(b/3\.png\): start again"):
            load(root)
        shutil.copy(tmp_path / "copy" / "b" / "3.png", root / "b")
        patched.setattr(source, "read_images", lambda *args: (os.utime(root / "a" / "0.png"), real(*args))[1])
        load(root)  # the same content
    assert numbers(load(tmp_path / "copy").train) == numbers(load(fill(tmp_path / "other")).train)


def test_one_folder_is_divided_by_the_seed(tmp_path: Path, load) -> None:
    data = load(fill(tmp_path / "root"), val_fraction=0.25)
    assert data.val is not None
    assert data.spec.class_names == ("a", "b", "c")
    parts = [numbers(split) for split in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [18, 6, 6]
    assert set.union(*parts) == {(label, i) for label in range(3) for i in range(10)}
    assert [np.bincount(s.labels).tolist() for s in (data.val, data.test)] == [[2, 2, 2], [2, 2, 2]]
    assert data.notes == ()
    assert data.spec.horizontal_flip is None
    again = load(fill(tmp_path / "root"), val_fraction=0.25)
    assert np.array_equal(again.train.images, data.train.images)
    assert numbers(load(tmp_path / "root", split_seed=4).test) != parts[2]


@pytest.mark.parametrize("val_fraction", [0.0, 0.5])
def test_statistics_are_of_train_alone(tmp_path: Path, load, val_fraction: float) -> None:
    data = load(fill(tmp_path / "root"), val_fraction=val_fraction)
    scaled = data.train.images / 255
    np.testing.assert_allclose(data.spec.mean, scaled.mean(axis=(0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(data.spec.std[:2], scaled.std(axis=(0, 2, 3))[:2], atol=1e-6)
    assert data.spec.std[2] == pytest.approx(1 / 255, abs=1e-6), "a channel that never varies is not divided by zero"


def test_statistics_are_over_all_pixels(tmp_path: Path, load) -> None:
    generator = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "root" / name).mkdir(parents=True)
        for i in range(5):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "root" / name / f"{i}.png")
    data = load(tmp_path / "root")
    scaled = data.train.images / 255
    np.testing.assert_allclose(data.spec.mean, scaled.mean(axis=(0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(data.spec.std, scaled.std(axis=(0, 2, 3)), atol=1e-6)


def test_train_val_and_test_folders_are_taken_as_they_are(tmp_path: Path, load) -> None:
    root = tmp_path / "root"
    fill(root / "train", count=5)
    fill(root / "val", count=3)
    fill(root / "test", count=4)
    data = load(root)
    assert data.val is not None
    assert [len(split) for split in (data.train, data.val, data.test)] == [15, 9, 12]


def test_a_val_folder_without_test_serves_as_test(tmp_path: Path, load) -> None:
    root = tmp_path / "root"
    fill(root / "train", count=10)
    fill(root / "val", count=3)
    data = load(root, val_fraction=0.2)
    assert data.val is not None
    assert [len(split) for split in (data.train, data.val, data.test)] == [24, 6, 9]
    assert any("serves as test (there is no test/)" in note for note in data.notes)


def test_train_alone_is_divided(tmp_path: Path, load) -> None:
    fill(tmp_path / "root" / "train", count=10)
    assert len(load(tmp_path / "root").test) == 6


def test_tiny_imagenet_is_read_from_its_annotations(tmp_path: Path, load) -> None:
    root = tmp_path / "tiny-imagenet-200"
    for name, label in (("n01", "a"), ("n02", "b")):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (64, 64), colour("abc".index(label), i)).save(folder / f"{name}_{i}.png")
        (root / "train" / name / f"{name}_boxes.txt").write_text("n01_0.png\t0\t0\t9\t9\n")
    for folder in ("val", "test"):
        (root / folder / "images").mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (64, 64), colour(i % 2, i)).save(root / folder / "images" / f"{folder}_{i}.png")
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text("".join(f"val_{i}.png\tn0{i % 2 + 1}\t0\t0\t9\t9\n" for i in range(4)))
    data = load(root, val_fraction=0.0)
    assert data.spec.class_names == ("n01", "n02")
    assert numbers(data.test) == {(0, 0), (1, 1), (0, 2), (1, 3)}
    assert len(data.train) == 12
    assert not any("not images" in note for note in data.notes)
    annotations.write_text("val_0.png\tn02\t0\t0\t9\t9\n")
    assert load(root, val_fraction=0.0).test.labels.tolist() == [1], "the annotations are part of the content's hash"
    left = "val/images/val_1.png, val/images/val_2.png, val/images/val_3.png"
    assert any(note.endswith(f"files that are not images of a class: {left}") for note in load(root).notes)
    annotations.write_text("")
    with pytest.raises(SmallvitError, match=r"val_annotations\.txt: names no image"):
        load(root)
    annotations.write_text("val_0.png\tn01\t0\t0\t9\t9\nval_1.png\tn09\t0\t0\t9\t9\n")
    with pytest.raises(SmallvitError, match=r"val_annotations\.txt line 2: .*expected an image, a tab and a class"):
        load(root)
    annotations.write_text(2 * "val_0.png\tn01\t0\t0\t9\t9\n")
    with pytest.raises(
        SmallvitError, match=r"val_annotations\.txt line 2: 'val_0\.png' was named before; expected each"
    ):
        load(root)
    annotations.write_text("val_9.png\tn01\t0\t0\t9\t9\n")
    with pytest.raises(SmallvitError, match=r"val_annotations\.txt line 1: .*val_9\.png is missing"):
        load(root)
    annotations.write_text("../../train/n01/0.png\tn01\t0\t0\t9\t9\n")
    with pytest.raises(
        SmallvitError, match=r"line 1: '\.\./\.\./train/n01/0\.png' is not the name of a file in images/"
    ):
        load(root)
    (root / "val" / "images" / "val_0.png").rename(root / "val" / "images" / CAFE)
    annotations.write_bytes(b"caf\xe9.png\tn01\n")
    assert load(root, val_fraction=0.0).test.labels.tolist() == [0]


def test_a_pipe_is_passed_over(tmp_path: Path) -> None:
    """To read it would wait for ever."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert find_images(tmp_path) == ([tmp_path / "a.png"], [tmp_path / "pipe.png"])


def test_system_files_are_passed_over_and_others_named(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (root / "a" / name).write_bytes(b"x")
    (root / ".git").mkdir()
    (root / "a" / ".cache").mkdir()
    (root / "a" / ".cache" / "x.png").write_bytes(b"x")
    assert load(root).notes == ()
    for name in ("notes.txt", "labels.csv", "film.mp4", "phone.heic"):
        (root / "b" / name).write_bytes(b"x")
    (note,) = [note for note in load(root).notes if "not images" in note]
    assert "passed over 4 files that are not images of a class (1 .mp4, 1 .csv, 1 .txt): b/film.mp4, b/" in note
    assert note.endswith("b/film.mp4, b/labels.csv, b/notes.txt, ...")


def test_images_lie_at_any_depth_and_in_upper_case(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root")
    fill(root / "a" / "deeper", "a", 2, ".PNG")
    assert len(load(root, val_fraction=0.0, test_fraction=0.01).train) == 32 - 3


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("cut.png", None, "truncated or broken"),
        ("empty.jpg", b"", "is empty"),
        ("text.png", b"hello", "not an image in a known format"),
    ],
)
def test_a_bad_image_is_named(tmp_path: Path, load, name: str, data: bytes | None, reason: str) -> None:
    root = fill(tmp_path / "root")
    if data is None:
        Image.effect_noise((64, 64), 90).save(root / "b" / name)
        data = (root / "b" / name).read_bytes()[:1000]
    (root / "b" / name).write_bytes(data)
    with pytest.raises(SmallvitError) as caught:
        load(root)
    assert str(caught.value).startswith(f"{root / 'b' / name}: ")
    assert reason in str(caught.value)


def test_links_to_nothing_are_named_at_once(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root")
    for name in ("x.png", "y.png"):
        (root / "a" / name).symlink_to(tmp_path / "gone.png")
    (root / "b" / "more").symlink_to(tmp_path / "not-mounted")  # a folder of images, perhaps
    named = ": is a link to nothing; ".join(str(root / name) for name in ("a/x.png", "a/y.png", "b/more"))
    with pytest.raises(SmallvitError, match=f"^3 pictures cannot be used: {re.escape(named)}: is a link to nothing$"):
        load(root)


def test_all_bad_images_are_named_at_once(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root")
    for number in range(3):
        (root / "b" / f"{number}.png").write_bytes(b"x" * number)
    with pytest.raises(SmallvitError) as caught:
        load(root)
    line = (
        r"3 pictures cannot be used: \S+b/0\.png: is empty .*; \S+b/1\.png: is not an image .*; \S+b/2\.png: is not .*"
    )
    assert re.fullmatch(line, str(caught.value))
    for number in range(3, 25):
        (root / "b" / f"{number}.png").write_bytes(b"")
    with pytest.raises(SmallvitError, match=r"^25 pictures cannot be used: .*; and 5 more$"):
        load(root)


def test_layouts_that_cannot_be_read_are_named(tmp_path: Path, load, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SmallvitError, match=r"absent does not exist; --data\.root says where the images are"):
        load(tmp_path / "absent")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SmallvitError, match=f"data.root: absent does not exist in {tmp_path}; --data.root says"):
        load(Path("absent"))
    with pytest.raises(SmallvitError, match=r"data\.root: ~nosuchuser/x: no home folder ~nosuchuser is known"):
        load(Path("~nosuchuser/x"))
    (tmp_path / "file.zip").write_bytes(b"x")
    with pytest.raises(SmallvitError, match="is a file; expected a folder of images"):
        load(tmp_path / "file.zip")
    with pytest.raises(SmallvitError, match="expected at least 2 class folders with images in them, found only 'a'"):
        load(fill(tmp_path / "one", "a"))
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (9, 9)).save(flat / "x.png")
    with pytest.raises(SmallvitError, match="found none"):
        load(flat)
    empty = fill(tmp_path / "empty")
    (empty / "d").mkdir()
    with pytest.raises(SmallvitError, match="empty/d: class folder without images; add some"):
        load(empty)
    (empty / "e").mkdir()
    with pytest.raises(
        SmallvitError, match=r"empty/d: class folder .*, .*empty/e: class folder .*; add .* the folders"
    ):
        load(empty)
    (empty / "e").rmdir()
    (empty / "d" / "phone.heic").write_bytes(b"x")
    with pytest.raises(SmallvitError, match=r"without images \(phone.heic is by its name none of PNG, JPEG, .*\); add"):
        load(empty)
    for name in ("bus", "car", "train"):
        fill(tmp_path / "vehicles" / name, "a").joinpath("a", "0.png").rename(tmp_path / "vehicles" / name / "0.png")
        shutil.rmtree(tmp_path / "vehicles" / name / "a")
    with pytest.raises(SmallvitError, match=r"found none \(train/ is taken for a split: rename it if it is a class\)"):
        load(tmp_path / "vehicles")
    fill(tmp_path / "no-train" / "val")
    with pytest.raises(SmallvitError, match="has val/ but no train/"):
        load(tmp_path / "no-train")


@pytest.mark.parametrize("names", ["Train Test", "training testing", "train-less valid test", "VAL Validation"])
def test_folders_named_like_splits_are_no_classes(tmp_path: Path, load, names: str) -> None:
    for name in names.split():
        fill(tmp_path / name, "ab")
    alike = [name for name in names.split() if name != "train-less"]
    with pytest.raises(SmallvitError, match=f"has {'/, '.join(sorted(alike))}/ but no train/; expected train/<class>/"):
        load(tmp_path)


def test_folders_with_splits_in_their_names_are_no_classes_if_they_share_two(tmp_path: Path, load) -> None:
    for name, classes in {"seg_train": "ab", "seg_test": "ab", "seg_pred": "c"}.items():
        fill(tmp_path / "segments" / name, classes)
    with pytest.raises(SmallvitError, match="has seg_train/, seg_test/ but no train/; expected train/<class>/"):
        load(tmp_path / "segments")
    fill(tmp_path / "segments" / "val_extra", "c")
    with pytest.raises(SmallvitError, match="has seg_train/, seg_test/, val_extra/ but no train/; expected train/"):
        load(tmp_path / "segments")
    for place, name in enumerate(("bullet_train", "test_tube")):
        fill(tmp_path / "things", "ab"[place]).joinpath("ab"[place]).rename(tmp_path / "things" / name)
    assert load(tmp_path / "things").spec.class_names == ("bullet_train", "test_tube")


@pytest.mark.parametrize("name", ["Test", "valid", "training"])
def test_one_folder_named_like_a_split_is_no_class_beside_classes(tmp_path: Path, load, name: str) -> None:
    fill(tmp_path, "ab")
    fill(tmp_path / name, "ab")
    with pytest.raises(SmallvitError, match=rf"has {name}/ but no train/; .*\(if it is a class, rename it\)"):
        load(tmp_path)


def test_a_link_to_itself_is_one_line(tmp_path: Path, load) -> None:
    (tmp_path / "pictures").symlink_to("pictures")
    with pytest.raises(SmallvitError, match="pictures does not exist"):
        load(tmp_path / "pictures")


@pytest.mark.parametrize("place", ["", "cache", "train/cache"])
def test_a_cache_among_the_images_is_refused_before_it_is_written(tmp_path: Path, place: str) -> None:
    fill(tmp_path / "images" / ("train" if place.startswith("train") else ""))
    root = tmp_path / "images"
    before = sorted(root.rglob("*"))
    with pytest.raises(SmallvitError, match=r"^data[.]cache \(or SMALLVIT_CACHE\) is .*: it lies among the images of"):
        load_dataset(DataConfig(dataset="folder", root=root, cache=root / place), image_size=16)
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("place", ["images/.cache", "images/a/.cache/deeper", "images/../cache"])
def test_a_cache_in_a_hidden_folder_is_no_class(tmp_path: Path, place: str) -> None:
    root = fill(tmp_path / "images")
    config = DataConfig(dataset="folder", root=root, cache=tmp_path / place)
    first, second = (load_dataset(config, image_size=16) for _ in range(2))
    assert (tmp_path / place).is_dir()
    assert first.spec.class_names == second.spec.class_names == ("a", "b", "c")


def test_splits_within_each_class_are_refused(tmp_path: Path, load) -> None:
    for name in "ab":
        for split in ("train", "test"):
            fill(tmp_path / name / split, "a")
    with pytest.raises(SmallvitError, match="a: has train/; expected the classes in train/, not train/ in each class"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["test", "val", "train/c"])
def test_a_split_or_class_that_is_a_link_to_nothing_is_refused(tmp_path: Path, load, name: str) -> None:
    fill(tmp_path / "train", "ab")
    (tmp_path / name).symlink_to(tmp_path / "not-mounted")
    with pytest.raises(SmallvitError, match=f"{name}: is a link to nothing"):
        load(tmp_path)


def test_a_split_that_is_no_folder_is_refused(tmp_path: Path, load) -> None:
    fill(tmp_path / "train")
    (tmp_path / "test").write_text("a list, perhaps")
    with pytest.raises(SmallvitError, match="test: is no folder; expected test/<class>/"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.parametrize("block", [b"hello world", b"Exif\0\0II", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_a_block_of_exif_that_cannot_be_read_costs_no_picture(tmp_path: Path, load, suffix: str, block: bytes) -> None:
    fill(tmp_path / "pictures")
    Image.new("RGB", (20, 30), colour(0, 99)).save(tmp_path / "pictures" / "a" / f"x.{suffix}", exif=block)
    data = load(tmp_path / "pictures")
    assert sum(len(split) for split in (data.train, data.val, data.test) if split is not None) == 31


@pytest.mark.parametrize("name", ["valid", "validation", "Test", "testing"])
def test_a_misnamed_split_beside_train_is_named(tmp_path: Path, load, name: str) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / name, count=2)
    with pytest.raises(SmallvitError, match=f"has {name}/ beside train/; rename it to val/ or test/"):
        load(tmp_path)


def test_other_folders_beside_train_are_named(tmp_path: Path, load) -> None:
    fill(tmp_path / "train")
    for name in ("extra", "labels", "more", "raw", ".git"):
        (tmp_path / name).mkdir()
    (note,) = load(tmp_path).notes
    assert note == f"{tmp_path}: passed over 4 folders beside train/: extra, labels, more, ..."


@pytest.mark.parametrize("inner", [".", "images"])
def test_a_test_folder_without_classes_is_passed_over_where_val_has_them(tmp_path: Path, load, inner: str) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "val", count=3)
    (tmp_path / "test").mkdir()
    shutil.copytree(tmp_path / "val" / "a", tmp_path / "test" / inner, dirs_exist_ok=True)
    data = load(tmp_path)
    assert len(data.test) == 9
    assert data.notes[:-1] == (f"{tmp_path / 'val'} serves as test (test/ has no labels); val is held out of train",)
    assert "pictures are in train, too" in data.notes[-1]
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(SmallvitError, match=r"test: (no class folders|class folder 'images')"):
        load(tmp_path)
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").mkdir()
    fill(tmp_path / "val", count=3)
    with pytest.raises(SmallvitError, match="test: no class folders"):  # nor pictures
        load(tmp_path)


def test_images_beside_the_class_folders_are_named(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root")
    for name in ("0.png", "list.csv", "._1.png"):
        shutil.copy(root / "a" / "0.png", root / name)
    (note,) = load(root).notes
    assert note == f"{root}: passed over files that are not images of a class: 0.png"


def test_links_to_folders_are_followed_once_and_not_in_circles(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root", "ab")
    fill(tmp_path / "else", "a", 15)
    (root / "a" / "more").symlink_to(tmp_path / "else" / "a")
    (root / "a" / "twice").symlink_to(tmp_path / "else" / "a")
    (tmp_path / "else" / "a" / "circle").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    data = load(root, val_fraction=0.0)
    assert np.bincount(np.concatenate([data.train.labels, data.test.labels])).tolist() == [25, 10]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, load, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "root")
    closed, scandir = fill(root / "a" / "closed", "a", 2), os.scandir

    def refuse(path: object) -> object:
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SmallvitError, match=r"a/closed cannot be read \(Permission denied\)"):
        load(root)


def test_the_same_pictures_are_held_out_at_every_size(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root", count=30)
    small, large = load(root, 16), load(root, 32)
    for part in ("train", "val", "test"):
        assert numbers(getattr(small, part)) == numbers(getattr(large, part))


@pytest.mark.parametrize("size", [16, 32])
def test_copies_stay_on_one_side(tmp_path: Path, load, size: int) -> None:
    root = fill(tmp_path / "root", "ab")
    for path in list(root.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
        Image.open(path).save(path.with_suffix(".bmp"))
    data = load(root, size, test_fraction=0.3, val_fraction=0.3)
    parts = [numbers(split) for split in (data.train, data.val, data.test)]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 20


def test_copies_where_they_spoil_a_measurement_are_told(tmp_path: Path, load) -> None:
    root = tmp_path / "root"
    fill(root / "train")
    fill(root / "test", count=2)
    (note,) = load(root, val_fraction=0.0).notes
    assert note == "test: 6 of 6 pictures are in train, too: test/a/0.png, test/a/1.png, test/b/0.png, ..."
    for number, path in enumerate((root / "test").rglob("*.png")):
        Image.new("RGB", (20, 20), (0, number, 0)).save(path)
    shutil.copy(root / "train" / "a" / "3.png", root / "train" / "b" / "a copy.png")
    (note,) = load(root, val_fraction=0.0).notes
    assert note == "train: 2 of 31 pictures are of two classes: train/a/3.png, train/b/a copy.png"


def test_copies_in_val_and_test_are_told_also_where_they_are_of_two_classes(tmp_path: Path, load) -> None:
    root = tmp_path / "root"
    fill(root / "train")
    for split in ("val", "test"):
        for name in "abc":
            (root / split / name).mkdir(parents=True)
            for number in range(1, 4):
                seen = (split == "val", ord(name), number)
                Image.new("RGB", (20, 20), seen).save(root / split / name / f"{number}.png")
    assert load(root).notes == ()
    shutil.copy(root / "val" / "a" / "1.png", root / "test" / "a" / "1.png")
    shutil.copy(root / "val" / "b" / "2.png", root / "test" / "c" / "3.png")
    assert load(root).notes == (
        "test: 2 of 9 pictures are in val, too: test/a/1.png, test/c/3.png",
        "val: 1 of 9 pictures are of two classes: val/b/2.png",
        "test: 1 of 9 pictures are of two classes: test/c/3.png",
    )


def test_what_a_constant_answer_would_have_is_told_where_classes_are_uneven(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root", "ab")
    assert load(root).notes == ()
    fill(root / "a" / "more", "a", 20)
    assert load(root).notes == (
        "classes are uneven: to answer a whatever the image is right on 75.00 % of test; b has 2 images of it",
    )


def test_accents_may_be_characters_of_their_own(tmp_path: Path, load) -> None:
    """As in an archive from macOS."""
    composed, apart = "Größe", unicodedata.normalize("NFD", "Größe")
    root = fill(tmp_path / "root" / "train", [composed, "b"], labels=[composed, "b"]).parent
    fill(root / "test", [apart, "b"], count=3, labels=[apart, "b"])
    assert sorted(load(root).test.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    listing = list_labelled(root / "test", (composed, "b", "c"))
    assert sorted({label for _, label in listing.splits["test"]}) == [0, 1]
    (root / "train" / apart).mkdir()
    with pytest.raises(SmallvitError, match="has Größe/ twice, with its accents written in two ways: make it one"):
        load(root)


def test_an_entry_in_the_earlier_order_is_rebuilt(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root")
    load(root)
    (manifest,) = (tmp_path / "cache").glob("folder-16-*/manifest.json")
    body = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**body, "schema": 1}))
    (note,) = load(root).notes
    assert note == f"cache rebuilt: {manifest} was written by another version (schema 1, expected 5)"
    assert load(root).notes == ()


@pytest.mark.parametrize("peak", [4095, 65535])
def test_pictures_of_12_bits_in_files_of_16_are_told(tmp_path: Path, load, peak: int) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "root" / name).mkdir(parents=True)
        for i in range(4):
            values = rng.integers(0, peak, (20, 20), dtype=np.uint16, endpoint=True)
            Image.fromarray(values).save(tmp_path / "root" / name / f"{i}.png")
    told = f"8 of 8 pictures {DARK}: a/0.png, a/1.png, a/2.png, ..."
    for _ in range(2):  # decoded, and from the cache
        assert load(tmp_path / "root").notes == ((told,) if peak == 4095 else ())


def test_class_names_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    """Whatever fills the cache, all read it."""
    root = fill(tmp_path / "root", "ab", labels="ab")
    (root / "a").rename(root / "\u65e5\u672c")
    (root / "b").rename(root / os.fsdecode(b"caf\xe9"))
    script = (
        "import sys; from pathlib import Path; from smallvit.data.config import DataConfig; "
        "from smallvit.data.store import load_dataset; "
        "config = DataConfig(dataset='folder', root=Path(sys.argv[1]), cache=Path(sys.argv[2])); "
        "print(ascii(load_dataset(config, image_size=16).spec.class_names))"
    )
    said = set()
    for locale in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONUTF8": "1"}):
        cache = tmp_path / f"cache-{len(said)}"
        words = [sys.executable, "-c", script, str(root), str(cache)]
        said.add(subprocess.run(words, env={**os.environ, **locale}, capture_output=True, check=True, text=True).stdout)
    assert said == {r"('caf\\udce9', '\u65e5\u672c')" + "\n"}


def test_names_that_are_not_utf_8_are_read_and_can_be_printed(tmp_path: Path, load) -> None:
    root = fill(tmp_path / os.fsdecode(b"\xe9"))
    (root / "a" / "0.png").rename(root / "a" / CAFE)
    (root / "c").rename(root / os.fsdecode(b"\xe9"))
    (root / "b" / os.fsdecode(b"\xe9.txt")).write_bytes(b"x")
    for _ in range(2):
        data = load(root)
        assert data.spec.class_names == ("a", "b", r"\udce9")
        assert data.notes == (rf"{tmp_path}/\udce9: passed over files that are not images of a class: b/\udce9.txt",)
        files = [name for split in (data.train, data.val, data.test) if split for name in split.files.tolist()]
        named = {path.relative_to(root).as_posix() for path in root.rglob("*.png")}
        assert {name.decode() for name in files} == {name.encode(errors="backslashreplace").decode() for name in named}


def test_every_picture_keeps_the_name_of_its_file(tmp_path: Path, load) -> None:
    for _ in range(2):  # decoded, and from the cache
        data = load(fill(tmp_path / "root"), val_fraction=0.25)
        for split in (data.train, data.val, data.test):
            for image, label, name in zip(split.images, split.labels, split.files, strict=True):
                assert name.decode() == f"{'abc'[label]}/{image[1, 0, 0]}.png"


def test_too_few_images_for_val_or_test_are_told(tmp_path: Path, load) -> None:
    data = load(fill(tmp_path / "two", count=2))
    assert data.val is None
    assert data.notes == ("val: too few images to hold any out of train",)
    assert len(data.train) == len(data.test) == 3
    message = (
        r"data\.test_fraction is 0\.2: too few different images to hold any out as test, 1 of class a: add images, or "
        "bring train/ and test/ of your own"
    )
    with pytest.raises(SmallvitError, match=message):
        load(fill(tmp_path / "one", count=1))


def test_classes_of_test_must_be_classes_of_train(tmp_path: Path, load) -> None:
    root = tmp_path / "root"
    fill(root / "train", "ab")
    fill(root / "test", "abc", 2)
    with pytest.raises(SmallvitError, match="test: class folder 'c' that train/ has not; expected some of a, b"):
        load(root)
    fewer = tmp_path / "fewer"
    fill(fewer / "train", "abc")
    fill(fewer / "test", "ac", 2)
    data = load(fewer)
    assert sorted(set(data.test.labels.tolist())) == [0, 2]
    assert any("no image of 1 of 3 classes: " in note for note in data.notes)
    (tmp_path / "bare" / "test").mkdir(parents=True)
    fill(tmp_path / "bare" / "train")
    with pytest.raises(SmallvitError, match="test: no class folders"):
        load(tmp_path / "bare")


def test_a_class_of_one_image_stays_in_train_and_this_is_told(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root", "ab")
    fill(root, "c", 1)
    data = load(root)
    assert 2 not in data.test.labels
    assert any("test: no image of 1 of 3 classes: c" in note for note in data.notes)


def test_a_changed_file_and_a_renamed_class_are_seen(tmp_path: Path, load) -> None:
    root = fill(tmp_path / "root")
    before = load(root, test_fraction=0.5, val_fraction=0.0)
    Image.new("RGB", (20, 20), (40, 200, 100)).save(root / "a" / "0.png")
    changed = load(root, test_fraction=0.5, val_fraction=0.0)
    greens = [{x for _, x in numbers(d.train) | numbers(d.test)} for d in (before, changed)]
    assert greens[1] - greens[0] == {200}
    (root / "a").rename(root / "z")
    assert load(root).spec.class_names == ("b", "c", "z")
