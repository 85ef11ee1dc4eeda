"""Interrupted at any step and resumed, a run ends with the same bits as if nothing had happened."""

import io
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from outcomes import outcome, without_clocks
from smallvit import cli, resume
from smallvit.augment.config import AugmentConfig
from smallvit.classify import load_classifier
from smallvit.config import EvaluateConfig, RunConfig
from smallvit.data import split
from smallvit.data.config import DataConfig
from smallvit.data.store import load_dataset
from smallvit.device.choose import Choices
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.fork import (
    Origin,
    keep_weights,
    kept_weights,
    read_origin,
    take_weights,
    weights_sha256,
)
from smallvit.held_out import may_be_seen, require_unseen_test
from smallvit.lock import OWNER, LostFolderError
from smallvit.measured import evaluate
from smallvit.model.config import ModelConfig
from smallvit.model.mlp import Mlp
from smallvit.model.vit import VisionTransformer
from smallvit.record import SOURCE, RunRecord
from smallvit.report.page import write_page
from smallvit.run import run
from smallvit.run_folder import METRICS
from smallvit.session import Session
from smallvit.stop import InterruptedRunError, Stop
from smallvit.strict_json import canonical, digest
from smallvit.train.checkpoint import load_newest
from smallvit.train.config import CheckpointConfig, OptimConfig, TrainConfig
from smallvit.train.distributed import World
from smallvit.train.schedule import warmup_linear
from smallvit.weights import save_tensors

TOY = RunConfig(
    recipe="toy",
    data=DataConfig(dataset="digits", val_fraction=0.7),
    augment=AugmentConfig(horizontal_flip=0.0, policy="autoaugment-svhn", erase_probability=0.25, mixup_alpha=1.0),
    model=ModelConfig(patch_size=16, embed_dim=16, depth=2, num_heads=2),
    optim=OptimConfig(lr=1e-2, warmup_epochs=1.5),
    train=TrainConfig(epochs=3, passes_per_epoch=1, batch_size=64),
    evaluate=EvaluateConfig(every_epochs=2, batch_size=2000),
    device=DeviceConfig(device="cpu", precision="float32", attention="sdpa", num_threads=1),
)
STEPS_PER_EPOCH = 6
STEPS = 3 * STEPS_PER_EPOCH
BRIEF = replace(TOY, optim=replace(TOY.optim, warmup_epochs=0.5), train=replace(TOY.train, epochs=1))
"""For forks and what they start from, where nothing depends on the training."""


def ask_at(calls: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run be asked to end at some of the times that it looks, counted from 1 over all runs to come."""
    looked = 0

    def asked(self: Stop, seconds_needed: float = 0.0) -> bool:
        nonlocal looked
        looked += 1
        if looked in calls:
            self.reason, self.exit_status = "SIGTERM", 143
        return bool(self.reason)

    monkeypatch.setattr(Stop, "asked", asked)


def interrupted(config: RunConfig, folder: Path) -> InterruptedRunError:
    with pytest.raises(InterruptedRunError) as caught:
        run(config, folder)
    return caught.value


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(TOY, folder).resumed_at_steps == []
    return outcome(folder)


# A run looks after each step but the last, and before each forward pass of an evaluation: val after epochs 2 and 3, and
# test at the end, one pass each. These are after the first step, the last ones of the warm-up (9) and of epochs 1 and 2
# (6, 12), the first and the last but one of epoch 3 (14, 18), and before the evaluations (13, 19, 20).
@pytest.mark.parametrize("look", [1, 6, 9, 12, 13, 14, 18, 19, 20])
def test_interrupted_anywhere_and_resumed_equals_uninterrupted(
    look: int, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_at({look}, monkeypatch)
    error = interrupted(TOY, tmp_path)
    steps = min(look if look <= 12 else look - 1, STEPS)
    assert str(error) == (f"SIGTERM: saved after step {steps} of {STEPS}; to go on: smallvit train --resume {tmp_path}")
    assert error.exit_status == 143
    assert not (tmp_path / "record.json").exists()
    record = run(TOY, tmp_path)
    assert record.resumed_at_steps == [steps]
    assert outcome(tmp_path) == undisturbed
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("look", "steps"), [(4, 4), (13, 12)])
def test_where_another_rank_is_asked_to_end_all_do_with_its_exit_status(
    look: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step, and in an evaluation."""
    looked, gather = itertools.count(1), World.gather_rows

    def gather_rows(self: World, rows: torch.Tensor) -> torch.Tensor:
        return gather(self, rows) if rows.is_floating_point() else torch.cat([rows, rows * 0 + 143])

    monkeypatch.setattr(World, "any", lambda self, flag: flag or next(looked) == look)
    monkeypatch.setattr(World, "gather_rows", gather_rows)
    error = interrupted(TOY, tmp_path)
    assert str(error).startswith(f"another rank was asked to end: saved after step {steps} of {STEPS}; ")
    assert error.exit_status == 143


def test_a_layer_that_draws_by_torchs_own_generator_draws_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropout that somebody adds, say."""
    plain = Mlp.forward

    def dropped(self: Mlp, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(plain(self, x), 0.2, self.training)

    monkeypatch.setattr(Mlp, "forward", dropped)
    run(TOY, tmp_path / "whole")
    torch.manual_seed(7)
    ask_at({4, 9}, monkeypatch)
    interrupted(TOY, tmp_path / "again")
    interrupted(TOY, tmp_path / "again")
    assert run(TOY, tmp_path / "again").resumed_at_steps == [4, 9]
    assert outcome(tmp_path / "again") == outcome(tmp_path / "whole")
    monkeypatch.setattr(Mlp, "forward", plain)
    run(TOY, tmp_path / "plain")
    assert outcome(tmp_path / "plain") != outcome(tmp_path / "whole")


def test_interrupted_at_every_step_of_one_run(
    undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in range(1, STEPS):
        ask_at({2 if steps == 13 else 1}, monkeypatch)  # not in the evaluation after 12 steps, again and again
        interrupted(TOY, tmp_path)
    monkeypatch.undo()
    assert run(TOY, tmp_path).resumed_at_steps == list(range(1, STEPS))
    assert outcome(tmp_path) == undisturbed


Name = Literal["adam", "lion", "muon", "lamb"]


@pytest.mark.parametrize("name", ["adam", "lion", "muon", "lamb"])
def test_every_optimiser_resumes_to_the_bit(name: Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TOY, optim=OptimConfig(optimizer=name, lr=3e-3, warmup_epochs=1.0))
    run(config, tmp_path / "whole")
    ask_at({8}, monkeypatch)
    interrupted(config, tmp_path / "parts")
    run(config, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


EVERYTHING = replace(
    TOY,
    augment=replace(TOY.augment, horizontal_flip=0.5, flip="alternating"),
    model=ModelConfig(
        patch_size=16, embed_dim=16, depth=2, num_heads=2, num_cls_tokens=2, num_registers=1, position="rotary",
        tokenizer="conv", qk_norm="rms", locality="lsa", mlp_conv="depthwise", layer_scale=0.1, pooling="cls+mean",
        init="mimetic",
    ),
    optim=OptimConfig(
        optimizer="muon", lr=3e-3, muon_lr=1e-2, muon_weight_decay=0.1, clip_norm=0.5, warmup_epochs=1.0,
        schedule="linear",
    ),
    train=replace(TOY.train, ema_decay=0.9, loss="bce"),
)  # fmt: skip


def test_every_variant_at_once_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(EVERYTHING, tmp_path / "whole")
    ask_at({1, 8, 13, 21}, monkeypatch)  # the first step; a later one; and in the evaluations of the averaged weights
    for _ in range(4):
        interrupted(EVERYTHING, tmp_path / "parts")
    assert run(EVERYTHING, tmp_path / "parts").resumed_at_steps == [1, 8, 12, STEPS]
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    assert whole.num_parameters == sum(v.numel() for v in load_file(tmp_path / "whole" / "model.safetensors").values())
    rows = [json.loads(line) for line in (tmp_path / "parts" / METRICS).read_text().splitlines()]
    last = next(row for row in reversed(rows) if "lr" in row)
    warmup = EVERYTHING.optim.warmup_epochs * STEPS / EVERYTHING.train.epochs
    rate = EVERYTHING.optim.lr * warmup_linear(STEPS - 1, warmup_steps=warmup, total_steps=STEPS)
    assert (last["step"], last["lr"]) == (STEPS - 1, pytest.approx(rate))


def test_a_bfloat16_run_with_stochastic_depth_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with what `auto` chose at its start, whatever it would choose now."""
    seconds = {"float32": 1.0, "bfloat16": 0.5}
    monkeypatch.setattr("smallvit.device.choose._matmul_seconds", lambda *shape: tuple(seconds.values()))
    model = replace(TOY.model, drop_path_rate=0.3)
    config = replace(TOY, model=model, device=DeviceConfig(device="cpu", num_threads=1))
    run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        ask_at({8}, patch)
        interrupted(config, tmp_path / "parts")
    seconds["bfloat16"] = 2.0
    assert run(config, tmp_path / "parts").choices.precision == "bfloat16"
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def spoil_batches(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    true = Session.batch

    def batch(self: Session, step: int) -> Any:
        data = true(self, step)
        return replace(data, images=data.images * torch.nan) if step in steps else data

    monkeypatch.setattr(Session, "batch", batch)


def test_a_run_that_skips_steps_resumes_with_its_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TOY, train=replace(TOY.train, on_nonfinite="skip", max_skips=3))
    spoil_batches({6, 7}, monkeypatch)
    assert run(config, tmp_path / "whole").skipped_steps == [6, 7]
    for look in (7, 8):
        ask_at({look}, monkeypatch)
        interrupted(config, tmp_path / f"{look}")
        assert run(config, tmp_path / f"{look}").skipped_steps == [6, 7]
        assert outcome(tmp_path / f"{look}") == outcome(tmp_path / "whole")


def test_steps_left_out_before_a_run_was_interrupted_count_as_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(BRIEF, train=replace(BRIEF.train, on_nonfinite="skip", max_skips=1))
    for name, spoilt in (("in a row", {1, 2}), ("apart", {0, 2})):
        with monkeypatch.context() as patch:
            spoil_batches(spoilt, patch)
            ask_at({2}, patch)
            interrupted(config, tmp_path / name)
            if name == "apart":
                assert run(config, tmp_path / name).skipped_steps == [0, 2]
            else:
                with pytest.raises(SmallvitError, match=r"^the loss is nan at step 2 "):
                    run(config, tmp_path / name)


def test_an_epoch_that_is_left_out_whole_has_no_mean_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = replace(TOY.train, on_nonfinite="skip", max_skips=STEPS_PER_EPOCH)
    config = replace(TOY, train=train, evaluate=replace(TOY.evaluate, every_epochs=1))
    spoil_batches(set(range(STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH)), monkeypatch)
    assert "epoch 2/3  loss unknown  val" in said(config, tmp_path / "run")
    record = RunRecord.load(tmp_path / "run" / "record.json")
    assert [point.train_loss is None for point in record.curve] == [False, True, False]
    assert record.curve[1].val == record.curve[0].val
    write_page(tmp_path / "run")


@pytest.fixture(scope="module")
def interrupted_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted") / "half"
    with pytest.MonkeyPatch.context() as patch:
        ask_at({8, 9}, patch)
        interrupted(TOY, folder)
        interrupted(TOY, folder)
    return folder


@pytest.fixture
def half(interrupted_twice: Path, tmp_path: Path) -> Path:
    """The folder of a run that was interrupted after steps 8 and 9."""
    return shutil.copytree(interrupted_twice, tmp_path / "half")


def said(config: RunConfig, folder: Path) -> str:
    """Run to the end, and return what was printed."""
    console = Console(record=True, width=300, file=(folder.parent / "said").open("w"), force_terminal=False)
    try:
        run(config, folder, console=console)
    finally:
        console.file.close()
    return console.export_text()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(half: Path, undisturbed: dict[str, Any]) -> None:
    path = half / "checkpoints" / "step-00000009" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    text = said(TOY, half)
    assert "note: passed over step-00000009: model.safetensors does not match its sha256" in text
    assert "going on after step 8 of 18" in text
    assert outcome(half) == undisturbed


def test_with_no_whole_checkpoint_the_run_starts_over_and_says_so(half: Path, undisturbed: dict[str, Any]) -> None:
    for path in (half / "checkpoints").glob("*/manifest.json"):
        path.unlink()
    text = said(TOY, half)
    assert text.count("note: passed over step-0000000") == 2
    assert "without a whole checkpoint, which is started over" in text
    assert outcome(half) == undisturbed
    assert RunRecord.load(half / "record.json").resumed_at_steps == []


def test_a_checkpoint_that_cannot_be_read_just_now_is_refused_and_kept(half: Path) -> None:
    """It may be whole: to start over would cost it, and what it holds."""
    for step in (8, 9):
        path = half / "checkpoints" / f"step-{step:08d}" / "manifest.json"
        path.rename(path.with_name("aside"))
        path.mkdir()
    line = refused(TOY, half, SmallvitError)
    assert "checkpoints has step-00000009: manifest.json cannot be read: Is a directory: it may be whole, so" in line


def test_a_checkpoint_of_a_later_version_is_refused_and_kept(half: Path) -> None:
    path = half / "checkpoints" / "step-00000009" / "manifest.json"
    body = {**json.loads(path.read_text()), "schema": 2}
    del body["sha256"]
    path.write_text(canonical({**body, "sha256": digest(body)}))
    assert "step-00000009: manifest.json has schema 2, of a newer smallvit" in refused(TOY, half)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(config: RunConfig, folder: Path, kind: type[SmallvitError] = UsageError) -> str:
    before = contents(folder)
    with pytest.raises(kind) as caught:
        run(config, folder)
    assert contents(folder) == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("start_over", [True, False])
def test_a_folder_that_another_run_has_by_the_time_that_all_is_ready_is_left_as_it_is(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_over: bool
) -> None:
    """As where a run is stopped while it reads its data."""
    folder = tmp_path / "run"

    def replaced(*args: Any, **options: Any) -> Any:
        shutil.rmtree(folder)
        shutil.copytree(half, folder)
        (folder / OWNER).write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "2026-11-30T00:00:00+00:00"}))
        return load_dataset(*args, **options)

    monkeypatch.setattr("smallvit.run.load_dataset", replaced)
    with pytest.raises(LostFolderError, match=r"process 7 on elsewhere, .* writes to what is there now"):
        run(TOY, folder, start_over=start_over)
    left = {path.relative_to(folder): content for path, content in contents(folder).items() if path.name != OWNER}
    assert left == {path.relative_to(half): content for path, content in contents(half).items()}


def edit_state(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the newest checkpoint as another version, machine or data set would have left it."""
    from smallvit.train.checkpoint import save_checkpoint

    checkpoint, _ = load_newest(folder / "checkpoints")
    assert checkpoint is not None
    edit(checkpoint.state)
    shutil.rmtree(folder / "checkpoints")
    save_checkpoint(folder / "checkpoints", checkpoint)


def test_another_version_of_the_package_is_refused(half: Path) -> None:
    edit_state(half, lambda state: state["versions"].update(smallvit="0.0.9"))
    text = refused(TOY, half)
    assert "was saved by smallvit 0.0.9, and this is" in text
    assert "--fork" in text


def test_another_torch_or_thread_count_is_said(half: Path, undisturbed: dict[str, Any]) -> None:
    def edit(state: dict[str, Any]) -> None:
        state["versions"]["torch"] = "2.0"
        state["choices"].update(num_threads=64, attention="flash")
        state["world_size"] = 4

    edit_state(half, edit)
    text = said(TOY, half)
    assert "was 2.0: the same batches, but numbers may round otherwise" in text
    assert "num-threads: 1, was 64: the same batches, but sums round otherwise" in text
    assert "devices: 1, was 4: the same batches" in text
    assert "attention: sdpa, was flash: the same batches" in text
    assert outcome(half) == undisturbed


def test_what_is_named_and_not_to_be_had_is_said(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run would be refused; this one goes on with what it has."""
    monkeypatch.setattr("smallvit.model.native_attention._libraries", {})
    monkeypatch.setenv("CXX", "no-such-compiler")
    text = said(replace(TOY, device=replace(TOY.device, attention="native")), half)
    assert "device.attention native is not to be had here: sdpa is taken" in text
    assert "convolution" not in text


def test_the_threads_beside_a_gpu_are_not_told_of() -> None:
    gpu = Choices(
        device="cuda",
        precision="bfloat16",
        attention="flash",
        convolution="torch",
        compile=True,
        num_threads=8,
        reason="as asked",
    )
    saved = resume.SavedState(
        config={},
        versions={},
        choices=gpu,
        world_size=1,
        draws_sha256="",
        test_sha256="",
        val_sha256=None,
        may_be_seen=[],
        gathered=resume.Gathered(started=""),
    )
    notes: list[str] = []
    resume.note_other_arithmetic(saved, replace(gpu, num_threads=4), 1, notes.append)
    assert not notes
    resume.note_other_arithmetic(saved, replace(gpu, num_threads=4, compile=False), 1, notes.append)
    assert notes == ["compile: off, was on: the same batches, but sums round otherwise"]


def test_another_source_is_said(half: Path) -> None:
    line = "smallvit's source was changed after this run began"
    edit_state(half, lambda state: state["versions"].update({SOURCE: "0123456789ab"}))
    assert line in said(TOY, half)


def test_other_data_is_refused(half: Path) -> None:
    edit_state(half, lambda state: state.update(draws_sha256="0" * 64))
    assert "was begun with other train images or draws than today's" in refused(TOY, half, SmallvitError)


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_images_to_measure_on_are_refused(half: Path, split: str) -> None:
    edit_state(half, lambda state: state.update({f"{split}_sha256": "0" * 64}))
    assert f"was begun with other {split} images than today's" in refused(TOY, half, SmallvitError)


def test_a_checkpoint_of_another_form_is_refused_and_can_be_forked_off(half: Path, tmp_path: Path) -> None:
    """As one of an earlier source, which had other fields."""
    edit_state(half, lambda state: state["gathered"].update(best_sha256=None))
    edit_state(half, lambda state: state["versions"].update({SOURCE: "0123456789ab"}))
    text = refused(TOY, half)
    assert "was saved by another source of smallvit (its state.gathered.best_sha256 is not known" in text
    assert (
        f"go on with that source, 0123456789ab by its --version, start a new run from its weights with --fork {half}, "
        in text
    )
    assert text.rstrip().endswith("to begin it again, as in a study, delete that folder")
    assert run(BRIEF, tmp_path / "fork", fork=half).config["fork"] is not None


def test_a_fork_starts_from_the_weights_and_is_another_run(half: Path, tmp_path: Path) -> None:
    forked = run(BRIEF, tmp_path / "fork", fork=half)
    assert forked.config["fork"] == weights_sha256(load_file(tmp_path / "fork" / "fork.safetensors"))
    assert forked.config_digest != BRIEF.digest()
    # Forking twice gives the same run.
    again = run(BRIEF, tmp_path / "again", fork=half)
    assert outcome(tmp_path / "again") == outcome(tmp_path / "fork")
    assert again.run_config().differences(BRIEF) == [f"fork is {forked.config['fork']}, not None"]


@pytest.mark.parametrize("alone", [False, True])
def test_a_fork_of_a_finished_run_starts_from_its_weights(alone: bool, half: Path, tmp_path: Path) -> None:
    run(TOY, half)
    origin = half
    if alone:
        (origin := tmp_path / "alone").mkdir()
        shutil.copy(half / "model.safetensors", origin)
    run(replace(BRIEF, optim=replace(BRIEF.optim, lr=1e-12)), tmp_path / "fork", fork=origin)
    before, after = (load_file(folder / "model.safetensors") for folder in (half, tmp_path / "fork"))
    for name, value in after.items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("end", ["finished", "unfinished", "killed before the record"])
def test_a_fork_whose_test_was_trained_on_is_refused(half: Path, tmp_path: Path, end: str) -> None:
    if end == "finished":
        run(TOY, half)
    if end == "killed before the record":
        (half / "model.safetensors").write_bytes(b"written first")
    other = replace(TOY, data=replace(TOY.data, split_seed=1))
    with pytest.raises(UsageError, match="test is drawn from all images, and not as it was there"):
        run(other, tmp_path / "fork", fork=half)
    assert not (tmp_path / "fork").exists()


def test_a_fork_whose_val_was_trained_on_says_so(half: Path, tmp_path: Path) -> None:
    run(TOY, half)
    run(replace(BRIEF, data=replace(TOY.data, val_fraction=0.0)), tmp_path / "all")

    def said(config: RunConfig, origin: Path) -> str:
        out = io.StringIO()
        record = run(config, tmp_path / "fork", fork=origin, console=Console(file=out, width=400), start_over=True)
        assert any(words in f"note: {note}" for note in record.dataset_notes) == (words in out.getvalue())
        return out.getvalue()

    words = "note: val may hold images that the weights to start from were trained on"
    assert words in said(BRIEF, tmp_path / "all")
    assert words in said(replace(BRIEF, data=replace(TOY.data, val_fraction=0.8)), half)
    assert words not in said(BRIEF, half)
    larger = replace(BRIEF, model=replace(TOY.model, image_size=48, position="rotary"))
    origin = tmp_path / "rotary"
    run(replace(BRIEF, model=replace(TOY.model, position="rotary")), origin)
    assert words not in said(larger, origin)
    said(BRIEF, tmp_path / "all")
    (tmp_path / "fork").rename(tmp_path / "first")
    assert words in said(BRIEF, tmp_path / "first")  # what the first one's origin saw, its record does not tell
    assert words not in said(replace(BRIEF, data=replace(TOY.data, val_fraction=0.0)), half)


@pytest.mark.parametrize("steps", [0, 4])
def test_a_resumed_fork_still_says_that_its_val_was_trained_on(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing was saved, and the run that it was forked off is gone."""
    run(replace(BRIEF, data=replace(TOY.data, val_fraction=0.0)), tmp_path / "all")
    ask_at({4}, monkeypatch)
    with pytest.raises(InterruptedRunError):
        run(BRIEF, tmp_path / "fork", fork=tmp_path / "all")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "all")
    if not steps:
        shutil.rmtree(tmp_path / "fork" / "checkpoints")
    record = run(RunConfig.load(tmp_path / "fork" / "config.json"), tmp_path / "fork")
    assert record.resumed_at_steps == ([steps] if steps else [])
    assert [note for note in record.dataset_notes if note.startswith("val may hold images")]


def test_a_fork_may_have_another_image_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images are test, at whatever size."""
    config = replace(BRIEF, model=replace(TOY.model, position="rotary"))
    ask_at({1}, monkeypatch)
    interrupted(config, tmp_path / "half")
    monkeypatch.undo()
    larger = replace(config, model=replace(config.model, image_size=48))
    assert run(larger, tmp_path / "fork", fork=tmp_path / "half").test.count == 359


def test_a_forks_average_starts_from_the_same_weights(half: Path, tmp_path: Path) -> None:
    """What is forked off again before the first step is the average, as where that step has no number."""
    checkpoint, _ = load_newest(half / "checkpoints")
    assert checkpoint is not None
    weights = checkpoint.tensors["model"]
    weights["head.weight"][:] = 3e38
    (tmp_path / "huge").mkdir()
    save_tensors(weights, tmp_path / "huge" / "model.safetensors")
    config = replace(BRIEF, train=replace(BRIEF.train, ema_decay=0.9))
    with pytest.raises(SmallvitError, match="step 0"):
        run(config, tmp_path / "fork", fork=tmp_path / "huge")
    saved, _ = load_newest(tmp_path / "fork" / "checkpoints")
    assert saved is not None
    assert all(torch.equal(value, weights[name]) for name, value in saved.tensors["average"].items())


def test_a_fork_of_an_unfinished_run_starts_from_the_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a fork of a finished one does."""
    config = replace(TOY, train=replace(TOY.train, ema_decay=0.9))
    ask_at({8}, monkeypatch)
    interrupted(config, tmp_path / "half")
    monkeypatch.undo()
    run(replace(BRIEF, train=replace(BRIEF.train, ema_decay=0.9)), tmp_path / "fork", fork=tmp_path / "half")
    checkpoint, _ = load_newest(tmp_path / "half" / "checkpoints")
    assert checkpoint is not None
    started = load_file(tmp_path / "fork" / "fork.safetensors")
    assert all(torch.equal(value, checkpoint.tensors["average"][name]) for name, value in started.items())
    assert not torch.equal(started["head.weight"], checkpoint.tensors["model"]["head.weight"])


def test_a_forked_run_resumes_to_the_bit(half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(TOY, tmp_path / "whole", fork=half)
    ask_at({4}, monkeypatch)
    with pytest.raises(InterruptedRunError):
        run(TOY, tmp_path / "parts", fork=half)
    monkeypatch.undo()
    run(RunConfig.load(tmp_path / "parts" / "config.json"), tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_the_same_command_goes_on_with_a_fork_whose_origin_was_trained_on(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(TOY, tmp_path / "whole", fork=half)
    ask_at({4}, monkeypatch)
    with pytest.raises(InterruptedRunError):
        run(TOY, tmp_path / "parts", fork=half)
    monkeypatch.undo()
    run(TOY, half)
    out = io.StringIO()
    with pytest.raises(UsageError, match=r"parts holds another run .*seed is 0, not 1"):
        run(replace(TOY, seed=1), tmp_path / "parts", fork=half)
    run(TOY, tmp_path / "parts", fork=half, console=Console(file=out, width=200))
    assert f"note: --fork {half}: has other weights by now; the run goes on that began with" in out.getvalue()
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_fork_of_another_run_does_not_go_on_with_this_one(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(replace(BRIEF, seed=1), tmp_path / "other")
    ask_at({4}, monkeypatch)
    with pytest.raises(InterruptedRunError):
        run(TOY, tmp_path / "fork", fork=half)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"fork holds another run .fork is "):
        run(TOY, tmp_path / "fork", fork=tmp_path / "other")


def test_a_fork_of_another_model_is_one_line(half: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"half: its weights are another model's: model\.embed_dim is 16, not 32$"):
        run(replace(TOY, model=replace(TOY.model, embed_dim=32)), tmp_path / "fork", fork=half)
    run(TOY, half)
    (tmp_path / "alone").mkdir()
    shutil.copy(half / "model.safetensors", tmp_path / "alone")
    first = r"cls_token is \[1, 1, 16\], not \[1, 1, 32\], pos_embed is "
    with pytest.raises(UsageError, match=rf"alone: its weights are another model's: {first}.*, \.\.\.$"):
        run(replace(TOY, model=replace(TOY.model, embed_dim=32)), tmp_path / "fork", fork=tmp_path / "alone")
    out = io.StringIO()
    other = replace(BRIEF, model=replace(TOY.model, num_heads=4))
    run(other, tmp_path / "heads", fork=half, console=Console(file=out, width=200))
    assert "note: the weights to start from are of another model: model.num_heads is 2, not 4\n" in out.getvalue()
    with pytest.raises(UsageError, match=r"holds neither model\.safetensors nor a whole checkpoint"):
        run(TOY, tmp_path / "fork2", fork=tmp_path)


def test_the_best_on_val_is_kept_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(
        TOY,
        seed=1,
        optim=replace(TOY.optim, lr=5e-2),  # too high: it does not end with its best
        evaluate=replace(TOY.evaluate, every_epochs=1),
        checkpoint=CheckpointConfig(best=True),
    )
    record = run(config, tmp_path)
    correct = [point.val.correct for point in record.curve if point.val is not None]
    assert max(correct) > correct[-1]
    last = evaluate(tmp_path, "val")
    assert (last.metrics().correct, last.temperature) == (correct[-1], record.temperature)
    best = evaluate(tmp_path, "val", weights="best")
    assert (best.metrics().correct, best.temperature, best.calibrated()) == (max(correct), None, None)
    images = torch.from_numpy(load_dataset(config.data, image_size=32).test.images[:5])
    classifier = load_classifier(tmp_path, weights="best")
    assert (classifier.temperature, load_classifier(tmp_path).temperature) == (1.0, record.temperature)
    assert not torch.equal(classifier(images), load_classifier(tmp_path)(images))
    picture = tmp_path / "pictures" / "7" / "0.png"
    picture.parent.mkdir(parents=True)
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(picture)
    (p,) = classifier.probabilities(images[:1])
    capsys.readouterr()
    assert cli.main(["predict", str(tmp_path), str(picture), "--weights", "best"]) == 0
    assert float(capsys.readouterr().out.split(",")[-1]) == pytest.approx(float(p.max()), abs=1e-4)
    assert cli.main(["evaluate", str(tmp_path), str(picture.parents[1]), "--weights", "best"]) == 0
    assert f"negative log likelihood {-math.log(p[7]):.4f} nats" in capsys.readouterr().out
    assert cli.main(["evaluate", str(tmp_path), "--split", "val", "--weights", "best"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"val accuracy {100 * best.metrics().accuracy:.2f} %")
    assert "note" not in out
    (tmp_path / "best.safetensors").replace(tmp_path / "model.safetensors")
    assert cli.main(["evaluate", str(tmp_path), "--split", "val"]) == 0
    assert f"more than another machine or version rounds; is {tmp_path}/model.safet" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"has no best\.safetensors, which a run with checkpoint\.best keeps"):
        evaluate(tmp_path, "val", weights="best")


def test_the_best_on_val_is_kept_as_the_one_who_resumes_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = replace(TOY, seed=1, evaluate=replace(TOY.evaluate, every_epochs=1))
    asking = replace(plain, checkpoint=CheckpointConfig(best=True))
    for name, before, after in (("left off", asking, plain), ("asked for later", plain, asking)):
        ask_at({10}, monkeypatch)  # after the first measurement
        interrupted(before, tmp_path / name)
        monkeypatch.undo()
        text = said(after, tmp_path / name)
        assert ("note: checkpoint.best was off so far" in text) == (after is asking)
    assert not (tmp_path / "left off" / "best.safetensors").exists()
    curve = RunRecord.load(tmp_path / "asked for later" / "record.json").curve
    first, *later = [point.val.correct for point in curve if point.val is not None]
    assert max(later) > first
    assert (tmp_path / "asked for later" / "best.safetensors").exists()


def test_measuring_and_saving_are_no_time_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second here, a save 10, a split 100."""
    seconds, predict, batch = 0.0, Session.predict, Session.batch

    def slow(call: Callable[..., Any], duration: float) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            nonlocal seconds
            seconds += duration
            return call(*arguments, **options)

        return timed

    monkeypatch.setattr(Session, "batch", slow(batch, 1.0))
    monkeypatch.setattr(Session, "predict", slow(predict, 100.0))
    monkeypatch.setattr("smallvit.training.save_checkpoint", slow(lambda *_, **__: None, 10.0))
    monkeypatch.setattr("smallvit.training.time", SimpleNamespace(perf_counter=lambda: seconds))
    record = run(replace(TOY, checkpoint=CheckpointConfig(every_seconds=0.0)), tmp_path)
    assert seconds > STEPS + 10 * (STEPS - 1)
    assert (record.train_seconds, record.evaluate_seconds) == (STEPS, 300.0)  # val twice, test once
    assert [point.seconds for point in record.curve] == [2 * STEPS_PER_EPOCH, STEPS]
    assert (record.first_step_seconds, record.images_per_second) == (1.0, 64.0)


def test_an_evaluation_that_is_interrupted_is_no_time_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forward pass of the last evaluation takes 100 s here, after which the run is asked to end."""
    seconds, evaluate = 0.0, Session.predict

    def interrupted(self: Session, split: str, check: Callable[[], None] | None = None) -> Any:
        nonlocal seconds
        assert check is not None
        if split == "test":
            seconds += 100.0
            stopped.append(True)
            check()
        return evaluate(self, split, check)

    stopped: list[bool] = []
    monkeypatch.setattr(Stop, "asked", lambda self, seconds_needed=0.0: bool(stopped))
    monkeypatch.setattr(Session, "predict", interrupted)
    monkeypatch.setattr("smallvit.training.time", SimpleNamespace(perf_counter=lambda: seconds))
    with pytest.raises(InterruptedRunError):
        run(TOY, tmp_path)
    checkpoint, _ = load_newest(tmp_path / "checkpoints")
    assert checkpoint is not None
    gathered = checkpoint.state["gathered"]
    assert (gathered["train_seconds"], gathered["evaluate_seconds"]) == (0.0, 100.0)


def test_a_fork_says_which_newer_checkpoints_it_passes_over(half: Path, tmp_path: Path) -> None:
    (half / "checkpoints" / "step-00000009" / "model.safetensors").write_bytes(b"cut")
    out = io.StringIO()
    run(BRIEF, tmp_path / "fork", fork=half, console=Console(file=out, width=400))
    words = rf"^note: --fork {re.escape(str(half))}: passed over .*step-00000009.* model.safetensors has 3 bytes"
    assert re.search(words, out.getvalue())


def test_an_unfinished_run_that_held_out_no_val_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fraction in (("all", 0.0), ("some", 0.1)):
        ask_at({4}, monkeypatch)
        config = replace(TOY, data=replace(TOY.data, val_fraction=fraction))
        interrupted(config, tmp_path / name)
    assert read_origin(tmp_path / "all").trained_on_val
    assert not read_origin(tmp_path / "some").trained_on_val


def test_a_fork_of_ones_own_images_that_saved_nothing_needs_its_origin_again() -> None:
    """Images may have come or gone, and test be drawn from them anew."""
    dataset = load_dataset(TOY.data)
    mine = replace(TOY, data=DataConfig(dataset="folder", root=Path("images")), fork="0" * 64)
    with pytest.raises(UsageError, match="give its own command again, with --fork and --out"):
        require_unseen_test(None, mine, dataset)
    require_unseen_test(None, replace(mine, fork=None), dataset)
    require_unseen_test(None, replace(TOY, fork="0" * 64), dataset)


@pytest.mark.parametrize(("root", "same"), [("images", True), ("~/images", True), ("elsewhere", False)])
def test_a_fork_knows_the_folder_of_its_images_by_any_name(
    root: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = replace(TOY, data=DataConfig(dataset="folder", root=Path(root)))
    theirs = replace(TOY, data=DataConfig(dataset="folder", root=tmp_path / "images"))
    origin = Origin(folder=tmp_path, weights={}, config=theirs, test_sha256="0" * 64)
    drawn = load_dataset(TOY.data)  # whose test is held out of train, as that of one folder is
    with pytest.raises(UsageError, match="test is drawn from all images") if same else nullcontext():
        require_unseen_test(origin, mine, drawn)
    assert may_be_seen(origin, mine, drawn) == (["test"] if same else ["val", "test"])
    forked = replace(origin, config=replace(theirs, fork="0" * 64), test_sha256=split.digest(drawn.test))
    assert may_be_seen(forked, mine, drawn) == ["val", "test"]
    assert may_be_seen(replace(forked, config=replace(TOY, fork="0" * 64)), mine, drawn) == ["val", "test"]
    assert may_be_seen(replace(forked, config=TOY), mine, drawn) == []
    assert may_be_seen(replace(forked, config=None), mine, drawn) == ["val", "test"]
    held = replace(origin, test_sha256=split.digest(drawn.test), val_sha256=split.digest(drawn.val))
    assert may_be_seen(held, mine, drawn) == []


@pytest.mark.parametrize(
    ("dataset", "test_size", "unknown"),
    [("digits", 0, ["val", "test"]), ("cifar10", 10_000, ["val"]), ("folder", 10_000, ["val", "test"])],
)
def test_weights_of_unknown_origin_may_have_seen_val_and_a_test_that_is_drawn_or_ones_own(
    dataset: str, test_size: int, unknown: list[str], tmp_path: Path
) -> None:
    drawn = load_dataset(TOY.data)
    loaded = replace(drawn, spec=replace(drawn.spec, test_size=test_size))
    root = tmp_path if dataset == "folder" else None
    mine = replace(TOY, data=replace(TOY.data, dataset=dataset, root=root))
    weights_alone = Origin(folder=tmp_path, weights={}, config=None)
    assert may_be_seen(weights_alone, mine, loaded) == unknown
    theirs = replace(TOY, data=replace(TOY.data, dataset="cifar100"))
    assert may_be_seen(replace(weights_alone, config=theirs), mine, loaded) == []
    forked = replace(theirs, fork="0" * 64)
    assert may_be_seen(replace(weights_alone, config=forked), mine, loaded) == unknown
    assert may_be_seen(weights_alone, mine, replace(loaded, val=None)) == unknown[1:]


DIGITS = tuple("0123456789")
NEW_HEAD = "the last layer is new: the weights to start from are of other classes"


def test_a_fork_whose_weights_were_damaged_since_is_refused(half: Path, tmp_path: Path) -> None:
    weights = read_origin(half).weights
    save_tensors(weights, tmp_path / "weights")
    data = bytearray((tmp_path / "weights").read_bytes())
    data[-5] ^= 1
    (tmp_path / "weights").write_bytes(bytes(data))
    with pytest.raises(SmallvitError, match="is not what this run was forked off, or was damaged"):
        kept_weights(tmp_path / "weights", replace(TOY, fork=weights_sha256(weights)))


def test_a_fork_of_other_classes_has_a_new_last_layer(half: Path, tmp_path: Path) -> None:
    origin = read_origin(half)
    weights = origin.weights
    model = VisionTransformer(replace(TOY.model, num_classes=2), generator=torch.Generator().manual_seed(0))
    drawn = {name: value.clone() for name, value in model.head.state_dict().items()}
    said = take_weights(model, origin, TOY, tuple("ab"))
    assert said == [NEW_HEAD]
    for name, value in model.state_dict().items():
        wanted = drawn[name.removeprefix("head.")] if name.startswith("head.") else weights[name]
        assert torch.equal(value, wanted), name
    wider = {**weights, "head.weight": torch.zeros(10, 3)}
    with pytest.raises(UsageError, match="its weights are another model's"):
        take_weights(model, replace(origin, weights=wider), TOY, DIGITS)
    (tmp_path / "three").mkdir()
    three = {name: value[:3] if name.startswith("head.") else value for name, value in weights.items()}
    save_tensors(three, tmp_path / "three" / "model.safetensors")
    out = io.StringIO()
    run(BRIEF, tmp_path / "fork", fork=tmp_path / "three", console=Console(file=out, width=200))
    assert f"note: {NEW_HEAD}\n" in out.getvalue()


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("names", [("9", "new", "0"), ("3", "1"), tuple("9876543210")])
def test_a_fork_keeps_of_the_last_layer_the_rows_of_its_classes(
    head: Literal["linear", "mlp"], names: tuple[str, ...], tmp_path: Path
) -> None:
    config = replace(TOY, model=replace(TOY.model, head=head, num_classes=10))
    weights = VisionTransformer(config.model, generator=torch.Generator().manual_seed(1)).state_dict()
    origin = Origin(folder=tmp_path, weights=weights, config=config, class_names=DIGITS)
    model = VisionTransformer(replace(config.model, num_classes=len(names)), generator=torch.Generator().manual_seed(0))
    drawn = {name: value.clone() for name, value in model.state_dict().items()}
    known = sum(name in DIGITS for name in names)
    (note,) = take_weights(model, origin, config, names)
    assert note == f"the last layer knows {known} of the {len(names)} classes by the weights to start from, of 10"
    for name in ("head.weight", "head.bias") if head == "linear" else ("head.fc2.weight", "head.fc2.bias"):
        for row, of in enumerate(names):
            wanted = weights[name][int(of)] if of in DIGITS else drawn[name][row]
            assert torch.equal(model.state_dict()[name][row], wanted)


def test_a_last_layer_that_reads_something_else_is_new_as_a_whole(tmp_path: Path) -> None:
    config = replace(TOY, model=replace(TOY.model, num_classes=10))
    weights = VisionTransformer(config.model, generator=torch.Generator().manual_seed(1)).state_dict()
    origin = Origin(folder=tmp_path, weights=weights, config=config, class_names=DIGITS)
    wider = replace(config.model, num_classes=11, pooling="cls+mean")
    model = VisionTransformer(wider, generator=torch.Generator().manual_seed(0))
    drawn = model.head.bias.clone()
    assert take_weights(model, origin, config, (*DIGITS, "new")) == [NEW_HEAD]
    assert torch.equal(model.head.bias, drawn)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize(("theirs", "new"), [(DIGITS, False), (tuple("abcdefghij"), True), (None, False)])
def test_a_fork_of_as_many_other_classes_has_a_new_last_layer(
    head: Literal["linear", "mlp"], theirs: tuple[str, ...] | None, new: bool, tmp_path: Path
) -> None:
    config = replace(TOY, model=replace(TOY.model, head=head, num_classes=10))
    weights = VisionTransformer(config.model, generator=torch.Generator().manual_seed(1)).state_dict()
    origin = Origin(folder=tmp_path, weights=weights, config=config, class_names=theirs)
    keep_weights(origin, tmp_path / "weights")
    kept = kept_weights(tmp_path / "weights", replace(config, fork=weights_sha256(weights)))
    assert kept.class_names == theirs
    for given in (origin, kept):
        model = VisionTransformer(config.model, generator=torch.Generator().manual_seed(0))
        drawn = {name: value.clone() for name, value in model.state_dict().items()}
        assert take_weights(model, given, config, DIGITS) == ([NEW_HEAD] if new else [])
        last = ("head.weight", "head.bias") if head == "linear" else ("head.fc2.weight", "head.fc2.bias")
        for name, value in model.state_dict().items():
            assert torch.equal(value, drawn[name] if new and name in last else weights[name]), name


def test_a_fork_of_images_of_another_size_has_interpolated_positions(half: Path, tmp_path: Path) -> None:
    origin, larger = read_origin(half), replace(TOY, model=replace(TOY.model, image_size=64))
    out = io.StringIO()
    with pytest.raises(InterruptedRunError):
        run(larger, tmp_path / "fork", fork=half, console=Console(file=out, width=200), max_seconds=1e-9)
    assert "note: the positions are interpolated: the weights to start from are of images of another size" in (
        out.getvalue()
    )
    model = VisionTransformer(replace(larger.model, num_classes=10), generator=torch.Generator().manual_seed(0))
    assert take_weights(model, origin, larger, DIGITS) != []
    theirs, mine = origin.weights["pos_embed"], model.state_dict()["pos_embed"]
    assert (theirs.shape[1], mine.shape[1]) == (1 + 2 * 2, 1 + 4 * 4)
    assert torch.equal(mine[:, 0], theirs[:, 0])
    corners = mine[0, 1:].unflatten(0, (4, 4))[[0, 0, -1, -1], [0, -1, 0, -1]]  # each beyond the pixel that it is of
    assert torch.nn.functional.cosine_similarity(corners, theirs[0, 1:]).min() > 0.9
    assert all(torch.equal(v, origin.weights[k]) for k, v in model.state_dict().items() if k != "pos_embed")
    other = VisionTransformer(model.config, generator=torch.Generator().manual_seed(0))
    drawn = other.head.weight.detach().clone()
    both = take_weights(other, replace(origin, class_names=tuple("abcdefghij")), larger, DIGITS)
    assert [note.partition(":")[0] for note in both] == ["the last layer is new", "the positions are interpolated"]
    assert torch.equal(other.head.weight, drawn)
    assert torch.equal(other.state_dict()["pos_embed"], mine)
    assert torch.equal(other.norm.weight, origin.weights["norm.weight"])


@pytest.mark.parametrize(
    ("before", "position"), [("rotary", "rotary"), ("sincos", "sincos"), ("learned", "sincos"), ("rotary", "sincos")]
)
def test_positions_that_are_not_learned_are_neither_interpolated_nor_taken(
    before: Literal["learned", "rotary", "sincos"], position: Literal["rotary", "sincos"], tmp_path: Path
) -> None:
    small = replace(TOY.model, position=before, num_classes=10)
    weights = VisionTransformer(small, generator=torch.Generator().manual_seed(1)).state_dict()
    origin = Origin(folder=tmp_path, weights=weights, config=replace(TOY, model=small), class_names=DIGITS)
    large = replace(small, image_size=64, position=position)
    model = VisionTransformer(large)
    fixed = model.state_dict() if position == "sincos" else {}
    expected = {**weights, **{name: fixed[name].clone() for name in fixed if name == "pos_embed"}}
    assert take_weights(model, origin, replace(TOY, model=large), DIGITS) == []
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())


def test_the_classes_of_a_finished_run_are_those_of_its_record(tmp_path: Path) -> None:
    record = run(BRIEF, tmp_path / "run")
    assert read_origin(tmp_path / "run").class_names == tuple(record.class_names)


def test_the_time_that_the_next_step_needs_is_that_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of an evaluation before it, nor of a compilation: a step takes a second here, each of those 100."""
    needed, seconds = list[float](), 0.0

    def asked(self: Stop, seconds_needed: float = 0.0) -> bool:
        needed.append(seconds_needed)
        return False

    def slow(call: Callable[..., Any], duration: float) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            nonlocal seconds
            result = call(*arguments)
            seconds += duration
            return result

        return timed

    monkeypatch.setattr(Stop, "asked", asked)
    for name, duration in (("batch", 1.0), ("predict", 100.0), ("learner", 100.0)):
        monkeypatch.setattr(Session, name, slow(getattr(Session, name), duration))
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    monkeypatch.setattr("smallvit.training.time", SimpleNamespace(perf_counter=lambda: seconds))
    run(replace(TOY, device=replace(TOY.device, compile="on")), tmp_path)
    assert needed == [0.0, *11 * [2.0], 0.0, *5 * [2.0], 0.0, 0.0]  # the passes of the evaluations themselves take none


def test_what_comes_next_is_to_end_before_the_time_is_over() -> None:
    assert Stop(100.0).asked(101.0)
    assert not Stop(100.0).asked(90.0)


def test_checkpoints_change_nothing(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    run(replace(TOY, checkpoint=CheckpointConfig(every_seconds=0.0)), tmp_path)
    found = outcome(tmp_path)
    for part in (found["config"], found["record"]["config"]):
        part["checkpoint"]["every_seconds"] = TOY.checkpoint.every_seconds
    assert found == undisturbed


def test_the_committed_run_that_was_killed_three_times_is_the_undisturbed_one() -> None:
    results = Path(__file__).parents[1] / "results"
    whole = RunRecord.load(results / "runs" / "augment-all" / "seed0.json")
    killed = RunRecord.load(results / "reliability" / "augment-all-seed0-killed.json")
    assert whole.train_seconds >= 15 * 60
    assert (whole.resumed_at_steps, killed.resumed_at_steps) == ([], [472, 955])
    ours, theirs = ({**without_clocks(record.to_json()), "config": None} for record in (killed, whole))
    assert ours == theirs
    assert killed.run_config().differences(whole.run_config()) == []
    lines = [
        [without_clocks(json.loads(line)) for line in path.read_text().splitlines()]
        for path in (
            results / "runs" / "augment-all" / "seed0.metrics.jsonl",
            results / "reliability" / "augment-all-seed0-killed.metrics.jsonl",
        )
    ]
    assert lines[0] == lines[1]


def test_every_seed_and_step_skips_other_branches() -> None:
    config = replace(TOY, model=replace(TOY.model, drop_path_rate=0.5)).resolve(10)
    dataset = load_dataset(TOY.data)
    sessions = [Session(replace(config, seed=seed), dataset) for seed in (0, 1)]
    scales = [session.batch(step).branch_scale for session in sessions for step in (0, 1)]
    assert len({tuple(scale.flatten().tolist()) for scale in scales if scale is not None}) == 4


def test_the_digest_of_draws_is_of_images_labels_and_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    session, true = Session(TOY.resolve(10), load_dataset(TOY.data)), resume.step_draws
    split, row = session.splits["train"], session.order.batch(1)[-1]
    found = [resume.draws_sha256(session, 1)]
    for values in (split.images[row], split.labels[row]):  # views, which are changed in place
        values += 1
        found.append(resume.draws_sha256(session, 1))
        values -= 1
    assert resume.draws_sha256(session, 1) == found[0]
    monkeypatch.setattr(resume, "step_draws", lambda config, step, *rest: true(config, step + 1, *rest))
    found.append(resume.draws_sha256(session, 1))
    assert len(set(found)) == 4


def test_the_time_that_a_save_took_is_kept_for_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between steps, and between the passes of an evaluation, which take no time here; a step takes a second."""
    needed, seconds, where = dict[str, set[float]](), 0.0, "step"
    predict, true = Session.predict, Session.batch

    def batch(self: Session, step: int) -> Any:
        nonlocal seconds
        seconds += 1.0
        return true(self, step)

    def asked(self: Stop, seconds_needed: float = 0.0) -> bool:
        needed.setdefault(where, set()).add(seconds_needed)
        return False

    def save(*_: Any, **__: Any) -> None:
        nonlocal seconds
        seconds += 100.0

    def noted(*arguments: Any) -> Any:
        nonlocal where
        where = "evaluation"
        logits = predict(*arguments)
        where = "step"
        return logits

    monkeypatch.setattr(Stop, "asked", asked)
    monkeypatch.setattr(Session, "batch", batch)
    monkeypatch.setattr(Session, "predict", noted)
    monkeypatch.setattr("smallvit.training.save_checkpoint", save)
    monkeypatch.setattr("smallvit.training.time", SimpleNamespace(perf_counter=lambda: seconds))
    run(replace(TOY, checkpoint=CheckpointConfig(every_seconds=0.0)), tmp_path)
    assert needed == {"step": {2.0, 102.0}, "evaluation": {100.0}}


def test_a_run_saves_as_often_as_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second here."""
    saved, seconds, true = list[int](), 0.0, Session.batch

    def batch(self: Session, step: int) -> Any:
        nonlocal seconds
        seconds += 1.0
        return true(self, step)

    monkeypatch.setattr(Session, "batch", batch)
    monkeypatch.setattr("smallvit.training.save_checkpoint", lambda _, checkpoint: saved.append(checkpoint.step))
    monkeypatch.setattr("smallvit.training.time", SimpleNamespace(perf_counter=lambda: seconds))
    run(replace(TOY, checkpoint=CheckpointConfig(every_seconds=5.0)), tmp_path)
    assert saved == [5, 10, 15]


def test_of_equals_on_val_the_first_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    predict = Session.predict

    def zeros(self: Session, split: str, check: Callable[[], None] | None = None) -> torch.Tensor:
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return torch.zeros_like(predict(self, split, check))

    monkeypatch.setattr(Session, "predict", zeros)
    run(replace(TOY, evaluate=replace(TOY.evaluate, every_epochs=1), checkpoint=CheckpointConfig(best=True)), tmp_path)
    best = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(best[name], value) for name, value in seen[0].items())
    assert not torch.equal(best["head.weight"], seen[1]["head.weight"])
