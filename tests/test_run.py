"""Whole runs on the digits, small enough for a test."""

import gc
import io
import json
import math
import os
import pickle
import re
import shutil
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from outcomes import assert_measured
from smallvit import run as module
from smallvit.augment.config import AugmentConfig
from smallvit.augment.pipeline import normalise
from smallvit.classify import load_classifier
from smallvit.config import EvaluateConfig, RunConfig
from smallvit.data.config import DataConfig
from smallvit.data.store import load_dataset
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.evaluate import fit_temperature, measure
from smallvit.files import write_atomically
from smallvit.lock import LOCK, OWNER
from smallvit.measured import evaluate
from smallvit.model.config import ModelConfig
from smallvit.model.embed import image_patches
from smallvit.model.vit import count_macs
from smallvit.progress import RunProgress, duration
from smallvit.record import RunRecord
from smallvit.report.compare import compare
from smallvit.report.page import write_page
from smallvit.report.records import too_good
from smallvit.rng import torch_generator
from smallvit.run import run
from smallvit.run_folder import CHECKPOINTS, CONFIG, METRICS, RECORD, claimed, delete_checkpoints, delete_run
from smallvit.schema import RECORD_SCHEMA
from smallvit.session import Session
from smallvit.step_batch import step_draws
from smallvit.stop import InterruptedRunError
from smallvit.study.finished import OtherPicturesError
from smallvit.study.forecast import Forecast
from smallvit.train.config import CheckpointConfig, OptimConfig, Optimizer, TrainConfig
from smallvit.train.distributed import RankLostError, World
from smallvit.weights import BEST

TINY = RunConfig(
    recipe="tiny",
    data=DataConfig(dataset="digits"),
    augment=AugmentConfig(horizontal_flip=0.0, crop_padding=2),
    model=ModelConfig(patch_size=16, embed_dim=16, depth=2, num_heads=2),
    optim=OptimConfig(lr=1e-2, warmup_epochs=0.5),
    train=TrainConfig(epochs=3, passes_per_epoch=2, batch_size=50),
    evaluate=EvaluateConfig(every_epochs=2),
    device=DeviceConfig(device="cpu", precision="float32", num_threads=1),
)
NUM_TRAIN, NUM_VAL, NUM_TEST = 1295, 143, 359
STEPS = 2 * NUM_TRAIN // 50  # of an epoch


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord, str]:
    """One finished run: its folder, its record, what it said."""
    folder = tmp_path_factory.mktemp("runs") / "a" / "tiny"
    console = Console(record=True, width=200, file=(folder.parents[1] / "said").open("w"))
    record = run(TINY, folder, console=console)
    console.file.close()
    return folder, record, console.export_text()


def short(**changes: Any) -> RunConfig:
    return replace(TINY, train=TrainConfig(epochs=1, passes_per_epoch=1, batch_size=100), **changes)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> str:
    return sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_folder_holds_what_a_run_leaves_and_nothing_temporary(finished: tuple[Path, RunRecord, str]) -> None:
    folder, _, _ = finished
    expected = {".lock", "config.json", "metrics.jsonl", "model.safetensors", "test.safetensors", "record.json"}
    assert {path.name for path in folder.iterdir()} == expected


def test_the_record_agrees_with_itself(finished: tuple[Path, RunRecord, str]) -> None:
    folder, record, _ = finished
    config = record.run_config()
    assert config == TINY.resolve(10)
    assert record.config_digest == config.digest() == TINY.digest()
    assert record.num_train == NUM_TRAIN
    assert record.num_parameters == sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert record.num_macs == count_macs(config.model)
    assert record.class_names == list("0123456789")
    assert [point.epoch for point in record.curve] == [2, 3]
    assert [point.images_seen for point in record.curve] == [2 * STEPS * 50, 3 * STEPS * 50]
    last = record.curve[-1]
    assert record.val == last.val
    assert record.test == last.test
    assert record.val is not None
    assert (record.val.count, record.test.count) == (NUM_VAL, NUM_TEST)
    assert sum(map(sum, record.test_confusion)) == NUM_TEST
    assert sum(record.test_confusion[i][i] for i in range(10)) == record.test.correct
    assert record.curve[0].train_loss > last.train_loss
    assert record.test.accuracy > 0.4
    assert last.seconds == record.train_seconds > record.first_step_seconds > 0
    assert record.evaluate_seconds > 0
    left = record.train_seconds - record.first_step_seconds
    assert record.images_per_second == pytest.approx((3 * STEPS - 1) * 50 / left)
    assert (record.choices.device, record.choices.precision, record.choices.num_threads) == ("cpu", "float32", 1)
    assert {"python", "smallvit", "torch", "numpy"} <= record.versions.keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.started)


def test_metrics_are_whole_lines_that_agree_with_the_curve(finished: tuple[Path, RunRecord, str]) -> None:
    folder, record, _ = finished
    rows = rows_of(folder)
    steps, points = [row for row in rows if "step" in row], [row for row in rows if "epoch" in row]
    expected = {0, 3 * STEPS - 1} | {s for s in range(3 * STEPS) if (s + 1) % 20 == 0 or (s + 1) % STEPS == 0}
    assert [row["step"] for row in steps] == sorted(expected)
    assert [row["seconds"] for row in steps] == sorted(row["seconds"] for row in steps)
    assert all(row.keys() == {"step", "loss", "gradient_norm", "lr", "seconds", "images_per_second"} for row in steps)
    assert points == record.to_json()["curve"]
    assert max(row["lr"] for row in steps) <= TINY.optim.lr


def test_the_record_loads_back_equal_and_an_edited_one_is_refused(
    finished: tuple[Path, RunRecord, str], tmp_path: Path
) -> None:
    folder, record, _ = finished
    assert RunRecord.load(folder / "record.json") == record
    text, path = (folder / "record.json").read_text(), tmp_path / "record.json"
    correct = f'"correct": {record.test.correct},'
    edits = {
        text.replace(correct, f'"correct": {NUM_TEST},'): "was changed after it was written",
        text.replace(correct, '"correct": NaN,'): "NaN is not a JSON number",
        text.replace(f'"schema": {RECORD_SCHEMA}', '"schema": 99', 1): "schema",
        re.sub(r',\n "sha256": "[0-9a-f]{64}"', "", text): "was changed after it was written",
        text[: len(text) // 2]: "not a readable record",
        "[]": "is no record of a run",
    }
    assert len(edits | {text: ""}) == 7
    for edited, expected in edits.items():
        path.write_text(edited)
        with pytest.raises(SmallvitError, match=expected) as caught:
            RunRecord.load(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_what_is_said(finished: tuple[Path, RunRecord, str]) -> None:
    _, record, said = finished
    assert "the run is short" not in said, "these are not pictures of somebody's own"
    assert "tiny on digits (1,295 train, 143 val, 359 test images of 32 x 32)" in said
    why = r"as asked; \w+ attention measured [\d.]+ times \w+'s speed, [\d.]+ times \w+'s speed"
    assert re.search(rf"cpu with 1 thread, float32 \({why}\), {record.choices.attention} attention, not compiled", said)
    assert re.search(r"about \d+ s of training at [\d,]+ images/s", said)
    assert f"epoch 3/3  loss {record.curve[-1].train_loss:.3f}  val" in said
    assert f" %  test {100 * record.test.accuracy:.2f} %  " in said


def test_predictions_are_those_that_were_counted(finished: tuple[Path, RunRecord, str]) -> None:
    folder, record, _ = finished
    saved = load_file(folder / "test.safetensors")
    hit = saved["logits"].argmax(-1) == saved["labels"]
    assert int(hit.sum()) == record.test.correct
    assert not hit[saved["mistakes"]].any()
    assert record.temperature is not None
    confidence = (saved["logits"] / record.temperature).softmax(-1).amax(-1)
    assert confidence[saved["mistakes"]].tolist() == sorted(confidence[~hit].tolist(), reverse=True)[:24]
    assert saved["mistake_images"].shape == (len(saved["mistakes"]), 3, 32, 32)


def test_evaluate_finds_what_the_record_says(finished: tuple[Path, RunRecord, str]) -> None:
    folder, record, _ = finished
    for split, expected in (("test", record.test), ("val", record.val)):
        assert evaluate(folder, split).metrics() == expected


def test_a_time_is_refused_where_torchrun_would_begin_the_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(UsageError, match="--max-restarts begins it again: leave one out"):
        run(TINY, tmp_path, max_seconds=100.0)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    for options in ({}, {"fork": tmp_path / ("x" * 300)}):
        with pytest.raises(SmallvitError, match="File name too long"):
            run(TINY, tmp_path / ("x" * 300 if not options else "run"), **options)


@pytest.mark.parametrize("seconds", [math.nan, -1.0])
def test_a_time_that_is_none_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(UsageError, match="max_seconds is "):
        run(TINY, tmp_path, max_seconds=seconds)
    assert not any(tmp_path.iterdir())


def test_the_temperature_is_fitted_on_val_alone(finished: tuple[Path, RunRecord, str]) -> None:
    folder, record, _ = finished
    dataset = load_dataset(TINY.data)
    assert dataset.val is not None
    val = load_classifier(folder)(torch.from_numpy(dataset.val.images.copy()))
    assert record.temperature == pytest.approx(fit_temperature(val, torch.tensor(dataset.val.labels)), rel=1e-4)
    test = load_file(folder / "test.safetensors")
    assert record.test_calibrated == measure(test["logits"].double() / record.temperature, test["labels"])
    assert record.test_calibrated != record.test


def test_a_record_whose_config_is_another_runs_is_refused(
    finished: tuple[Path, RunRecord, str], tmp_path: Path
) -> None:
    """As one is after a migration that overwrites what it finds: its weights would be run as another model."""
    folder, record, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    model = {**record.config["model"], "num_heads": 4}
    replace(record, config={**record.config, "model": model}).save(tmp_path / "run" / "record.json")
    with pytest.raises(SmallvitError, match=r"record\.json: config_digest is not that of its config"):
        evaluate(tmp_path / "run", "test")


def test_evaluate_rounds_as_the_run_did_whatever_auto_would_choose_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"float32": 1.0, "bfloat16": 0.5}
    monkeypatch.setattr("smallvit.device.choose._matmul_seconds", lambda *shape: tuple(seconds.values()))
    config = short(device=DeviceConfig(device="cpu", num_threads=1))
    record = run(config, tmp_path)
    assert record.choices.precision == "bfloat16"
    seconds["bfloat16"] = 2.0
    assert_measured(evaluate(tmp_path, "test"), record)


def test_a_run_of_a_gpu_is_measured_on_a_cpu(finished: tuple[Path, RunRecord, str], tmp_path: Path) -> None:
    folder, record, _ = finished
    shutil.copy(folder / "model.safetensors", tmp_path)
    device = {**record.config["device"], "device": "cuda", "cuda_graphs": "on"}
    choices = replace(record.choices, device="cuda", attention="flash")
    replace(record, config={**record.config, "device": device}, choices=choices).save(tmp_path / "record.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        found = evaluate(tmp_path, "test").metrics()
    assert found.count == record.test.count
    assert abs(found.correct - record.test.correct) <= 2  # by another attention


def test_a_run_of_a_cpu_is_measured_on_one_where_there_is_a_gpu(
    finished: tuple[Path, RunRecord, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record, _ = finished
    shutil.copy(folder / "model.safetensors", tmp_path)
    device = {**record.config["device"], "device": "auto"}
    replace(record, config={**record.config, "device": device}).save(tmp_path / "record.json")
    monkeypatch.setattr("smallvit.device.choose.device_of", lambda config: config.device.replace("auto", "cuda"))
    assert_measured(evaluate(tmp_path, "test"), record)


def test_evaluate_refuses_data_that_are_not_the_runs(tmp_path: Path) -> None:
    """Else images that it was trained on could be among those that it is measured on, or labels mean other classes."""
    generator = np.random.default_rng(0)

    def add(name: str, class_name: str) -> None:
        path = tmp_path / "images" / class_name / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)

    for i in range(40):
        add(f"{i}", "cat" if i % 2 else "dog")
    images = tmp_path / "images"
    model = ModelConfig(image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    data = DataConfig(dataset="folder", root=images, cache=tmp_path / "cache")
    config = replace(TINY, data=data, model=model, train=TrainConfig(epochs=1, passes_per_epoch=1, batch_size=8))
    for inside in (images, images / "cat" / "run"):
        with pytest.raises(UsageError, match=r"it lies among the images of data.root, .*; name another folder"):
            run(config, inside)
    folder = tmp_path / "run"
    with pytest.raises(UsageError, match=r"run is not there$"):
        evaluate(folder, "test")
    console = Console(record=True, width=200, file=io.StringIO())
    record = run(config, folder, console=console)
    assert "note: the run is short, 3 steps: for few pictures consider --scale 334\n" in console.export_text()
    assert_measured(evaluate(folder, "test"), record)
    moved = images.rename(tmp_path / "moved")
    assert evaluate(folder, "val", moved).metrics() == record.val

    def refused() -> str:
        with pytest.raises(SmallvitError, match=r"was measured on other data: other .*; put the data back") as caught:
            evaluate(folder, "test", moved)
        return str(caught.value)

    (moved / "dog").rename(moved / "bird")
    assert "other classes, test images, val images, train images ('bird' is new, 'dog' is gone);" in refused()
    (moved / "bird").rename(moved / "dog")
    shutil.copytree(moved / "dog", moved / "wolf")
    line = "train images ('wolf' is new, train has 42, had 28, test has 12, had 8);"
    assert line in refused()
    shutil.rmtree(moved / "wolf")
    moved.rename(images)
    add("one more", "cat")
    images.rename(moved)
    assert "other test images, " in refused()


def test_test_is_read_once_unless_its_curve_is_asked_for(finished: tuple[Path, RunRecord, str], tmp_path: Path) -> None:
    _, once, _ = finished
    assert once.test_read == "once, at the last epoch"
    assert [point.test is None for point in once.curve] == [True, False]
    along = run(replace(TINY, evaluate=EvaluateConfig(every_epochs=1, test_curve=True)), tmp_path / "along")
    assert along.test_read == "along the curve"
    assert [point.test is None for point in along.curve] == [False, False, False]
    # Measuring more often changes nothing of the training.
    assert along.test == once.test
    assert along.config_digest != once.config_digest


def test_the_seed_decides_order_draws_flips_and_first_weights_each() -> None:
    config = replace(TINY, augment=AugmentConfig(flip="alternating")).resolve(10)
    data, indices = load_dataset(TINY.data), torch.arange(64)
    one, other = (Session(replace(config, seed=seed), data) for seed in (0, 1))
    first, second = (step_draws(each.config, 0, indices, indices * 0).flip_crop for each in (one, other))
    assert first is not None
    assert second is not None
    found = {
        "order": (one.order.batch(0), other.order.batch(0)),
        "crops": (first.offset, second.offset),
        "flips": (first.flip, second.flip),
        "weights": (one.model.state_dict()["head.weight"], other.model.state_dict()["head.weight"]),
    }
    assert [name for name, (a, b) in found.items() if torch.equal(a, b)] == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_muon_multiplies_in_the_runs_precision(precision: Literal["float32", "bfloat16"]) -> None:
    optim, device = OptimConfig(optimizer="muon", warmup_epochs=0.5), replace(TINY.device, precision=precision)
    config = replace(TINY, optim=optim, device=device).resolve(10)
    muon, _ = Session(config, load_dataset(TINY.data)).optimizers()
    assert muon._dtype == getattr(torch, precision)  # pyright: ignore[reportAttributeAccessIssue]


def test_rates_and_lengths_are_the_scaled_ones(tmp_path: Path) -> None:
    """Half of 4 epochs with 2 of warm-up: of 2 steps each, in batches of twice 256 images."""
    config = replace(
        TINY,
        scale=0.5,
        optim=OptimConfig(lr=1e-3, lr_scaling="linear", warmup_epochs=2.0),
        train=TrainConfig(epochs=4, passes_per_epoch=1, batch_size=512),
    )
    record = run(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["lr"] for row in rows if "step" in row}
    assert rates == pytest.approx({0: 1e-3, 1: 2e-3, 3: 5e-4})  # 1/2 and 2/2 of the rise; cos 120 degrees
    assert [point.epoch for point in record.curve] == [1, 2]


def test_what_the_caller_has_torch_do_changes_nothing(tmp_path: Path) -> None:
    run(short(), tmp_path / "one")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        run(short(), tmp_path / "two")
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_an_ended_run_is_no_longer_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even until Python next looks for cycles: many runs in a process would hold as many data sets."""
    sessions: list[weakref.ref[Session]] = []

    class Watched(Session):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            sessions.append(weakref.ref(self))

    monkeypatch.setattr(module, "Session", Watched)
    gc.collect()
    gc.disable()
    try:
        run(short(), tmp_path)
        assert [session() for session in sessions] == [None]
    finally:
        gc.enable()


def test_of_less_than_an_epoch_fewer_passes_are_taken(tmp_path: Path) -> None:
    config = replace(TINY, scale=0.25, train=TrainConfig(epochs=2, passes_per_epoch=4, batch_size=500))
    assert [point.images_seen for point in run(config, tmp_path).curve] == [2500]  # of 2 x 1,295


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_every_optimiser_lowers_the_loss(name: Optimizer, tmp_path: Path) -> None:
    rate = {"lion": 3e-3, "lamb": 0.1}.get(name, 1e-2)  # LAMB's is a share of the weights' size, which are small yet
    optim = OptimConfig(optimizer=name, lr=rate, weight_decay=1e-3, warmup_epochs=0.0)
    record = run(replace(short(optim=optim), train=TrainConfig(epochs=1, passes_per_epoch=2, batch_size=50)), tmp_path)
    losses = [row["loss"] for row in rows_of(tmp_path) if "step" in row]
    assert losses[-1] < losses[0] - (0.2 if name == "lamb" else 0.3)
    assert record.test.negative_log_likelihood < math.log(10) - 0.1


def test_bfloat16_on_a_cpu(tmp_path: Path) -> None:
    record = run(short(device=DeviceConfig(device="cpu", precision="bfloat16", num_threads=1)), tmp_path)
    losses = [row["loss"] for row in rows_of(tmp_path) if "step" in row]
    assert record.choices.precision == "bfloat16"
    assert losses[-1] < losses[0]
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(
    "fields", [{"patch_init": "whiten"}, {"patch_init": "whiten-paper"}, {"patch_init": "whiten", "tokenizer": "conv"}]
)
def test_a_whitened_first_layer(fields: dict[str, Any], tmp_path: Path) -> None:
    config = short(model=ModelConfig(patch_size=16, embed_dim=16, depth=1, num_heads=2, **fields))
    record = run(config, tmp_path)
    assert record.test.count == NUM_TEST
    assert_measured(evaluate(tmp_path, "test"), record)


def test_no_val(tmp_path: Path) -> None:
    record = run(short(data=DataConfig(dataset="digits", val_fraction=0.0)), tmp_path)
    assert (record.val, record.val_sha256, record.temperature, record.test_calibrated) == (None, None, None, None)
    assert record.num_train == NUM_TRAIN + NUM_VAL
    with pytest.raises(UsageError, match="held out no val"):
        evaluate(tmp_path, "val")


def test_a_single_step_is_a_run(tmp_path: Path) -> None:
    record = run(replace(TINY, train=TrainConfig(epochs=1, passes_per_epoch=1, batch_size=NUM_TRAIN)), tmp_path)
    assert record.curve[0].images_seen == NUM_TRAIN
    assert record.images_per_second == 0
    run(replace(TINY, seed=1, train=TrainConfig(epochs=1, passes_per_epoch=1, batch_size=NUM_TRAIN)), tmp_path / "b")
    found = {each.title: each.written_change for each in compare(tmp_path, tmp_path / "b").quantities}
    assert found["training images/s"] == "\N{EN DASH}"
    Forecast().learn_from(record)


def test_other_val_images_of_the_same_number_are_not_the_runs(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def fill(part: str, count: int) -> None:
        for i in range(count):
            path = tmp_path / "images" / part / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)

    fill("train", 20)
    fill("val", 6)
    fill("test", 6)
    model = ModelConfig(image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    data = DataConfig(dataset="folder", root=tmp_path / "images", cache=tmp_path / "cache")
    train = TrainConfig(epochs=1, passes_per_epoch=1, batch_size=8)
    record = run(replace(TINY, data=data, model=model, train=train), tmp_path / "run")
    assert evaluate(tmp_path / "run", "val").metrics() == record.val
    fill("val", 6)
    with pytest.raises(SmallvitError, match="other data: other val images;"):
        evaluate(tmp_path / "run", "val")


def test_a_batch_larger_than_an_epoch_is_bad_usage(tmp_path: Path) -> None:
    config = replace(TINY, train=TrainConfig(epochs=1, passes_per_epoch=1, batch_size=NUM_TRAIN + 1))
    with pytest.raises(UsageError, match=f"train.batch_size is {NUM_TRAIN + 1}: an epoch has only {NUM_TRAIN} images"):
        run(config, tmp_path / "x")
    assert not (tmp_path / "x").exists()


LOSS_FUNCTION = module.Session.loss_function
Spoil = Callable[[torch.Tensor], torch.Tensor]


def spoil_step(step: int, spoil: Spoil, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `spoil` change the loss of one step of the runs to come."""

    def loss_function(self: module.Session) -> Callable[..., torch.Tensor]:
        true, steps = LOSS_FUNCTION(self), count()

        def loss(*arguments: Any) -> torch.Tensor:
            value = true(*arguments)
            return spoil(value) if next(steps) == step else value

        return loss

    monkeypatch.setattr(module.Session, "loss_function", loss_function)


def with_ruined_gradient(loss: torch.Tensor) -> torch.Tensor:
    loss.register_hook(lambda gradient: gradient * math.nan)
    return loss


def with_infinite_gradient(loss: torch.Tensor) -> torch.Tensor:
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


SPOILS = [
    (lambda loss: loss * math.nan, "the loss is nan"),
    (lambda loss: loss + math.inf, "the loss is inf"),
    (with_ruined_gradient, "the gradient's norm is nan"),
    (with_infinite_gradient, "the gradient's norm is"),
]


TO_SPOIL = short(optim=OptimConfig(lr=1e-2, warmup_epochs=0.0))


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RunRecord]:
    """The weights and the record of a run without the fault."""
    folder = tmp_path_factory.mktemp("whole")
    record = run(TO_SPOIL, folder)
    return weights(folder), record


@pytest.mark.parametrize(
    ("step", "spoil", "message"), [*((step, *SPOILS[0]) for step in (0, 5, 11)), *((5, *each) for each in SPOILS[1:])]
)
def test_what_is_no_number_ends_the_run_before_it_touches_the_weights(
    step: int,
    spoil: Spoil,
    message: str,
    unspoilt: tuple[str, RunRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = tmp_path / "broken"
    spoil_step(step, spoil, monkeypatch)
    with pytest.raises(SmallvitError, match=f"^{message}.* at step {step} ") as caught:
        run(TO_SPOIL, broken)
    assert "try a lower optim.lr" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "NaN" not in (broken / "metrics.jsonl").read_text()
    found = json.loads((broken / f"nonfinite-step-{step:08d}.json").read_text())
    assert found["step"] == step
    assert 0 < found["lr"] <= 1e-2
    assert sorted(set(found["batch_indices"])) == sorted(found["batch_indices"])
    assert len(found["batch_indices"]) == 100
    # Without the fault, the run goes on from before the step as if nothing had been.
    monkeypatch.undo()
    again = run(TO_SPOIL, broken)
    assert again.resumed_at_steps == [step]
    assert (weights(broken), again.test) == (unspoilt[0], unspoilt[1].test)


@pytest.mark.parametrize(("spoil", "_message"), SPOILS)
def test_a_step_that_is_left_out_leaves_the_weights_and_is_counted(
    spoil: Spoil, _message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = TrainConfig(epochs=1, passes_per_epoch=1, batch_size=100, on_nonfinite="skip", max_skips=1)
    config = replace(TINY, train=train, optim=OptimConfig(lr=1e-2, warmup_epochs=0.0))
    spoil_step(0, spoil, monkeypatch)
    record = run(config, tmp_path)
    assert record.skipped_steps == [0]
    assert all(point.train_loss is not None and math.isfinite(point.train_loss) for point in record.curve)
    assert record.test.accuracy > 0.1


def test_a_flip_that_changes_the_class_is_said(tmp_path: Path) -> None:
    console = Console(record=True, width=200, quiet=False, file=(tmp_path / "said").open("w"))
    run(short(augment=AugmentConfig()), tmp_path / "run", console=console)
    console.file.close()
    assert "augment.horizontal_flip" in console.export_text()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SmallvitError, match="cannot be made a run folder"):
            run(short(), folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_weights_that_are_not_this_models_are_refused(finished: tuple[Path, RunRecord, str], tmp_path: Path) -> None:
    folder, _, _ = finished
    good = (folder / "model.safetensors").read_bytes()
    (tmp_path / "record.json").write_bytes((folder / "record.json").read_bytes())
    path = tmp_path / "model.safetensors"
    state = load_file(folder / "model.safetensors")
    state.pop("head.bias")

    def refused() -> str:
        with pytest.raises(SmallvitError, match="does not hold this model's weights") as caught:
            evaluate(tmp_path, "test")
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)

    refused()
    for bad in (b"", good[:5], good[: len(good) // 2], b"\xff" * 64):
        path.write_bytes(bad)
        refused()
    save_file(state, path)
    assert "head.bias" in refused()
    save_file({name: value * float("nan") for name, value in load_file(folder / "model.safetensors").items()}, path)
    with pytest.raises(SmallvitError, match="outputs on test are not finite"):
        evaluate(tmp_path, "test")


def test_a_checkpoint_that_cannot_be_deleted_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk in a network keeps a file that somebody holds open: the run is finished all the same."""

    rmdir = os.rmdir

    def kept(path: Path | str, **options: Any) -> None:
        if Path(path).name.startswith("step-"):
            raise OSError(39, "Directory not empty")
        rmdir(path, **options)

    config = short(checkpoint=CheckpointConfig(every_seconds=0.0))
    with monkeypatch.context() as patch:
        patch.setattr("os.rmdir", kept)
        record = run(config, tmp_path)
    assert RunRecord.load(tmp_path / RECORD) == record
    assert list((tmp_path / "checkpoints").glob("step-*"))
    delete_checkpoints(tmp_path, ignore_errors=True)
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoints_are_deleted_when_record_and_best_weights_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rmdir = os.fsync, os.rmdir

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        whole = (tmp_path / RECORD).exists() and (tmp_path / BEST).exists()
        if whole and os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            done.append("flushed")

    def noted_rmdir(path: Any, **options: Any) -> None:
        if Path(path).name == CHECKPOINTS:
            done.append("deleted")
        rmdir(path, **options)

    monkeypatch.setattr("os.fsync", noted_fsync)
    monkeypatch.setattr("os.rmdir", noted_rmdir)
    run(short(checkpoint=CheckpointConfig(best=True)), tmp_path)
    assert done[0] == "flushed"
    assert done[-1] == "deleted"


def test_a_disk_that_is_full_before_the_first_step_is_the_users_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("smallvit.run.write_json", full)
    with pytest.raises(SmallvitError, match=r"^\S+/config\.json: No space left on device$"):
        run(TINY, tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (48, "48 s"), (119, "119 s"), (720, "12 min"), (11_100, "3 h 05 min")]
)
def test_durations_as_a_person_writes_them(seconds: float, text: str) -> None:
    assert duration(float(seconds)) == text


def test_golden_losses(golden: Callable[[str, Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that claims no effect leaves these alone; 2e-4 is what another processor's sums may differ by."""
    monkeypatch.setattr("smallvit.training.LOG_EVERY_STEPS", 1)
    train, device = TrainConfig(epochs=2, passes_per_epoch=2, batch_size=100), replace(TINY.device, attention="bmm")
    config = replace(TINY, train=train, device=device)
    run(replace(config, evaluate=EvaluateConfig(every_epochs=2)), tmp_path)
    losses = [round(row["loss"], 6) for row in rows_of(tmp_path) if "step" in row]
    assert len(losses) == 50
    assert losses == pytest.approx(golden("losses.json", losses), abs=2e-4)


def test_the_loss_of_a_point_of_the_curve_is_the_mean_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smallvit.training.LOG_EVERY_STEPS", 1)
    record = run(short(), tmp_path)
    losses = [row["loss"] for row in rows_of(tmp_path) if "step" in row]
    assert len(losses) == NUM_TRAIN // 100
    assert record.curve[-1].train_loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_the_first_layer_of_a_run_whitens_normalised_images() -> None:
    config = replace(TINY, model=replace(TINY.model, patch_init="whiten")).resolve(10)
    session = Session(config, load_dataset(TINY.data))
    spec, images = session.dataset.spec, session.splits["train"].images
    with torch.no_grad():
        tokens = session.model.patch_embed(normalise(images, spec.mean, spec.std))
    torch.testing.assert_close(tokens.flatten(0, 1).var(0), torch.ones(16), rtol=0.1, atol=0.0)


def test_the_papers_whitening_sees_augmented_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("smallvit.session.init_whitening_paper", lambda layer, patches: seen.append(patches))
    config = replace(TINY, model=replace(TINY.model, patch_init="whiten-paper")).resolve(10)
    session = Session(config, load_dataset(TINY.data))
    images = torch.cat([session.batch(step).images for step in range(math.ceil(NUM_TRAIN / 50))])
    (patches,) = seen
    assert torch.equal(patches, image_patches(images, session.model.patch_embed.proj))


def test_a_run_has_the_loss_that_it_asks_for() -> None:
    session = Session(replace(TINY, train=replace(TINY.train, loss="bce")).resolve(10), load_dataset(TINY.data))
    batch = session.batch(0)
    logits = session.model(batch.images, batch.branch_scale)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.targets)
    torch.testing.assert_close(session.loss_function()(batch.images, batch.targets, batch.branch_scale), wanted)


def test_labels_that_lie_in_the_cache_are_adjusted_for(tmp_path: Path) -> None:
    """They are mapped from a file that is not to be written to, where nothing is held out of train."""
    images, labels = np.zeros((100, 8, 8, 3), dtype=np.uint8), np.arange(100) % 2
    np.savez(
        tmp_path / "a.npz",
        **{
            f"{split}_{name}": array
            for split in ("train", "val", "test")
            for name, array in (("images", images), ("labels", labels))
        },
    )
    data = DataConfig(dataset="folder", root=tmp_path / "a.npz", cache=tmp_path / "cache")
    dataset = load_dataset(data, image_size=8)
    assert not dataset.train.labels.flags.writeable
    model = replace(TINY.model, image_size=8, patch_size=4)
    config = replace(TINY, data=data, model=model, train=replace(TINY.train, logit_adjustment=1.0)).resolve(2)
    session = Session(config, dataset)
    assert session.adjustment is not None


def test_a_run_with_a_logit_adjustment_learns_what_makes_up_for_the_classes_shares(tmp_path: Path) -> None:
    train = replace(TINY.train, logit_adjustment=2.0, label_smoothing=0.1)
    dataset = load_dataset(TINY.data)
    assert dataset.val is not None
    labels = torch.from_numpy(dataset.train.labels.copy())
    shares = torch.nn.functional.one_hot(labels).float().mean(0)
    session = Session(replace(TINY, train=train).resolve(10), dataset)
    batch = session.batch(0)
    logits = session.model(batch.images, batch.branch_scale)
    wanted = torch.nn.functional.cross_entropy(logits + 2 * shares.log(), batch.targets + 0.1 * (shares - 0.1))
    torch.testing.assert_close(session.loss_function()(batch.images, batch.targets, batch.branch_scale), wanted)
    record = run(replace(TINY, train=train), tmp_path / "run")
    val = load_classifier(tmp_path / "run")(torch.from_numpy(dataset.val.images.copy()))
    of_val = torch.tensor(dataset.val.labels)
    frequent = torch.bincount(of_val, minlength=10) / len(of_val)
    temperature = fit_temperature(val, of_val, (shares.log() + frequent.log()).double())
    assert record.temperature == pytest.approx(temperature, rel=1e-4)


def test_a_run_repeats_images_in_a_batch_as_often_as_it_is_asked_to() -> None:
    config = replace(TINY, train=replace(TINY.train, repeats_in_batch=2)).resolve(10)
    first, second = Session(config, load_dataset(TINY.data)).order.batch(0).view(-1, 2).T
    assert torch.equal(first, second)


def test_in_the_second_epoch_alternating_flips_show_every_image_the_other_way_round() -> None:
    train = TrainConfig(epochs=2, passes_per_epoch=1, batch_size=NUM_TRAIN)
    config = replace(TINY, augment=AugmentConfig(flip="alternating", crop_padding=0), train=train).resolve(10)
    session = Session(config, load_dataset(TINY.data))
    first, second = (session.batch(step).images[session.order.batch(step).argsort()] for step in (0, 1))
    assert torch.equal(first, second.flip(-1))


def test_the_rotations_of_a_whitened_layer_are_a_function_of_the_seed() -> None:
    """A patch of 2 x 2 pixels has 12 values, so that the last 4 of 16 filters are rotated."""
    config = replace(TINY, model=replace(TINY.model, patch_init="whiten", patch_size=2)).resolve(10)
    dataset = load_dataset(TINY.data)
    first, again, other = (Session(replace(config, seed=seed), dataset).model.state_dict() for seed in (0, 0, 1))
    name = "patch_embed.proj.weight"
    assert torch.equal(first[name][12:], again[name][12:])
    assert not torch.allclose(first[name][12:], other[name][12:], rtol=0.1)


def test_what_needs_float64_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    device = replace(TINY.device, device="mps", precision="float32", attention="sdpa", compile="off")
    for augment in (AugmentConfig(policy="randaugment"), AugmentConfig(erase_probability=0.1, erase_fill="noise")):
        with pytest.raises(UsageError, match=r"device\.device is mps: policies and erasing with noise need float64"):
            Session(replace(TINY, device=device, augment=augment).resolve(10), load_dataset(TINY.data))


def test_graphs_that_are_asked_for_where_there_are_none_are_refused() -> None:
    device = replace(TINY.device, cuda_graphs="on")
    with pytest.raises(UsageError, match=r"device\.cuda_graphs is on: it needs device cuda"):
        Session(replace(TINY, device=device).resolve(10), load_dataset(TINY.data))


def test_logits_of_bfloat16_runs_are_not_rounded_to_bfloat16() -> None:
    session = Session(
        replace(TINY, device=replace(TINY.device, precision="bfloat16")).resolve(10), load_dataset(TINY.data)
    )
    tokens: list[torch.Tensor] = []
    session.model.norm.register_forward_hook(lambda *given: tokens.append(given[-1]))
    logits = session.predict("val")
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
    torch.testing.assert_close(logits, session.model.forward_head(torch.cat(tokens).float()), rtol=1e-5, atol=1e-6)


def test_one_output_that_is_no_number_is_refused() -> None:
    session = Session(TINY.resolve(10), load_dataset(TINY.data))
    with torch.no_grad():
        session.model.head.bias[3] = torch.nan
    with pytest.raises(SmallvitError, match="outputs on val are not finite numbers"):
        session.predict("val")


@pytest.mark.parametrize(
    ("width", "shown"), [(60, "loss 2.346  760 images/s"), (80, "loss 2.346  rate 1.0e-03  760 images/s")]
)
def test_the_bar_has_what_its_terminal_has_room_for(width: int, shown: str) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, force_interactive=True, width=width, color_system=None)
    with RunProgress(console, total_steps=7640, batch_size=256) as progress:
        progress.step(7000)
        progress.numbers(2.3456, 1e-3, 760.0)
        progress._bar.refresh()
    assert f"7000/7640 {shown} " in out.getvalue()


def test_the_estimate_is_of_steps_that_are_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first compiles, and of those that are recorded as CUDA graphs the two that follow take long as well."""
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("smallvit.progress.time.perf_counter", lambda: next(clock))
    console = Console(record=True, width=100, file=io.StringIO())
    progress = RunProgress(console, total_steps=1000, batch_size=50, warm_steps=3)
    for step in range(1, 100):
        progress.step(step)
    assert console.export_text() == "about 100 s of training at 500 images/s\n"


@pytest.mark.parametrize("name", ["record.json", "model.safetensors", "index.html", "checkpoints/step-5000/weights"])
def test_what_is_no_runs_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("of another program")
    (tmp_path / ".config.json.bak-old").write_text("of an editor")
    (tmp_path / "checkpoints" / "step-00005000").mkdir(parents=True, exist_ok=True)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    for start_over in (False, True):
        with pytest.raises(UsageError, match="already holds a finished" if name == "record.json" else "and no run: "):
            run(TINY, tmp_path, start_over=start_over and name != "record.json")
        after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        assert {path: content for path, content in after.items() if path.name not in (LOCK, OWNER)} == before


def test_what_cannot_start_over_leaves_the_run_before(finished: tuple[Path, RunRecord, str], tmp_path: Path) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for changes, fork, why in (
        ({"data": DataConfig(dataset="folder", root=tmp_path / "absent")}, None, "absent"),
        ({"train": replace(TINY.train, batch_size=100_000)}, None, r"train\.batch_size is 100000"),
        ({"model": replace(TINY.model, depth=1)}, finished[0], r"another model's: model\.depth is"),
        ({"fork": "0" * 64}, None, "this run is a fork"),
    ):
        with pytest.raises(SmallvitError, match=why):
            run(replace(TINY, **changes), tmp_path / "run", start_over=True, fork=fork)
        assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_gives_back_the_threads_and_the_generator_that_it_found(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    record = run(short(), tmp_path / "run")
    assert (record.choices.num_threads, torch.get_num_threads()) == (1, 2)
    assert torch.equal(torch.rand(1), drawn[:1])
    evaluate(tmp_path / "run", "test")
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.rand(2), drawn[1:])


def test_logits_have_a_place_in_a_loss(finished: tuple[Path, RunRecord, str]) -> None:
    folder, *_ = finished
    measured = evaluate(folder, "test")
    factor = torch.ones((), requires_grad=True)
    torch.nn.functional.cross_entropy(measured.logits * factor, torch.from_numpy(measured.split.labels)).backward()
    assert factor.grad is not None
    logits = load_classifier(folder)(torch.from_numpy(measured.split.images))
    logits -= logits.mean()
    (logits * factor).sum().backward()


def test_a_runs_end_comes_whole_out_of_another_process() -> None:
    for error in (InterruptedRunError("out of time", 75), OtherPicturesError("other"), UsageError("no")):
        found = pickle.loads(pickle.dumps(error))
        assert (type(found), str(found), found.exit_status) == (type(error), str(error), error.exit_status)


def test_a_home_folder_is_the_same_for_what_writes_and_what_reads(
    finished: tuple[Path, RunRecord, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert evaluate("~/run", "test").metrics() == record.test
    assert load_classifier("~/run").class_names == tuple(record.class_names)
    assert write_page("~/run") == tmp_path / "run" / "index.html"


def test_a_root_is_kept_as_it_is_seen_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run can be measured, resumed and compared with a fork's from another working directory."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    model = ModelConfig(image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    data = DataConfig(dataset="folder", root=Path("pictures"), cache=tmp_path / "cache")
    train = TrainConfig(epochs=1, passes_per_epoch=1, batch_size=8)
    monkeypatch.chdir(tmp_path)
    record = run(replace(TINY, data=data, model=model, train=train), tmp_path / "run")
    assert record.run_config().data.root == tmp_path / "pictures"
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert evaluate(tmp_path / "run", "test").metrics() == record.test


def test_a_test_picture_that_is_in_train_is_said_and_stands_in_the_record(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for part, pictures in (("train", 10), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(pictures):
                pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{i}.png")
    shutil.copy(tmp_path / "images" / "train" / "cat" / "0.png", tmp_path / "images" / "test" / "cat" / "0.png")
    data = DataConfig(dataset="folder", root=tmp_path / "images", cache=tmp_path / "cache", val_fraction=0.0)
    model = ModelConfig(image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    config = replace(TINY, data=data, model=model, train=TrainConfig(epochs=1, passes_per_epoch=1, batch_size=8))
    console = Console(record=True, width=200, file=io.StringIO())
    record = run(config, tmp_path / "run", console=console)
    note = "test: 1 of 6 pictures are in train, too: test/cat/0.png"
    assert record.dataset_notes == too_good(record) == [note]
    assert f"note: {note}\n" in console.export_text()


def test_the_best_weights_without_val_are_said_to_be_none(tmp_path: Path) -> None:
    config = short(data=replace(TINY.data, val_fraction=0.0), checkpoint=CheckpointConfig(best=True))
    console = Console(record=True, width=200, file=io.StringIO())
    run(config, tmp_path, console=console)
    said = console.export_text()
    assert "note: checkpoint.best keeps nothing: no val was held out to tell which weights are best\n" in said


def test_whitening_sees_as_many_pixels_of_larger_images_and_is_left_out_where_weights_come_from_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.Size] = []

    def whiten(layer: torch.nn.Conv2d, patches: torch.Tensor, generator: torch.Generator) -> None:
        seen.append(patches.shape)
        assert generator.initial_seed() == torch_generator(0, "whitening").initial_seed()

    monkeypatch.setattr("smallvit.session.init_whitening", whiten)
    monkeypatch.setattr("smallvit.session.WHITENING_IMAGES", 800)
    config = replace(TINY, model=replace(TINY.model, patch_init="whiten", patch_size=4)).resolve(10)
    for size in (16, 32, 64):
        model = replace(config.model, image_size=size)
        session = Session(replace(config, model=model), load_dataset(config.data, image_size=size))
    assert seen == [(800 * 4 * 4, 48), (800 * 8 * 8, 48), (200 * 16 * 16, 48)]
    Session(replace(config, model=model), session.dataset, earlier=session.choices)
    Session(replace(config, model=model, fork="0" * 64), session.dataset)
    assert len(seen) == 3


def test_a_run_that_is_deleted_in_part_is_known_by_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a new run beside its checkpoints could not be resumed."""
    folder, real = tmp_path / "run", os.unlink
    names = (CONFIG, METRICS, RECORD, "model.safetensors", "index.html", f"{CHECKPOINTS}/step-00000001/state.json")

    def left() -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    for killed_at in range(len(names) + 1):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("x")
        done = 0

        def unlink(path: Any, *more: Any, killed_at: int = killed_at, **others: Any) -> None:
            nonlocal done
            if done == killed_at:
                raise KeyboardInterrupt
            real(path, *more, **others)
            done += 1

        monkeypatch.setattr(os, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt) if killed_at < len(names) else nullcontext():
            delete_run(folder)
        monkeypatch.setattr(os, "unlink", real)
        assert len(left()) == len(names) - killed_at
        assert CONFIG in left() or not left()
        assert killed_at == 0 or not (folder / CHECKPOINTS / "step-00000001" / "state.json").exists()


def test_what_a_killed_writer_left_is_taken_away(tmp_path: Path) -> None:
    for name in (".model.safetensors.123-0a1b2c3d", ".record.json.9-ffffffff", ".notes.txt.9-ffffffff", "mine.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / CHECKPOINTS / ".step-00000030.77-0a1b2c3d").mkdir(parents=True)
    with claimed(tmp_path, lambda note: None):
        pass
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {".lock", ".notes.txt.9-ffffffff", "mine.txt", CHECKPOINTS}


def test_a_finished_run_says_where_its_page_is_and_loses_its_last_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(short(), folder)
    (folder / CHECKPOINTS / "step-00000001").mkdir(parents=True)  # as a kill after the record leaves it
    with pytest.raises(UsageError, match=r"finished run \(for its page: smallvit report .*run\): for another, name"):
        run(short(), folder)
    assert not (folder / CHECKPOINTS).exists()
    page = write_page(folder)
    with pytest.raises(UsageError, match=re.escape(f"finished run (its page is {page}): ")):
        run(short(), folder)


def test_a_last_rank_that_is_lost_when_all_is_written_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def barrier(_: World) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RankLostError("lost")

    monkeypatch.setattr(World, "barrier", barrier)
    assert run(short(), tmp_path / "run").test.count > 0
    assert calls == 2
