"""The scripts of benchmarks/, which are no part of the package: that they run, and measure what they say."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from smallvit.bench.workload import Workload
from smallvit.model.config import ModelConfig
from smallvit.recipes import RECIPES
from tiny_bench import TINY, benchmark_named, loss_of, quick_measurements
from tiny_study import study as tiny_study


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from quick_measurements(monkeypatch)


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    return benchmark_named("paper_step")


def test_the_cost_of_a_save_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = benchmark_named("reliability")
    monkeypatch.setattr(script, "SAVES", 2)
    found = script.measured(Workload(TINY).session, tmp_path)
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 2
    assert found["save_seconds"]["of"] == 2
    assert 0 < found["save_seconds"]["median"] <= found["save_seconds"]["slowest"]
    assert found["checkpoint_bytes"] > 3 * 4 * 17_050  # weights, and the two averages of Adam


def test_the_steps_of_a_studys_rows_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = benchmark_named("study_step")
    monkeypatch.setitem(script.STUDIES, "tiny", tiny_study)
    monkeypatch.setattr("sys.argv", ["study_step", "tiny", "--turns", "1", "--json", str(tmp_path / "found.json")])
    script.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["choices"].startswith("cpu with 1 thread, float32")
    assert {label: row["over_reference"] for label, row in found["rows"].items()}["plain row"] == 1
    assert all(row["seconds"] > 0 for row in found["rows"].values())


@pytest.mark.skipif(shutil.which("c++") is None, reason="the kernel needs a C++ compiler")
def test_what_our_convolutions_bring_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = benchmark_named("convolution")
    tiny = replace(TINY, model=replace(TINY.model, embed_dim=32, tokenizer="conv-pool"))
    monkeypatch.setattr(script, "RECIPES", dict.fromkeys(script.CONVOLVING, lambda: tiny))
    monkeypatch.setattr("sys.argv", ["convolution", "--turns", "1", "--json", str(tmp_path / "found.json")])
    script.main()
    found = json.loads((tmp_path / "found.json").read_text())["recipes"]
    assert list(found) == ["laptop", "best"]
    for row in found.values():
        speeds = row["images_per_second"]
        assert list(speeds) == ["torch", "native"]
        assert row["native_over_torch"] == speeds["native"] / speeds["torch"] > 0
        assert ", native convolution, " in row["choices"]


def test_steps_are_measured_by_how_long_threads_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes say here how long they were told to spin."""
    script = benchmark_named("waiting")
    monkeypatch.setitem(script.RECIPES, "quickstart", lambda: TINY)
    assert 0 < script.step_seconds("quickstart", 1, 0.0) < 10
    say = [sys.executable, "-c", "import os; print(os.environ.get('GOMP_SPINCOUNT', -1))"]
    monkeypatch.setattr(script, "in_a_process", lambda *_: say)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setattr("sys.argv", ["waiting", "--turns", "2", "--json", str(tmp_path / "found.json")])
    script.main()
    found = json.loads((tmp_path / "found.json").read_text())["step_seconds"]
    told = {"libgomp's own": [-1, -1], "smallvit's": [3000, 3000], "none": [0, 0]}
    assert found == dict.fromkeys(script.MEASURED, dict.fromkeys(script.BESIDE, told))


def test_a_run_is_predicted_and_taken() -> None:
    found = benchmark_named("prediction").compare(replace(TINY, train=replace(TINY.train, batch_size=500)), 1, 0.0)
    assert found["steps"] == 3 * (1_294 // 500) + 1, "the three passes of one epoch"
    assert found["predicted_over_taken"] == pytest.approx(found["predicted_seconds"] / found["taken_seconds"], abs=0.01)
    assert found["taken_seconds"] > found["train_seconds"] > 0


def test_the_operations_of_a_step_are_told_longest_first() -> None:
    found = benchmark_named("step_profile").profiled(TINY, 2)
    shares = [each["share"] for each in found["operations"]]
    assert shares == sorted(shares, reverse=True)
    assert 0.2 < sum(shares) < 1.001
    names = {each["name"]: each["calls"] for each in found["operations"]}
    assert names["aten::mm"] >= 1
    assert 0 < found["busy_ms"] < found["step_ms"] * 2


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("attention", ["bmm", "sdpa"])
def test_the_papers_step_restated_is_the_same_arithmetic(paper: ModuleType, tokens: int, attention: Any) -> None:
    """Five steps from the same weights on the same batch: float32 sums in another order, and nothing else, differ."""
    model = ModelConfig(patch_size=8, embed_dim=48, depth=3, num_heads=4, num_cls_tokens=tokens, drop_path_rate=0.3)
    device = replace(TINY.device, attention=attention)
    augment = RECIPES["baseline"]().augment
    work = Workload(replace(TINY, model=model, device=device, augment=augment))
    restated, step = paper.paper_step(work)
    assert (work.step.batch.branch_scale == 0).any()  # stochastic depth is at work
    for _ in range(5):
        found, wanted = (loss_of(each) for each in (step, work.step))
        assert found == pytest.approx(wanted, rel=1e-5)
        step()
        work.step()
    weights = paper.paper_weights(work.session.model.state_dict())
    # Adam divides by the gradient's size, so where that is all rounding (the keys' biases) a step may be any of +-lr.
    for name, tensor in restated.state_dict().items():
        if not name.endswith("k.bias"):
            torch.testing.assert_close(tensor, weights[name], rtol=0, atol=2e-4, msg=name)
            assert (tensor - weights[name]).abs().mean() < 2e-6, name


def test_the_comparison_with_the_paper_prints_what_it_records(
    paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--device", "cpu", "--turns", "1", "--threads", "1", "--batch-size", "2", "--precision", "float32"]
    monkeypatch.setattr(sys, "argv", ["paper_step.py", *words, "--json", str(tmp_path / "x.json")])
    paper.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(paper.SHAPES)
    record = json.loads((tmp_path / "x.json").read_text())
    for shape, line in zip(record["shapes"].values(), lines, strict=True):
        ratio = shape["speeds"]["paper"]["seconds"] / shape["speeds"]["ours"]["seconds"]
        assert shape["ours_over_paper"] == pytest.approx(ratio)
        assert f"{ratio:.2f} times" in line
        assert shape["first_losses"]["paper"] == pytest.approx(shape["first_losses"]["ours"], rel=1e-5)
