"""The three public forms, and each archive of them, give the same data set row by row."""

import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smallvit.data.config import DataConfig
from smallvit.data.spec import SPECS
from smallvit.data.split import Split, canonical, digest
from smallvit.data.store import Dataset, load_from_spec
from smallvit.errors import SmallvitError


def write_form(small, root: Path, form: str) -> Path:
    binary, python = small.spec.binary, small.spec.python
    match form:
        case "parquet":
            return small.parquet(root)
        case "parquet in one shard, shuffled otherwise":
            return small.parquet(root, shards=1, shuffle=8)
        case "parquet as on the hub":
            small.parquet(root / "plain_text", shards=1)
            return root
        case "parquet in a folder of its name":
            small.parquet(root / "small")
            return root
        case "binary":
            return small.write(root, small.binary_files())
        case "binary below root":
            small.write(root / binary.folder, small.binary_files())
            return root
        case "binary archive":
            return small.tar(root / binary.archive, binary.folder, small.binary_files())
        case "binary archive below root":
            small.tar(root / binary.archive, binary.folder, small.binary_files())
            return root
        case "plain tar":
            return small.tar(root / "cifar-10-binary.tar", binary.folder, small.binary_files(), "w")
        case "python":
            return small.write(root, small.python_files())
        case "python by Python 3":
            small.write(root / python.folder, small.python_files(4))
            return root
        case "python archive":
            return small.tar(root / python.archive, python.folder, small.python_files())
    raise AssertionError(form)


FORMS = [
    "parquet",
    "parquet in one shard, shuffled otherwise",
    "parquet as on the hub",
    "parquet in a folder of its name",
    "binary",
    "binary below root",
    "binary archive",
    "binary archive below root",
    "plain tar",
    "python",
    "python by Python 3",
    "python archive",
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(small, tmp_path: Path, load: Callable[..., Dataset], form: str) -> None:
    data = load(write_form(small, tmp_path / "root", form))
    official = {s: canonical(Split(images=small.images[s], labels=small.labels[s])) for s in ("train", "test")}
    assert digest(data.test) == digest(official["test"])
    assert data.val is not None
    both = [np.concatenate([getattr(s, part) for s in (data.train, data.val)]) for part in ("images", "labels")]
    assert digest(canonical(Split(images=both[0], labels=both[1]))) == digest(official["train"])
    reference = load(small.write(tmp_path / "reference", small.binary_files()))
    for name in ("train", "val", "test"):
        found, expected = getattr(data, name), getattr(reference, name)
        assert np.array_equal(found.images, expected.images), name
        assert np.array_equal(found.labels, expected.labels), name
    assert np.bincount(data.val.labels).tolist() == [2, 2, 2]
    assert data.notes == ()


def test_a_set_at_another_size_is_resized_by_pillow_from_the_same_rows(small, tmp_path: Path, load) -> None:
    root = small.parquet(tmp_path / "root")
    native, large = load(root), load(root, 48)
    again = [
        Image.fromarray(x.transpose(1, 2, 0)).resize((48, 48), Image.Resampling.BICUBIC) for x in native.test.images
    ]
    assert np.array_equal(large.test.images, np.stack([np.asarray(x).transpose(2, 0, 1) for x in again]))
    assert np.array_equal(large.test.labels, native.test.labels)


def test_pixels_that_are_not_the_official_ones_are_told_at_every_start(small, tmp_path: Path, load) -> None:
    official = canonical(Split(images=small.images["test"], labels=small.labels["test"]))
    root = small.parquet(tmp_path / "root", shards=1)
    assert load(root, test_sha256=digest(official)).notes == ()
    cells = small.cells("test", np.arange(12))
    for cell in cells:
        pixels = np.asarray(Image.open(io.BytesIO(cell["img"]["bytes"])))
        cell["img"]["bytes"] = small.encode(pixels, "JPEG")
    small.write_cells(root / "test-00000-of-00001.parquet", cells)
    for _ in range(2):
        (note,) = load(root, test_sha256=digest(official)).notes
        assert str(root) not in note  # the cache keeps the note, and the files may be moved
        assert "test differs from the official release" in note
        assert "JPEG" in note
    labels = np.roll(small.labels["test"], 1)
    swapped = replace(small, labels={**small.labels, "test": labels}).parquet(tmp_path / "swapped")
    (note,) = load(swapped, test_sha256=digest(official)).notes
    assert "altered images or labels" in note


def test_a_root_that_does_not_exist_or_holds_something_else_is_named(small, tmp_path: Path, load) -> None:
    with pytest.raises(SmallvitError, match=r"data\.root: .*absent does not exist"):
        load(tmp_path / "absent")
    other = small.write(tmp_path / "other", {"notes.txt": b"x", "photo.png": b"y"})
    with pytest.raises(SmallvitError) as caught:
        load(other)
    for words in ("notes.txt, photo.png", "parquet", "cifar-10-batches-bin", "cifar-10-python.tar.gz", str(other)):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SmallvitError, match="holds nothing"):
        load(small.write(tmp_path / "empty", {}))
    with pytest.raises(SmallvitError, match="is not an archive of small"):
        load(other / "notes.txt")


def test_the_other_cifar_is_recognised_as_not_this_one(small, tmp_path: Path) -> None:
    root = small.parquet(tmp_path / "root")
    spec = replace(SPECS["cifar100"], train_size=30, test_size=12)
    with pytest.raises(SmallvitError, match=r"has columns img, label; expected columns 'img' .* and 'fine_label'"):
        load_from_spec(spec, DataConfig(dataset="cifar100", root=root, cache=tmp_path / "c"), image_size=32)


def test_cifar_100_records_have_two_labels_and_the_fine_one_is_read(small, tmp_path: Path) -> None:
    spec = replace(SPECS["cifar100"], train_size=200, test_size=100, train_sha256=None, test_sha256=None)
    rng = np.random.Generator(np.random.PCG64(3))
    files, expected = {}, {}
    for name, split, n in (("train.bin", "train", 200), ("test.bin", "test", 100)):
        table = rng.integers(0, 20, (n, 3074), dtype=np.uint8)
        table[:, 1] = rng.permutation(np.arange(n) % 100)
        files[name] = table.tobytes()
        expected[split] = canonical(
            Split(images=table[:, 2:].reshape(n, 3, 32, 32), labels=table[:, 1].astype(np.int64))
        )
    root = small.write(tmp_path / "root", files)
    config = DataConfig(dataset="cifar100", root=root, cache=tmp_path / "c", val_fraction=0.0)
    data = load_from_spec(spec, config, image_size=32)
    assert digest(data.train) == digest(expected["train"])
    assert digest(data.test) == digest(expected["test"])
    batches = {
        name: pickle.dumps(
            {"fine_labels": s.labels.tolist(), "coarse_labels": [0] * len(s), "data": s.images.reshape(len(s), -1)}, 2
        )
        for name, s in expected.items()
    }
    archive = small.tar(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", batches)
    again = load_from_spec(spec, replace(config, root=archive), image_size=32)
    assert digest(again.train) == digest(data.train)
