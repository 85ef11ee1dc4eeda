"""What the commands make of their options, with whatever would train replaced by what notes how it was called."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smallvit.cli import main
from smallvit.config import RunConfig
from smallvit.evaluate import Metrics
from smallvit.preview import show_augment
from smallvit.recipes import RECIPES
from smallvit.record import SOURCE
from smallvit.study.execute import Ending
from smallvit.study.studies import STUDIES


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunConfig, Path]]:
    """The config and the folder of each run that a command asks for."""
    calls: list[tuple[RunConfig, Path]] = []
    monkeypatch.setattr(
        "smallvit.commands.train.train_and_report", lambda config, folder, **_: calls.append((config, folder))
    )
    return calls


def test_runs_on_two_folders_of_pictures_do_not_meet(trained: list[tuple[RunConfig, Path]], tmp_path: Path) -> None:
    for name in ("birds", "fish"):
        assert main(["train", "small", "--data.dataset", "folder", "--data.root", str(tmp_path / name)]) == 0
    (one, first), (other, second) = trained
    assert one.digest() == other.digest()
    assert [first, second] == [Path(f"runs/small-{name}-{one.digest()[:8]}") for name in ("birds", "fish")]


def test_quickstart_trains_its_recipe_with_the_seed(trained: list[tuple[RunConfig, Path]]) -> None:
    assert main(["quickstart", "--seed", "5"]) == 0
    assert trained == [(replace(RECIPES["quickstart"](), seed=5), Path("runs/quickstart"))]


def test_a_run_lies_where_no_other_config_has_its_own(
    tmp_path: Path, trained: list[tuple[RunConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "origin").mkdir()
    for words in ([], ["--seed", "1"], ["--fork", "origin"], ["--out", "mine"]):
        assert main(["train", "small", *words]) == 0
    folders = [folder for _, folder in trained]
    assert len(set(folders)) == 4
    for (config, folder), name in zip(trained, ("small-", "small-", "small-fork-"), strict=False):
        assert folder == Path("runs", f"{name}{config.digest()[:8]}")
    assert folders[3] == Path("mine")


def test_evaluate_measures_what_it_is_asked_for_and_says_where_the_record_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Any, ...]] = []
    kept = Metrics(count=4000, correct=3000, negative_log_likelihood=0.5, calibration_error=0.1)
    found = [replace(kept, correct=2999)]

    def evaluate(*arguments: Any, **options: Any) -> Any:
        calls.append((*arguments, options))
        return SimpleNamespace(
            metrics=lambda: found[0],
            calibrated=lambda: None,
            mean_class_accuracy=lambda: None,
            sure=lambda least: (0, 0),
            record=record,
            notes=(),
        )

    config = RECIPES["small"]()
    record = SimpleNamespace(val=kept, test=replace(kept, correct=2990), versions={}, run_config=lambda: config)
    monkeypatch.setattr("smallvit.measured.evaluate", evaluate)
    assert main(["evaluate", "run", "--split", "val", "--data.root", "elsewhere"]) == 0
    assert calls == [(Path("run"), "val", Path("elsewhere"), {"weights": "last"})]
    said = capsys.readouterr().out
    assert said.startswith("val accuracy 74.98 % (2,999 of 4,000)\n")
    assert "note: its record has 75.00 % (3,000 of 4,000): another machine or version rounds otherwise\n" in said
    record.versions = {SOURCE: "another"}
    config = replace(config, scale=0.5)
    assert main(["evaluate", "run"]) == 0
    assert calls[1:] == [(Path("run"), "test", None, {"weights": "last"})]
    said = capsys.readouterr().out
    assert "note: its record has 74.75 % (2,990 of 4,000): smallvit's source has changed since" in said
    assert said.startswith("test accuracy 74.98 % (2,999 of 4,000), of a run of 50 % of train.epochs, 16\n")
    found[0], record.versions = replace(kept, correct=2000), {}
    assert main(["evaluate", "run"]) == 0
    assert (
        "more than another machine or version rounds; is run/model.safetensors that run's?" in capsys.readouterr().out
    )
    found[0] = record.test
    assert main(["evaluate", "run"]) == 0
    assert "note: " not in capsys.readouterr().out


def test_a_study_takes_the_data_and_the_engine_that_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, Any]] = []

    def run_study(study: Any, folder: Path, engine: Any, console: Any, **options: Any) -> Ending:
        calls.append({"slots": engine.slots(), "roots": {row.config.data.root for row in study.rows}, **options})
        raise KeyboardInterrupt

    monkeypatch.setattr("smallvit.study.execute.run_study", run_study)
    words = ["study", next(iter(STUDIES)), "--out", str(tmp_path)]
    assert main([*words, "--data.root", "there", "--jobs", "3", "--device.device", "cpu"]) == 130
    assert capsys.readouterr().err == "smallvit: interrupted\n"
    assert calls[0]["slots"] == 3
    assert calls[0]["roots"] == {Path("there")}
    assert calls[0]["use"].device == "cpu"
    assert main([*words, "--address", "auto"]) == 2
    assert "--address is 'auto': it goes with --engine ray" in capsys.readouterr().err


def test_a_picture_of_the_augmentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "augment.png"
    words = ["show-augment", "quickstart", "--data.cache", str(tmp_path / "cache"), "--out"]
    assert main([*words, str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    with Image.open(path) as picture:
        assert picture.width < 2 * picture.height
        pixels = np.asarray(picture.convert("RGB"))
    assert main([*words, str(path), "--seed", "1"]) == 0
    with Image.open(path) as picture:
        assert not np.array_equal(np.asarray(picture.convert("RGB")), pixels)
    assert main([*words, str(tmp_path / "augment.txt")]) == 2
    assert "the name must end in .png, .svg or .pdf" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "absent" / "augment.png")]) == 2
    assert "--out" in capsys.readouterr().err


def test_each_row_of_the_picture_is_another_steps_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("smallvit.preview._figure", lambda rows: seen.extend(rows) or _Figure())
    config = RECIPES["quickstart"]()
    config = replace(config, data=replace(config.data, cache=tmp_path))
    show_augment(config, tmp_path / "augment.png", num_images=4, num_draws=3)
    rows = [np.stack([image.numpy() for image in images]) for images, _ in seen]
    assert len(rows) == 4
    assert all(not np.array_equal(rows[i], rows[j]) for i in range(4) for j in range(i))


class _Figure:
    def savefig(self, path: Path, **_: Any) -> None:
        path.touch()


def test_the_table_of_recipes_has_a_row_for_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of other shapes, one after the other, as the recipes are."""
    tiny = RECIPES["quickstart"]()
    train, model = replace(tiny.train, batch_size=8), replace(tiny.model, patch_size=16, embed_dim=16, depth=1)
    device = replace(tiny.device, device="cpu", num_threads=1)
    narrow = replace(tiny, train=train, model=replace(model, num_heads=2), device=device)
    plain = replace(narrow, model=replace(narrow.model, embed_dim=32, depth=2), augment=RECIPES["small"]().augment)
    monkeypatch.setattr("smallvit.commands.inspect.RECIPES", {"narrow": lambda: narrow, "plain": lambda: plain})
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    first = [line.split()[0] for line in said.splitlines() if line.split()]
    assert [word for word in first if word in ("narrow", "plain")] == ["narrow", "plain"]


def test_a_rank_says_which_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    assert main(["evaluate", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("smallvit, rank 3: nowhere")


def test_an_option_that_is_not_known_beside_resume_is_looked_up_where_help_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RECIPES["quickstart"]().to_json()))
    assert main(["train", "--resume", str(tmp_path), "--max-second", "3"]) == 2
    assert "did you mean --max-seconds? see smallvit train --help" in capsys.readouterr().err


def test_windows_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    assert main(["recipes"]) == 1
    assert capsys.readouterr().err == "smallvit: it needs Linux or macOS: on Windows run it in WSL 2\n"
