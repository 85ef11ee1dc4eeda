"""A fork on pictures of one's own knows which of them its weights were trained on."""

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from smallvit.augment.config import AugmentConfig
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.data.store import load_dataset
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.fork import read_origin
from smallvit.held_out import MAY_BE_SEEN
from smallvit.model.config import ModelConfig
from smallvit.record import RunRecord
from smallvit.run import run
from smallvit.seen import NONE, SEEN, seen_by, seen_of
from smallvit.train.config import OptimConfig, TrainConfig
from smallvit.weights import save_tensors

TINY = RunConfig(
    augment=AugmentConfig(horizontal_flip=0.0),
    model=ModelConfig(image_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1),
    optim=OptimConfig(warmup_epochs=0.0),
    train=TrainConfig(epochs=1, passes_per_epoch=1, batch_size=16),
    device=DeviceConfig(device="cpu", precision="float32", attention="bmm", num_threads=1),
)
DRAWS = np.random.default_rng(0)


def add_class(root: Path, name: str, count: int = 20) -> None:
    for number in range(count):
        path = root / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(DRAWS.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def on(root: Path) -> RunConfig:
    return replace(TINY, data=DataConfig(dataset="folder", root=root))


def noted(config: RunConfig, folder: Path, fork: Path) -> str:
    out = io.StringIO()
    record = run(config, folder, fork=fork, console=Console(file=out, width=400))
    assert [note for note in record.dataset_notes if note in MAY_BE_SEEN.values()] == [
        line.removeprefix("note: ") for line in out.getvalue().splitlines() if "that the weights to start from" in line
    ]
    return out.getvalue()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, and a run on them."""
    folder = tmp_path_factory.mktemp("before")
    for name in "mn":
        add_class(folder / "pictures", name)
    run(on(folder / "pictures"), folder / "run")
    return folder


@pytest.fixture
def own(before: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    shutil.copytree(before, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_run_keeps_what_it_was_trained_on_and_a_fork_adds_its_own(own: Path) -> None:
    record = RunRecord.load(own / "run" / "record.json")
    seen = seen_by(own / "run", None)
    assert seen is not None
    assert len(seen) == record.num_train == 28
    held = load_dataset(on(own / "pictures").data, image_size=8)
    assert held.train.keys is not None
    assert set(held.train.keys) == set(seen)
    assert seen_of(held, seen) == {"val": 0, "test": 0}
    add_class(own / "pictures", "z")  # the last: what is drawn of the others is as it was
    text = noted(on(own / "pictures"), own / "fork", own / "run")
    assert not any(note in text for note in MAY_BE_SEEN.values())
    assert "note: the last layer knows 2 of the 3 classes by the weights to start from, of 2\n" in text
    after = seen_by(own / "fork", None)
    assert after is not None
    assert len(after) == 28 + 14
    assert set(seen) < set(after)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_test_that_is_drawn_from_what_was_trained_on_is_refused_and_one_kept_apart_is_not(
    own: Path, elsewhere: bool
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    (example,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if ".rename(" in each)
    pictures = own / "pictures"
    record = replace(RunRecord.load(own / "run" / "record.json"), config=on(pictures).resolve(2).to_json())
    replace(record, config_digest=record.run_config().digest()).save(own / "run" / "record.json")
    shutil.copytree(pictures, own / "more")
    add_class(own / "more", "a")  # the first: all are drawn anew
    with pytest.raises(UsageError, match=r"run: \d+ of the 12 pictures of test, which is drawn from all of them, were"):
        run(on(own / "more"), own / "fork", fork=own / "run")
    assert not (own / "fork").exists()
    exec(example.replace("runs/mine", str(own / "run")), {})
    assert {path.name for path in pictures.iterdir()} == {"train", "val", "test"}
    if elsewhere:
        pictures = pictures.rename(own / "elsewhere")
    for split, count in (("train", 14), ("val", 2), ("test", 4)):
        add_class(pictures / split, "a", count)
    text = noted(on(pictures), own / "fork", own / "run")
    assert not any(note in text for note in MAY_BE_SEEN.values())
    assert "(3 classes; 42 train, 6 val, 12 test images" in text


@pytest.mark.parametrize("split", ["val", "test"])
def test_of_a_val_or_a_test_of_ones_own_that_was_trained_on_a_note_tells(own: Path, split: str) -> None:
    held = own / "held"
    shutil.copytree(own / "pictures", held / "train")
    for each in ("val", "test"):
        add_class(held / each, "m", 2)
        add_class(held / each, "n", 2)
    text = noted(on(held), own / "first", own / "run")
    assert not any(note in text for note in MAY_BE_SEEN.values())
    for path in [*(held / "train" / "m").iterdir()][:10]:  # of which at most 6 were not trained on
        path.rename(held / split / "m" / f"moved-{path.name}")
    text = noted(on(held), own / "second", own / "run")
    assert [note for note in MAY_BE_SEEN.values() if note in text] == [MAY_BE_SEEN[split]]


def test_a_picture_that_lies_in_two_classes_is_no_reason_to_refuse_the_same_test(own: Path) -> None:
    """In train of the one, and in test of the other: a note of the data set tells that."""
    for path in (own / "pictures" / "m").iterdir():
        shutil.copy(path, own / "pictures" / "n" / f"copy-{path.name}")
    run(on(own / "pictures"), own / "twice")
    text = noted(on(own / "pictures"), own / "fork", own / "twice")
    assert "pictures are in train, too" in text
    assert not any(note in text for note in MAY_BE_SEEN.values())


def test_pictures_that_were_encoded_anew_are_not_taken_for_unseen(own: Path) -> None:
    run(on(own / "pictures"), own / "mine")
    for path in [*(own / "pictures").rglob("*.png")]:
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with pytest.raises(UsageError, match="test is drawn from all images, and not as it was there"):
        run(on(own / "pictures"), own / "fork", fork=own / "mine")
    text = noted(on((own / "pictures").rename(own / "elsewhere")), own / "fork", own / "mine")
    assert all(note in text for note in MAY_BE_SEEN.values())


def test_what_weights_saw_is_known_from_a_file_or_from_a_data_set_with_a_name(before: Path, own: Path) -> None:
    (own / "run" / SEEN).unlink()
    assert read_origin(own / "run").seen is None
    assert seen_by(own, None) is None
    digits = replace(TINY, data=DataConfig(dataset="digits"))
    assert seen_by(own, digits) is NONE
    assert seen_by(own, replace(digits, fork="0" * 64)) is None
    assert seen_by(own, on(own / "pictures")) is None
    run(on(own / "pictures"), own / "fork", fork=own / "run")
    assert not (own / "fork" / SEEN).exists(), "nobody knows"
    (own / "left").mkdir()
    shutil.copy(before / "run" / SEEN, own / "left")  # of a run that was killed before it began
    run(on(own / "pictures"), own / "left", fork=own / "run")
    assert not (own / "left" / SEEN).exists()
    for other in ({"hashes": torch.zeros(3, 16, dtype=torch.uint8)}, {"keys": torch.zeros(3, 4)}):
        save_tensors(other, own / "run" / SEEN)
        with pytest.raises(SmallvitError, match="it is another program's"):
            seen_by(own / "run", None)
    (own / "run" / SEEN).write_bytes(b"cut short")
    with pytest.raises(SmallvitError, match=f"{SEEN} does not hold the pictures that the run was trained on"):
        read_origin(own / "run")
