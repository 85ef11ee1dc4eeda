"""A fork on pictures of one's own knows which of them its weights were trained on."""

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from smallvit.augment.config import AugmentConfig
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.data.store import load_dataset
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.fork import MAY_BE_SEEN, read_origin
from smallvit.model.config import ModelConfig
from smallvit.record import RunRecord
from smallvit.run import run
from smallvit.seen import NONE, SEEN, seen_by, seen_rows
from smallvit.train.config import OptimConfig, TrainConfig

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
    assert [len(seen_rows(split, seen)) for split in (held.train, held.val, held.test, None)] == [28, 0, 0, 0]
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
    assert "(42 train, 6 val, 12 test images" in text


def test_of_a_val_or_a_test_of_ones_own_that_was_trained_on_a_note_tells(own: Path) -> None:
    held = own / "held"
    shutil.copytree(own / "pictures", held / "train")
    for split in ("val", "test"):
        add_class(held / split, "m", 2)
        add_class(held / split, "n", 2)
    shutil.copy(next((held / "train" / "m").iterdir()), held / "val" / "m" / "copy.png")
    seen = seen_by(own / "run", None)
    assert seen is not None
    for split in ("val", "test"):
        text = noted(on(held), own / f"fork-{split}", own / "run")
        copied = seen_rows(load_dataset(on(held).data, image_size=8).val, seen)
        assert (MAY_BE_SEEN["val"] in text) == bool(len(copied))
        assert MAY_BE_SEEN["test"] not in text
        for path in (held / "train").rglob("*.png"):  # now all of them, so also those that were trained on
            shutil.copy(path, held / "val" / path.parent.name / f"copy-{path.name}")


def test_what_weights_saw_is_known_from_a_file_or_from_a_data_set_with_a_name(own: Path) -> None:
    (own / "run" / SEEN).unlink()
    assert read_origin(own / "run").seen is None
    assert seen_by(own, None) is None
    digits = replace(TINY, data=DataConfig(dataset="digits"))
    assert seen_by(own, digits) is NONE
    assert seen_by(own, replace(digits, fork="0" * 64)) is None
    assert seen_by(own, on(own / "pictures")) is None
    run(on(own / "pictures"), own / "fork", fork=own / "run")
    assert not (own / "fork" / SEEN).exists(), "nobody knows"
    (own / "run" / SEEN).write_bytes(b"cut short")
    with pytest.raises(SmallvitError, match=f"{SEEN} does not hold the pictures that the run was trained on"):
        read_origin(own / "run")
