"""Everything that a GPU machine is asked, in one sitting of under nine minutes: one table, and JSON beside it.

    make gpu-bench                             on a machine with a GPU; ${OUT:-runs/gpu-bench} has the files
    make gpu-bench DEVICE=cpu                  a tiny rehearsal
    python benchmarks/gpu_bench.py [--device cuda] [--out FOLDER] [--data-root CIFAR10] [--whole]

`--whole` (WHOLE=1) is another sitting as long: the training alone, but the whole run of `baseline`.

Each part is a process with a time limit; one that fails or overruns is said so, and the others still run. Without
--data-root the training stretch reads random images in CIFAR-10's official form: its speed counts, not its accuracy.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smallvit.data.spec import SPECS
from smallvit.files import write_json

ROOT = Path(__file__).parents[1]
TINY_MODEL = ["--model.embed-dim", "24", "--model.num-heads", "2", "--model.depth", "2", "--model.patch-size", "8"]
SUMMARY, TRAIN = "summary.json", "train"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process of the sitting."""

    name: str
    command: list[str]
    limit_seconds: float
    allowed: tuple[int, ...] = (0,)
    """Exit statuses that are no failure."""


def parts(device: str, out: Path, data_root: Path, cache: Path, *, whole: bool = False) -> list[Part]:
    """Return what to run; on a CPU the same commands, on tiny models. `whole` leaves the training, to its end."""
    python, tiny = [sys.executable, "-u"], device == "cpu"
    smallvit = [*python, "-m", "smallvit"]
    where = ["--device.device", device]
    # pytest-benchmark, where it is there, warns of xdist, and a warning is an error.
    # By -v each result stands in the log as it comes. What tells of time would not, beside others.
    pytest = [*python, "-m", "pytest", "-v", "-n", "4", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    pytest += ["-k", "cuda and not how_long_many_take", str(ROOT / "tests")]
    bench = [*smallvit, "bench", "baseline", *where, "--json", str(out / "bench.json"), "--sweep", "60"]
    bench += ["--against", "timm,vit-pytorch"]
    plain = [*smallvit, "bench", "baseline", *where, "--json", str(out / "plain.json"), "--device.cuda-graphs", "off"]
    paper = [*python, str(ROOT / "benchmarks" / "paper_step.py"), "--device", device, "--json", str(out / "paper.json")]
    profile = [*python, str(ROOT / "benchmarks" / "step_profile.py"), "--device", device]
    profile += ["--json", str(out / "profile.json")]
    train = [*smallvit, "train", "baseline", *where, "--out", str(out / TRAIN), "--data.cache", str(cache)]
    train += ["--data.root", str(data_root), "--evaluate.batch-size", "5000"]
    train += ["--max-seconds", "500"] if whole else ["--optim.warmup-epochs", "1", "--max-seconds", "60"]
    if tiny:
        pytest[-3:] = [str(ROOT / "tests" / "device")]
        for command in (bench, plain):
            command += [*TINY_MODEL, "--train.batch-size", "8", "--evaluate.batch-size", "8", "--turns", "1"]
        bench[bench.index("60")] = "0"
        paper += ["--batch-size", "2", "--turns", "1"]
        profile += ["--batch-size", "2", "--steps", "1"]
        train += [
            *(["--optim.warmup-epochs", "1"] if whole else []),
            *TINY_MODEL,
            "--train.epochs",
            "1",
            "--train.passes-per-epoch",
            "1",
            "--train.batch-size",
            "500",
        ]
    elif not whole:
        train += ["--train.epochs", "20"]
    training = Part(
        name="training", command=train, limit_seconds=540 if whole else 90, allowed=(0, 75)
    )  # 75: time's up
    if whole:
        return [training]
    return [
        Part(name="CUDA tests", command=pytest, limit_seconds=140, allowed=(0, 5)),  # 5: none were there
        Part(name="bench", command=bench, limit_seconds=150),
        Part(name="bench without CUDA graphs", command=plain, limit_seconds=50),
        Part(name="the paper's step", command=paper, limit_seconds=70),
        Part(name="profile", command=profile, limit_seconds=40),
        training,
    ]


def write_random_cifar10(folder: Path) -> None:
    """Write random images in the form of CIFAR-10's official binary batches: a label and 3,072 bytes each."""
    layout, draws = SPECS["cifar10"].binary, np.random.default_rng(0)
    assert layout is not None
    for name in (*layout.train, *layout.test):
        rows = draws.integers(0, 256, (10_000, 1 + 3072), dtype=np.uint8)
        rows[:, 0] = np.arange(10_000) % 10
        rows.tofile(folder / name)


def run(part: Part, log: Path) -> dict[str, Any]:
    """Run one part with its output in a log, and return how it ended and how long it took."""
    start = time.monotonic()
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("w") as file:
        try:
            status: int | str = subprocess.run(
                part.command, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=part.limit_seconds
            ).returncode
        except subprocess.TimeoutExpired:
            status = f"over {part.limit_seconds:.0f} s"
    ok = status in part.allowed
    return {"part": part.name, "ok": ok, "status": status, "seconds": round(time.monotonic() - start, 1)}


def summary(out: Path, ended: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table's lines, from what the parts wrote."""
    rows = [
        (each["part"], f"{'ok' if each['ok'] else 'FAILED'} ({each['status']}), {each['seconds']:.0f} s")
        for each in ended
    ]
    bench, paper, metrics = _read(out / "bench.json"), _read(out / "paper.json"), out / TRAIN / "metrics.jsonl"
    if bench is not None:
        rows += _bench_rows(bench)
    plain = _read(out / "plain.json")
    if plain is not None:
        rows += [
            (f"{name} without CUDA graphs", f"{plain['speeds'][name]['images_per_second']:,.0f} images/s")
            for name in ("step", "pipeline")
        ]
    if paper is not None:
        for name, shape in paper["shapes"].items():
            rows.append((name, f"{shape['ours_over_paper']:.2f} times the paper's step"))
    profile = _read(out / "profile.json")
    if profile is not None:
        rows += [
            (f"{each['share']:.0%} of the operations' time", f"{each['calls']:.0f} x {each['name'][:60]}")
            for each in profile["operations"][:5]
        ]
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    steps = [json.loads(line) for line in lines if "images_per_second" in line]
    if steps:
        speed = f"{steps[-1]['images_per_second']:,.0f} images/s over {steps[-1]['step'] + 1:,} steps"
        rows.append(("training, from end to end", speed))
    record = _read(out / TRAIN / "record.json")
    if record is not None:
        rows.append(("test, at its end", f"{record['test']['correct']:,} of {record['test']['count']:,} right"))
    return [f"{name:36s} {text}" for name, text in rows]


def _bench_rows(bench: dict[str, Any]) -> list[tuple[str, str]]:
    share, hardware = bench["utilisation"], bench["hardware"]
    rows = [("device", str(hardware.get("gpu", hardware["processor"])))]
    for name, speed in bench["speeds"].items():
        used = f", {share[name]:.0%} of the {bench['choices']['precision']} peak" if name in share else ""
        rows.append((name, f"{speed['images_per_second']:,.0f} images/s{used}"))
    rows += [
        (f"step of {peer['name']}", f"{peer['step']['images_per_second']:,.0f} images/s") for peer in bench["peers"]
    ]
    for point in bench["sweep"]:
        if point["step"] is not None:
            speed = f"{point['step']['images_per_second']:,.0f} images/s, {point['utilisation']:.0%}"
            rows.append((f"step, {point['field']} {point['value']}", speed))
    return rows


def main() -> int:
    """Run the parts, print the table, and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-bench"), help="folder of the JSON files and logs")
    parser.add_argument("--data-root", type=Path, help="where CIFAR-10 lies; without it random images")
    parser.add_argument("--whole", action="store_true", help="the training alone, to the end of its recipe")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "gpu-bench: torch sees no GPU here; DEVICE=cpu (--device cpu) rehearses it on tiny models", file=sys.stderr
        )
        return 2
    out: Path = options.out
    if out.exists() and any(out.iterdir()):
        print(f"gpu-bench: {out} is not empty; name another folder with OUT= (--out)", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    ended: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        data_root = options.data_root or Path(scratch)
        if options.data_root is None:
            write_random_cifar10(data_root)
        cache = Path(scratch) / "cache"
        for number, part in enumerate(parts(options.device, out, data_root, cache, whole=options.whole)):
            print(f"{part.name}, {part.limit_seconds:.0f} s at most ...", flush=True)
            ended.append(run(part, out / f"{number}.log"))
    table = summary(out, ended)
    print("\n".join(["", *table]))
    write_json(out / SUMMARY, {"parts": ended, "table": table})
    return 0 if all(each["ok"] for each in ended) else 1


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
