"""The sitting on a GPU machine, as far as a machine without one can tell."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from smallvit import cli
from smallvit.data.batches import read_batches
from smallvit.data.spec import SPECS
from tiny_bench import benchmark_named

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu_bench() -> ModuleType:
    """benchmarks/gpu_bench.py, which is no part of the package."""
    return benchmark_named("gpu_bench")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_it_refuses_in_one_line(
    gpu_bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_bench.py", "--out", str(tmp_path / "out")])
    assert gpu_bench.main() == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "torch sees no GPU here; DEVICE=cpu" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused(
    gpu_bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What an earlier sitting left there would be taken for this one's."""
    (tmp_path / "bench.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["gpu_bench.py", "--device", "cpu", "--out", str(tmp_path)])
    assert gpu_bench.main() == 2
    assert capsys.readouterr().err == f"gpu-bench: {tmp_path} is not empty; name another folder with OUT= (--out)\n"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_its_commands_are_understood_and_end_within_nine_minutes(
    gpu_bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(cli.Bench, "__call__", lambda self: asked.append(self))
    monkeypatch.setattr(cli.Train, "__call__", lambda self: asked.append(self))
    found = gpu_bench.parts(device, tmp_path, tmp_path / "data", tmp_path / "cache")
    assert sum(part.limit_seconds for part in found) <= 9 * 60
    for part in found:
        if "smallvit" in part.command:
            assert cli.main(part.command[part.command.index("smallvit") + 1 :]) == 0
    (bench, plain, train), sweep = asked, 60.0 if device == "cuda" else 0.0
    assert (plain.config.device.cuda_graphs, bench.config.device.cuda_graphs) == ("off", "auto")
    assert plain.json == tmp_path / "plain.json"
    assert (bench.sweep, bench.json, bench.config.device.device) == (sweep, tmp_path / "bench.json", device)
    assert (train.config.recipe, train.max_seconds, train.config.device.device) == ("baseline", 60.0, device)


def test_a_whole_run_is_a_sitting_of_its_own(
    gpu_bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(cli.Train, "__call__", lambda self: asked.append(self))
    (part,) = gpu_bench.parts("cuda", tmp_path, tmp_path / "data", tmp_path / "cache", whole=True)
    assert cli.main(part.command[part.command.index("smallvit") + 1 :]) == 0
    (train,) = asked
    assert train.config.digest() == cli.RECIPES["baseline"]().digest()
    assert train.max_seconds < part.limit_seconds <= 9 * 60


def test_its_random_images_are_read_as_cifar10(gpu_bench: ModuleType, tmp_path: Path) -> None:
    gpu_bench.write_random_cifar10(tmp_path)
    spec = SPECS["cifar10"]
    assert spec.binary is not None
    found = read_batches(tmp_path, spec, spec.binary)
    assert found["train"].images.shape == (50_000, 3, 32, 32)
    assert np.bincount(found["test"].labels).tolist() == [1000] * 10


@pytest.mark.parametrize(
    ("code", "ok", "status"),
    [
        ("print('said')", True, 0),
        ("raise SystemExit(75)", True, 75),
        ("raise SystemExit(1)", False, 1),
        ("import time; time.sleep(60)", False, "over 1 s"),
    ],
)
def test_a_part_that_fails_or_overruns_is_said_so(
    gpu_bench: ModuleType, tmp_path: Path, code: str, ok: bool, status: int | str
) -> None:
    command, limit = [sys.executable, "-S", "-c", code], 1.0 if "sleep" in code else 30.0
    part = gpu_bench.Part(name="it", command=command, limit_seconds=limit, allowed=(0, 75))
    ended = gpu_bench.run(part, tmp_path / "log")
    assert (ended["ok"], ended["status"]) == (ok, status)
    assert ((tmp_path / "log").read_text() == "said\n") == ("said" in code)
    (line,) = gpu_bench.summary(tmp_path, [ended])
    assert ("FAILED" in line) == (not ok)


def test_the_table_has_what_the_parts_wrote(gpu_bench: ModuleType, tmp_path: Path) -> None:
    speed = {"images_per_second": 1234.0}
    bench = {
        "utilisation": {"step": 0.4},
        "choices": {"precision": "bfloat16"},
        "hardware": {"processor": "a processor", "gpu": "a GPU"},
        "speeds": {"step": speed},
        "peers": [{"name": "timm", "step": speed}],
        "sweep": [
            {"field": "model.embed_dim", "value": 96, "step": speed, "utilisation": 0.3},
            {"field": "model.embed_dim", "value": 384, "step": None, "utilisation": None},
        ],
    }
    (tmp_path / "bench.json").write_text(json.dumps(bench))
    plain = {"speeds": {"step": {"images_per_second": 2345.0}, "pipeline": {"images_per_second": 2222.0}}}
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    (tmp_path / "paper.json").write_text(json.dumps({"shapes": {"width 192": {"ours_over_paper": 3.5}}}))
    (tmp_path / "train").mkdir()
    rows = [{"step": 19, "images_per_second": 10.0}, {"epoch": 1}, {"step": 39, "images_per_second": 5678.0}]
    (tmp_path / "train" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "train" / "record.json").write_text('{"test": {"correct": 9365, "count": 10000}}')
    operation = {"name": "a kernel", "calls": 9.0, "ms": 1.5, "share": 0.25}
    (tmp_path / "profile.json").write_text(json.dumps({"operations": [operation]}))
    assert [" ".join(line.split()) for line in gpu_bench.summary(tmp_path, [])] == [
        "device a GPU",
        "step 1,234 images/s, 40% of the bfloat16 peak",
        "step of timm 1,234 images/s",
        "step, model.embed_dim 96 1,234 images/s, 30%",
        "step without CUDA graphs 2,345 images/s",
        "pipeline without CUDA graphs 2,222 images/s",
        "width 192 3.50 times the paper's step",
        "25% of the operations' time 9 x a kernel",
        "training, from end to end 5,678 images/s over 40 steps",
        "test, at its end 9,365 of 10,000 right",
    ]


def test_make_passes_its_variables_on() -> None:
    words = ["make", "-n", "gpu-bench", "DEVICE=cpu", "OUT=here", "DATA_ROOT=there", "WHOLE=1", "BENCH_PYTHON=python3"]
    apart = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    done = subprocess.run(words, cwd=ROOT, env=apart, capture_output=True, text=True, check=True)
    assert "benchmarks/gpu_bench.py --device cpu --out here --data-root there --whole" in done.stdout
    assert shlex.split(done.stdout)[1] == "python3"
