"""Pictures given to a finished run: the same answers as the run's own, and one line for what cannot be answered."""

import csv
import dataclasses
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from smallvit.augment.config import AugmentConfig
from smallvit.classify import classify, load_classifier
from smallvit.cli import main
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.data.decode import LONG
from smallvit.data.store import load_dataset
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError
from smallvit.model.config import ModelConfig
from smallvit.record import RunRecord
from smallvit.run import run
from smallvit.train.config import OptimConfig, TrainConfig

CONFIG = RunConfig(
    recipe="tiny",
    data=DataConfig(dataset="digits"),
    augment=AugmentConfig(horizontal_flip=0.0, crop_padding=2),
    model=ModelConfig(patch_size=16, embed_dim=16, depth=1, num_heads=2),
    optim=OptimConfig(lr=1e-2, warmup_epochs=0.5),
    train=TrainConfig(epochs=2, passes_per_epoch=1, batch_size=50),
    device=DeviceConfig(device="cpu", precision="float32", attention="sdpa", num_threads=1),
)
SHOWN = 40


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run(CONFIG, folder, console=Console(quiet=True))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test images as lossless files, two folders deep."""
    folder = tmp_path_factory.mktemp("pictures")
    for row, image in enumerate(load_dataset(CONFIG.data).test.images[:SHOWN]):
        path = folder / f"{row // 10}" / f"{row:04}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_pictures_of_the_test_split_are_answered_as_in_the_run(finished: Path, pictures: Path) -> None:
    logits = load_file(finished / "test.safetensors")["logits"][:SHOWN].double()
    answers = classify(str(finished), str(pictures))
    images = torch.from_numpy(load_dataset(CONFIG.data).test.images[:SHOWN].copy())
    classifier = load_classifier(str(finished))
    torch.testing.assert_close(classifier(images).double(), logits, rtol=1e-4, atol=1e-5)
    assert [answer.path.stem for answer in answers] == [f"{row:04}" for row in range(SHOWN)]
    assert [int(answer.class_name) for answer in answers] == logits.argmax(-1).tolist()
    found = torch.tensor([answer.probability for answer in answers], dtype=torch.float64)
    temperature = RunRecord.load(finished / "record.json").temperature
    assert temperature is not None
    assert temperature != 1
    torch.testing.assert_close(found, (logits / temperature).softmax(-1).amax(-1), rtol=1e-4, atol=1e-6)


def test_a_run_without_val_answers_with_its_plain_softmax(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    record = RunRecord.load(folder / "record.json")
    dataclasses.replace(record, val=None, temperature=None, test_calibrated=None).save(folder / "record.json")
    classifier, images = load_classifier(folder), torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(classifier.probabilities(images), classifier(images).double().softmax(-1))


def test_all_classes_of_a_picture_add_up_to_one_the_likeliest_first(finished: Path, pictures: Path) -> None:
    answers = classify(finished, [pictures / "0" / "0000.png"], top=10)
    probabilities = [answer.probability for answer in answers]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert {answer.class_name for answer in answers} == {str(digit) for digit in range(10)}


def test_the_command_writes_csv(finished: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    awkward = pictures.parent / 'a, "quoted" name.png'
    shutil.copy(pictures / "0" / "0003.png", awkward)
    assert main(["predict", str(finished), str(awkward), str(pictures / "1"), "--top", "2"]) == 0
    said = capsys.readouterr().out
    rows = list(csv.reader(io.StringIO(said)))
    assert rows[0] == ["file", "class", "probability"]
    assert [row[0] for row in rows[1:4]] == [str(awkward), str(awkward), str(pictures / "1" / "0010.png")]
    assert len(rows) == 1 + 2 * 11
    out = pictures.parent / "answers.csv"
    assert main(["predict", str(finished), str(awkward), str(pictures / "1"), "--top", "2", "--out", str(out)]) == 0
    assert (capsys.readouterr().out, out.read_text()) == ("", said)
    out.write_text("old")
    (link := pictures.parent / "link.csv").symlink_to(out)
    assert main(["predict", str(finished), str(awkward), str(pictures / "1"), "--top", "2", "--out", str(link)]) == 0
    assert (link.is_symlink(), out.read_text()) == (True, said)


def test_a_carriage_return_in_a_name_is_no_end_of_a_row(finished: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copy(pictures / "0" / "0003.png", name := tmp_path / "a\rb.png")
    assert main(["predict", str(finished), str(name), "--top", "2", "--out", str(tmp_path / "a.csv")]) == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["file", str(name), str(name)]


def test_files_that_are_no_pictures_are_named_beside_the_csv(
    finished: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(finished), str(pictures)]) == 0
    said = capsys.readouterr()
    assert len(list(csv.reader(io.StringIO(said.out)))) == 1 + SHOWN
    assert said.err == f"note: {pictures}: passed over files that are not images: notes.txt\n"


def test_a_broken_picture_among_others_is_passed_over_and_named(
    finished: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pictures / "0", tmp_path / "0")
    whole = (tmp_path / "0" / "0003.png").read_bytes()
    (cut := tmp_path / "0" / "0003.png").write_bytes(whole[: len(whole) // 2])
    answers = classify(finished, [tmp_path, pictures / "1"])
    assert [answer.path.stem for answer in answers] == [f"{row:04}" for row in range(20) if row != 3]
    with_all = classify(finished, [pictures / "0", pictures / "1"])
    assert [a.class_name for a in answers] == [a.class_name for a in with_all if a.path.stem != "0003"]
    assert capsys.readouterr().err.startswith(f"note: passed over {cut}: is truncated or broken (")
    (tmp_path / "1").mkdir()
    shutil.copy(cut, tmp_path / "1" / "a\n\x1b[2Jb.png")
    classify(finished, [tmp_path])
    assert f"note: passed over {tmp_path}/1/a\\n\\x1b[2Jb.png: is trunc" in capsys.readouterr().err
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(cut, alone)
    for given in ([tmp_path, cut], [alone]):
        with pytest.raises(SmallvitError, match=r"0003\.png: is truncated or broken"):
            classify(finished, given)


def test_a_name_that_is_not_utf_8_is_written_as_its_bytes(
    finished: Path, pictures: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(pictures / "0" / "0003.png", path)
    assert main(["predict", str(finished), str(path)]) == 0
    said = capsysbinary.readouterr().out
    assert said.splitlines()[1].startswith(os.fsencode(tmp_path) + b"/caf\xe9.png,")
    assert main(["predict", str(finished), str(path), "--out", str(tmp_path / "answers.csv")]) == 0
    assert (tmp_path / "answers.csv").read_bytes() == said


def test_the_csv_is_utf_8_whatever_the_locale(finished: Path, pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "naïve 猫.png"
    shutil.copy(pictures / "0" / "0003.png", path)
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        assert main(["predict", str(finished), str(path)]) == 0
    out.seek(0)
    assert out.buffer.read().decode().splitlines()[1].startswith(f"{path},")


def test_torchs_defaults_and_generator_are_the_callers_and_change_nothing(finished: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = load_classifier(finished)(images)
    before = torch.get_rng_state()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(load_classifier(finished)(images), wanted)
        assert (torch.get_default_dtype(), torch.get_default_device()) == (torch.float64, torch.device("meta"))
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_image_and_no_path_is_one_line(finished: Path) -> None:
    """In a process of its own: here the annotations are checked."""
    program = """
import sys
import numpy as np
import torch
from PIL import Image
from smallvit.classify import classify, load_classifier
from smallvit.errors import UsageError

classifier, pixels = load_classifier(sys.argv[1]), np.zeros((1, 3, 32, 32), np.uint8)
for images in (pixels, "a.png", torch.tensor(pixels[0]), torch.tensor(pixels[:0]), torch.tensor(pixels).float()):
    try:
        classifier(images)
    except UsageError as error:
        print(error)
for pictures in (Image.new("RGB", (9, 9)), [pixels], [], [""]):
    try:
        classify(sys.argv[1], pictures)
    except UsageError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", program, finished], capture_output=True, text=True, check=True).stdout
    images = "it must be a uint8 tensor of shape (images, 3, 32, 32), with at least one image"
    pictures = "name image files, or folders of them"
    assert said.splitlines() == [
        f"images is 'ndarray': {images}",
        f"images is 'str': {images}",
        f"images is '(3, 32, 32) of torch.uint8': {images}",
        f"images is '(0, 3, 32, 32) of torch.uint8': {images}",
        f"images is '(1, 3, 32, 32) of torch.float32': {images}",
        f"pictures is 'Image': {pictures}",
        f"pictures is 'ndarray': {pictures}",
        f"pictures is '': {pictures}",
        f"pictures is '': {pictures}",
    ]


@pytest.mark.parametrize(("count", "more"), [(21, "1 more broken file"), (23, "3 more broken files")])
def test_of_many_broken_files_the_first_are_named(
    count: int, more: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    for i in range(count):
        (tmp_path / f"{i:02d}.png").write_bytes(b"x")
    assert [answer.path.name for answer in classify(finished, tmp_path)] == ["good.png"]
    *named, last = capsys.readouterr().err.splitlines()
    assert [Path(line.split(": ")[1].removeprefix("passed over ")).name for line in named] == [
        f"{i:02d}.png" for i in range(20)
    ]
    assert last == f"note: passed over {more}"


def test_pictures_of_which_much_is_lost_are_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.png"
    Image.new("RGB", (20, 90)).save(path)
    assert len(classify(finished, path)) == 1
    assert capsys.readouterr().err == f"note: 1 of 1 pictures {LONG}: {path}\n"


@pytest.mark.parametrize(
    ("words", "line", "status"),
    [
        (("{run}", "{tmp}/none.png"), "{tmp}/none.png is not there: name image files, or folders of them", 2),
        (("{run}", "{tmp}/empty"), "{tmp}/empty has no images in it\n", 2),
        (("{run}", "{tmp}/phone"), "{tmp}/phone has no images in it (a.heic is by its name none of PNG, JPEG, ", 2),
        (("{run}", "{tmp}/text.png"), "{tmp}/text.png: is not an image in a known format", 1),
        (("{run}",), "predict needs pictures: image files, or folders of them", 2),
        (("{run}", "{good}", "--out", "{tmp}/none/a.csv"), "--out is '{tmp}/none/a.csv': its folder must exist\n", 2),
        (("{run}", "{good}", "--out", "."), "--out is '.': it must be a file, or the name of a new one\n", 2),
        (("{run}", "{good}", "--out", "/dev/null"), "--out is '/dev/null': it must be a file, or the name of a new", 2),
        (("{run}", "{good}", "--top", "11"), "top is 11: the run has 10 classes", 2),
        (("{run}", "{good}", "--top", "0"), "top is 0: ", 2),
        (("{tmp}", "{good}"), "{tmp} holds no run\n", 2),
        (("{tmp}/none", "{good}"), "{tmp}/none is not there\n", 2),
        (("{begun}", "{good}"), "{begun} holds an unfinished run; to go on: smallvit train --resume {begun}\n", 2),
        (("{old}", "{good}"), "{old}/record.json is of a version that did not keep how images are normalised", 1),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    words: tuple[str, ...],
    line: str,
    status: int,
    finished: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    record = RunRecord.load(old / "record.json")
    config = record.run_config()
    config = dataclasses.replace(config, data=DataConfig(dataset="folder", root=Path("/pictures")))
    record = dataclasses.replace(record, config=config.to_json(), config_digest=config.digest())
    dataclasses.replace(record, channel_mean=None, channel_std=None).save(old / "record.json")
    for name in ("empty", "phone", "begun"):
        (tmp_path / name).mkdir()
    shutil.copy(old / "config.json", tmp_path / "begun")
    (tmp_path / "phone" / "a.heic").write_bytes(b"x")
    (tmp_path / "text.png").write_text("not a picture")
    places = {
        "run": finished,
        "tmp": tmp_path,
        "old": old,
        "begun": tmp_path / "begun",
        "good": pictures / "0" / "0000.png",
    }
    assert main(["predict", *(word.format(**places) for word in words)]) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"smallvit: {line.format(**places)}")
    assert said.err.count("\n") == 1


def test_the_weights_that_come_with_the_repository_are_the_recorded_runs(tmp_path: Path) -> None:
    root = Path(__file__).parents[1] / "results"
    folder = root / "weights" / "best"
    assert (folder / "record.json").read_bytes() == (root / "runs" / "best" / "seed0.json").read_bytes()
    picture = tmp_path / "sky.png"
    Image.new("RGB", (48, 32), (90, 150, 220)).save(picture)
    answers = classify(folder, [picture], top=10)
    assert sorted(answer.class_name for answer in answers) == sorted(RunRecord.load(folder / "record.json").class_names)
    assert sum(answer.probability for answer in answers) == pytest.approx(1.0)
