"""What is kept, deleted and refused in a run's folder: a run's own, and what only looks like it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from smallvit.augment.config import AugmentConfig
from smallvit.cli import main
from smallvit.commands.train import Quickstart
from smallvit.config import EvaluateConfig, RunConfig
from smallvit.data.config import DataConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.fork import read_origin
from smallvit.recipes import RECIPES
from smallvit.record import RunRecord
from smallvit.run import run
from smallvit.run_folder import BEST, CHECKPOINTS, CONFIG, MODEL, RECORD, delete_run
from smallvit.session import Session
from smallvit.stop import InterruptedRunError
from smallvit.train.config import CheckpointConfig, OptimConfig, TrainConfig
from tiny_bench import TINY


def _short(epochs: int = 2, **changes: Any) -> RunConfig:
    digits, augment = DataConfig(dataset="digits"), AugmentConfig(horizontal_flip=0.0)
    optim = OptimConfig(lr=1e-2, warmup_epochs=0.5)
    train = TrainConfig(epochs=epochs, passes_per_epoch=1, batch_size=400)
    return replace(TINY, data=digits, augment=augment, optim=optim, train=train, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "finished"
    run(_short(), folder)
    return folder


def _spoil_config(folder: Path) -> None:
    run_config = RunConfig.load(folder / CONFIG)
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace('"seed": 0', '"seed": 7', 1))
    assert RunConfig.load(folder / CONFIG) != run_config


SPOILS: dict[str, Callable[[Path], object]] = {
    "the weights are gone": lambda folder: (folder / MODEL).unlink(),
    "the weights are cut short": lambda folder: (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:-1]),
    "the record is damaged": lambda folder: (folder / RECORD).write_text("{"),
    "the record is of another run": _spoil_config,
}


@pytest.mark.parametrize("spoil", [None, *SPOILS])
def test_a_refusal_deletes_checkpoints_only_of_a_run_that_is_whole(
    spoil: str | None, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    checkpoint = folder / CHECKPOINTS / "step-00000003"
    checkpoint.mkdir(parents=True)
    if spoil is not None:
        SPOILS[spoil](folder)
    with pytest.raises(UsageError, match="already holds a finished run"):
        run(_short(), folder)
    assert checkpoint.exists() == (spoil is not None)


def test_the_best_weights_of_before_a_kill_are_kept_where_those_of_after_it_are_not_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine rounds otherwise, and measures no better there."""
    checkpoint = CheckpointConfig(best=True, every_seconds=0.0)
    config = _short(3, evaluate=EvaluateConfig(every_epochs=1), checkpoint=checkpoint)
    predict, batch = Session.predict, Session.batch
    taken: list[dict[str, torch.Tensor]] = []

    def measured(self: Session, split: str, check: Any = None) -> torch.Tensor:
        """All right in the second epoch, all alike before it."""
        logits = predict(self, split, check)
        right = torch.nn.functional.one_hot(self.splits[split].labels, logits.shape[1]).float()
        return right if len(taken) == 1 else torch.zeros_like(logits)

    def noted(self: Session, step: int) -> Any:
        if step and not step % self.order.steps_per_epoch:
            taken.append({name: value.clone() for name, value in self.model.state_dict().items()})
            if len(taken) == 2:
                raise KeyboardInterrupt  # killed when the second was measured, and no checkpoint had it
        return batch(self, step)

    monkeypatch.setattr(Session, "predict", measured)
    monkeypatch.setattr(Session, "batch", noted)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path)
    monkeypatch.setattr(Session, "predict", lambda *arguments: torch.zeros_like(predict(*arguments)))
    monkeypatch.setattr(Session, "batch", batch)
    run(config, tmp_path)
    best = load_file(tmp_path / BEST)
    assert all(torch.equal(best[name], value) for name, value in taken[0].items())
    assert not all(torch.equal(best[name], value) for name, value in taken[1].items())


def test_no_time_for_one_measurement_ends_with_a_word_and_another_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _short(evaluate=EvaluateConfig(every_epochs=1))
    ends: list[InterruptedRunError] = []
    while not ends or ends[-1].exit_status == 75:
        with pytest.raises(InterruptedRunError) as caught:
            run(config, tmp_path, max_seconds=0.0)
        ends.append(caught.value)
        assert len(ends) < 20
    assert len(ends) > 1
    assert ends[-1].exit_status == 1
    assert "(--max-seconds) before anything new was done: one measurement takes longer" in str(ends[-1])
    assert run(config, tmp_path).resumed_at_steps


def test_quickstart_replaces_no_run_that_is_kept_otherwise(tmp_path: Path) -> None:
    recipe = RECIPES["quickstart"]()
    own = replace(recipe, seed=7, checkpoint=CheckpointConfig(best=True)).resolve(10)
    for config, replaced in ((own, False), (replace(recipe, seed=7).resolve(10), True)):
        (tmp_path / CONFIG).write_text(json.dumps(config.to_json()))
        calls: list[bool] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "smallvit.commands.train.train_and_report", lambda *_, start_over, calls=calls: calls.append(start_over)
            )
            Quickstart(out=tmp_path)()
        assert calls == [replaced]


def test_deleting_a_run_leaves_what_is_not_its_own_among_the_checkpoints(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS / "step-00000003").mkdir(parents=True)
    (tmp_path / CHECKPOINTS / "mine.txt").write_text("mine")
    delete_run(tmp_path)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("words", [["predict", ".", "0.png", "--out"], ["bench", "quickstart", "--json"]])
def test_no_command_writes_over_a_runs_own_files(
    words: list[str], finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    before = (finished / RECORD).read_bytes()
    assert main([*words, RECORD]) == 2
    assert f"{words[-1]} is '{RECORD}': it must not be a run's own file" in capsys.readouterr().err
    assert (finished / RECORD).read_bytes() == before


def test_a_folder_like_an_option_and_one_at_home_are_named_as_a_shell_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(InterruptedRunError, match=re.escape("smallvit train --resume ./-run")):
        run(_short(), "-run", max_seconds=0.0)
    with pytest.raises(UsageError, match=re.escape("start from its weights with --fork ./-run, or")):
        run(replace(_short(), seed=1), "-run")
    with pytest.raises(InterruptedRunError, match=re.escape(f"--resume {tmp_path}/home/run")):
        run(_short(), "~/run", max_seconds=0.0)
    assert main(["train", "quickstart", "--resume=~/run"]) == 2
    assert main(["train", "--resume=~/nowhere"]) == 2
    assert f"--resume is '{tmp_path}/home/nowhere': it must be the folder of a run" in capsys.readouterr().err
    assert main(["train", "--resume=~/run", "small"]) == 2
    assert "'small' has no place there: a recipe comes first" in capsys.readouterr().err
    assert main(["train", "--resume=~/run"]) == 0
    assert isinstance(RunRecord.load(tmp_path / "home" / "run" / RECORD), RunRecord)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["-run", "home"]


def test_what_may_not_be_looked_at_is_not_called_absent(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Since Python 3.14 `Path.exists` says no of it, and so do its kin."""
    closed = tmp_path / "closed"
    real = Path.stat

    def stat(path: Path, **options: Any) -> Any:
        if closed in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    def looks(name: str) -> Callable[[Path], bool]:
        return lambda path: closed not in path.parents and getattr(os.path, name)(path)

    monkeypatch.setattr(Path, "stat", stat)
    for method, name in {"exists": "exists", "is_dir": "isdir", "is_file": "isfile"}.items():
        monkeypatch.setattr(Path, method, looks(name))
    closed_data = ["train", "small", "--data.dataset", "folder", "--data.root", str(closed / "a")]
    for words in (
        ["evaluate", str(closed / "run")],
        ["evaluate", str(finished), str(closed / "pictures")],
        ["predict", str(finished), str(closed / "a.png")],
        [*closed_data, "--out", str(tmp_path / "out")],
    ):
        assert main(words) == 1
        told = capsys.readouterr().err
        assert "Permission denied" in told
        assert len(told.splitlines()) == 1
    with pytest.raises(SmallvitError, match=r"record\.json cannot be read \(Permission denied\)"):
        read_origin(closed / "run")
