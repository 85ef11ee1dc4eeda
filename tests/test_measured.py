"""A run measured on labelled pictures that are not its data set's: the same numbers, and nothing that it has seen."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score

from smallvit.augment.config import AugmentConfig
from smallvit.classify import classify
from smallvit.cli import main
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.data.split import Split
from smallvit.data.store import load_dataset
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.measured import evaluate, evaluate_labelled
from smallvit.model.config import ModelConfig
from smallvit.record import RunRecord
from smallvit.report.stats import wilson_interval
from smallvit.run import run
from smallvit.seen import SEEN
from smallvit.train.config import OptimConfig, TrainConfig

CLASSES = ("eight", "nought", "one")
DIGITS = (8, 0, 1)


def config(root: Path) -> RunConfig:
    return RunConfig(
        recipe="tiny",
        data=DataConfig(dataset="folder", root=root),
        augment=AugmentConfig(horizontal_flip=0.0, crop_padding=0),
        model=ModelConfig(patch_size=8, embed_dim=16, depth=1, num_heads=2),
        optim=OptimConfig(lr=2e-3, warmup_epochs=0.5),
        train=TrainConfig(epochs=4, passes_per_epoch=1, batch_size=20),
        device=DeviceConfig(device="cpu", precision="float32", attention="sdpa", num_threads=1),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 120 pictures of three digits; its pictures lie beside it."""
    folder = tmp_path_factory.mktemp("labelled")
    digits = load_dataset(DataConfig(dataset="digits", val_fraction=0.0))
    for name, digit in zip(CLASSES, DIGITS, strict=True):
        (folder / "pictures" / name).mkdir(parents=True)
        for row in np.flatnonzero(digits.train.labels == digit)[:40]:
            image = Image.fromarray(digits.train.images[row].transpose(1, 2, 0))
            image.save(folder / "pictures" / name / f"{row}.png")
    run(config(folder / "pictures"), folder / "run", console=Console(quiet=True))
    return folder


def load_split(finished: Path, split: str) -> Split:
    """Return one of the run's splits."""
    return getattr(load_dataset(config(finished / "pictures").data), split)


def copied(finished: Path, split: str, to: Path) -> int:
    """Copy the pictures of one of the run's splits to a folder of classes, and return how many they are."""
    found = load_split(finished, split)
    for name in found.file_names() or ():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished / "pictures" / name, to / name)
    return len(found)


def test_on_the_pictures_of_its_test_it_says_what_the_record_says(finished: Path, tmp_path: Path) -> None:
    count = copied(finished, "test", tmp_path / "new")
    record = RunRecord.load(finished / "run" / "record.json")
    found = evaluate_labelled(str(finished / "run"), str(tmp_path / "new"))
    assert found.notes == ()
    assert record.test.correct > 0
    for ours, kept in ((found.metrics(), record.test), (found.calibrated(), record.test_calibrated)):
        assert ours is not None
        assert kept is not None
        assert (ours.correct, ours.count) == (kept.correct, count)
        assert ours.negative_log_likelihood == pytest.approx(kept.negative_log_likelihood, rel=1e-4)
        assert ours.calibration_error == pytest.approx(kept.calibration_error, abs=1e-3)
    assert found.mean_class_accuracy() is None


def test_what_it_was_trained_on_is_left_out_and_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = copied(finished, "test", tmp_path)
    (*_, trained_on) = load_split(finished, "train").file_names() or ()
    Image.open(finished / "pictures" / trained_on).save(tmp_path / "one" / "again.bmp")  # known by its pixels
    (tmp_path / "read me.txt").write_text("not a picture")
    (tmp_path / "one" / "notes.txt").write_text("not a picture")
    metrics = evaluate_labelled(finished / "run", tmp_path).metrics()
    assert main(["evaluate", str(finished / "run"), str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"note: {tmp_path}: passed over files that are not images of a class: one/notes.txt" in lines
    told = f"note: 1 of {count + 1} pictures are left out, as the run was trained on them: one/again.bmp"
    assert told in lines
    low, high = (100 * end for end in wilson_interval(metrics.correct, count))
    share = f"accuracy {100 * metrics.accuracy:.2f} % ({metrics.correct} of {count})"
    assert [share, f"by the draw of the images {low:.2f} to {high:.2f} % (95 % interval)"] == lines[2:4]
    assert f"negative log likelihood {metrics.negative_log_likelihood:.4f} nats" in lines
    assert lines[-4].startswith("with the temperature fitted on val, as in predict: ")


def test_the_classes_of_uneven_pictures_have_a_mean(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(finished, "test", tmp_path)
    for path in sorted((tmp_path / "eight").glob("*"))[1:]:
        path.unlink()
    shutil.rmtree(tmp_path / "nought")  # the run's second class has no pictures here
    found = evaluate_labelled(finished / "run", tmp_path)
    true, answers = found.labels.tolist(), found.logits.argmax(-1).tolist()
    assert set(true) == {0, 2}
    mean = np.mean([np.mean([a == t for a, t in zip(answers, true, strict=True) if t == c]) for c in (0, 2)])
    assert found.mean_class_accuracy() == pytest.approx(mean)
    if set(answers) <= set(true):  # else scikit-learn warns
        assert mean == pytest.approx(balanced_accuracy_score(true, answers))
    assert main(["evaluate", str(finished / "run"), str(tmp_path)]) == 0
    assert f"\nmean of the classes' accuracies {100 * mean:.2f} %\n" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["new"], ["--split", "train"]], ids=["other pictures", "its own"])
def test_each_answer_is_written_beside_the_class(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    copied(finished, "val", tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(finished / "run"), *words, "--out", "answers.csv"]) == 0
    with Path("answers.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "class", "answer", "probability"]
    pictures = Path("new") if words == ["new"] else finished / "pictures"
    of_classify = {a.path: a for a in classify(finished / "run", [pictures / row[0] for row in rows])}
    assert len(of_classify) == len(rows) == (len(load_split(finished, "val" if words == ["new"] else "train")))
    for name, label, answer, probability in rows:
        expected = of_classify[pictures / name]
        assert (label, answer) == (name.split("/")[0], expected.class_name)
        assert float(probability) == pytest.approx(expected.probability, abs=2e-4)


def test_the_sure_answers_are_those_of_the_probability_that_is_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = copied(finished, "test", tmp_path)
    found = evaluate_labelled(finished / "run", tmp_path)
    answers = list(found.answers())
    middle = round(sorted(answer[3] for answer in answers)[count // 2], 3)
    for least in (0.0, middle, answers[0][3], 1.0):
        chosen = [label == answer for _, label, answer, probability in answers if probability >= least]
        assert found.sure(least) == (len(chosen), sum(chosen))
    monkeypatch.setattr("smallvit.commands.inspect.SURE", (middle, 1.0))
    assert main(["evaluate", str(finished / "run"), str(tmp_path)]) == 0
    *_, half, none = capsys.readouterr().out.splitlines()
    sure, right = found.sure(middle)
    assert 0 < sure < count
    share = f"{100 * sure / count:.2f} % of the answers, {100 * right / sure:.2f} % of them right ({right} of {sure})"
    assert half == f"with a probability of at least {middle}: {share}"
    assert none == "with a probability of at least 1.0: 0.00 % of the answers"


def test_torchs_default_device_is_the_callers_and_changes_nothing(finished: Path) -> None:
    wanted = evaluate(finished / "run", "test")
    with torch.device("meta"):
        found = evaluate(finished / "run", "test")
        assert (found.metrics(), found.calibrated()) == (wanted.metrics(), wanted.calibrated())
        assert (list(found.answers()), found.sure(0.5)) == (list(wanted.answers()), wanted.sure(0.5))
        assert found.mean_class_accuracy() == wanted.mean_class_accuracy()


def test_images_without_files_are_numbered(finished: Path, tmp_path: Path) -> None:
    tiny = config(finished)
    tiny = replace(tiny, data=DataConfig(dataset="digits"), train=replace(tiny.train, epochs=1, batch_size=500))
    record = run(tiny, tmp_path, console=Console(quiet=True))
    rows = list(evaluate(tmp_path, "test").answers())
    assert [row[0] for row in rows] == [str(number) for number in range(record.test.count)]
    assert sum(label == answer for _, label, answer, _ in rows) == record.test.correct


def test_answers_stand_beside_the_files_and_labels_that_they_are_of(finished: Path, tmp_path: Path) -> None:
    copied(finished, "val", tmp_path)
    found = evaluate_labelled(finished / "run", tmp_path)
    names = [name.split("/")[0] for name in found.split.file_names() or ()]
    assert [found.class_names[label] for label in found.labels] == names
    assert found.logits.shape == (len(names), len(CLASSES))
    assert found.logits.dtype == torch.float32


def test_a_run_that_does_not_know_what_it_saw_says_so(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "run" / SEEN).unlink()
    count = copied(finished, "train", tmp_path / "new")
    found = evaluate_labelled(tmp_path / "run", tmp_path / "new")
    assert len(found.split) == count
    assert "does not know what it was trained on" in found.notes[0]


def test_a_record_that_does_not_tell_what_test_was_is_not_measured_on_what_is_drawn_today(
    finished: Path, tmp_path: Path
) -> None:
    """Until 6f50184 a folder's images were drawn otherwise, so that today's test has some that were trained on."""
    shutil.copytree(finished / "run", tmp_path / "run")
    path = tmp_path / "run" / "record.json"
    replace(RunRecord.load(path), test_sha256=None, channel_mean=None, channel_std=None).save(path)
    with pytest.raises(
        SmallvitError, match=r"did not keep which images test was, and drew it otherwise: .*train anew$"
    ):
        evaluate(tmp_path / "run", "test")
    replace(RunRecord.load(path), test_sha256="0" * 64).save(path)
    with pytest.raises(SmallvitError, match="if they are unchanged, an earlier smallvit drew them otherwise: train an"):
        evaluate(tmp_path / "run", "test")


def test_a_run_of_a_data_set_with_a_name_does_not_know_its_images_again(finished: Path, tmp_path: Path) -> None:
    tiny = config(finished)
    tiny = replace(tiny, data=DataConfig(dataset="digits"), train=replace(tiny.train, epochs=1, batch_size=500))
    run(tiny, tmp_path / "run", console=Console(quiet=True))
    shutil.copytree(finished / "pictures" / "one", tmp_path / "new" / "1")
    found = evaluate_labelled(tmp_path / "run", tmp_path / "new")
    assert found.notes == (
        "which of these are images of digits is not known: on those of its train the run is too good",
    )
    assert found.labels.tolist() == [1] * 40


def test_a_fork_on_a_data_set_with_a_name_still_knows_what_its_weights_saw(finished: Path, tmp_path: Path) -> None:
    tiny = config(finished)
    tiny = replace(tiny, data=DataConfig(dataset="digits"), train=replace(tiny.train, epochs=1, batch_size=500))
    for name in ("known", "unknown"):
        shutil.copytree(finished / "run", tmp_path / name / "first")
        if name == "unknown":
            (tmp_path / name / "first" / SEEN).unlink()
        run(tiny, tmp_path / name / "fork", fork=tmp_path / name / "first", console=Console(quiet=True))
    shutil.copytree(finished / "pictures" / "one", tmp_path / "new" / "1")
    trained_on = sum(name.startswith("one/") for name in load_split(finished, "train").file_names() or ())
    found = evaluate_labelled(tmp_path / "known" / "fork", tmp_path / "new")
    assert len(found.split) == 40 - trained_on < 40
    assert f"{trained_on} of 40 pictures are left out" in found.notes[1]
    plain = replace(tiny, seed=1)
    run(plain, tmp_path / "digits", console=Console(quiet=True))
    run(tiny, tmp_path / "again", fork=tmp_path / "digits", console=Console(quiet=True))
    assert not (tmp_path / "digits" / SEEN).exists()
    found = evaluate_labelled(tmp_path / "again", tmp_path / "new")
    assert len(found.split) == 40
    assert len(found.notes) == 1, "it saw none of one's own, and knows so"
    found = evaluate_labelled(tmp_path / "unknown" / "fork", tmp_path / "new")
    assert len(found.split) == 40
    assert "does not know what it was trained on" in found.notes[1]


def test_what_cannot_be_measured_is_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused: dict[str, tuple[type[Exception], str]] = {
        "nowhere": (UsageError, "is not there: name a folder with a folder of pictures for each class"),
        "file": (UsageError, "is no folder: name a folder with a folder of pictures for each class"),
        "empty": (SmallvitError, "no class folders; expected some of eight, nought, one"),
        "other": (SmallvitError, "class folder 'two' that the run has not; expected some of eight, nought, one"),
        "trained": (UsageError, "the run was trained on all 87 pictures: measure on others"),
        "broken": (SmallvitError, "broken/one/a.png: is not an image in a known format"),
        "hollow": (SmallvitError, "hollow/one: class folder without images; add some or remove the folder"),
    }
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "two").mkdir(parents=True)
    copied(finished, "train", tmp_path / "trained")
    for name in ("broken", "hollow"):
        (tmp_path / name / "one").mkdir(parents=True)
    (tmp_path / "broken" / "one" / "a.png").write_bytes(b"no picture")
    for name, (kind, words) in refused.items():
        with pytest.raises(kind) as caught:
            evaluate_labelled(finished / "run", tmp_path / name)
        assert words in str(caught.value), name
        assert main(["evaluate", str(finished / "run"), str(tmp_path / name)]) == (2 if kind is UsageError else 1)
        assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(UsageError, match="holds no run"):
        evaluate_labelled(tmp_path / "empty", tmp_path / "broken")
