"""How fast a training step is, alone and beside other work, by how long a waiting thread of OpenMP spins.

    python benchmarks/waiting.py --threads 2 --json found.json

Each measurement is a process of its own, as libgomp reads GOMP_SPINCOUNT once; they take turns. The other work is a
training on one thread in a session of its own, as what another terminal runs is (Linux may share the cores out by
session, where a thread that spins uses up the share of its own).
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from smallvit.bench.record import circumstances
from smallvit.bench.workload import Workload
from smallvit.cli import SPIN_COUNT, WAITING
from smallvit.device.choose import timed
from smallvit.files import write_json
from smallvit.recipes import RECIPES

MEASURED = ("quickstart", "laptop")
SPINS = {"libgomp's own": None, "smallvit's": SPIN_COUNT, "none": "0"}
BESIDE = ("nothing", "a training")
SECONDS = 10.0


def step_seconds(name: str, threads: int, seconds: float) -> float:
    """Return the median step of a recipe in this process, batch and augmentation included, of at least three."""
    config = RECIPES[name]()
    work = Workload(replace(config, device=replace(config.device, device="cpu", num_threads=threads)))
    work.settle(work.pipeline)
    steps: list[float] = []
    while len(steps) < 3 or sum(steps) < seconds:
        steps.append(timed(work.pipeline, work.device))
    return statistics.median(steps)


def in_a_process(name: str, threads: int, seconds: float) -> list[str]:
    """Return the command that prints the same."""
    return [sys.executable, __file__, "--threads", str(threads), "--step", name, "--seconds", str(seconds)]


def measured(name: str, threads: int, spins: str | None) -> float:
    """Return the same in a new process with such a GOMP_SPINCOUNT."""
    unset = {key: value for key, value in os.environ.items() if key not in WAITING}
    given = {} if spins is None else {"GOMP_SPINCOUNT": spins}
    command = in_a_process(name, threads, SECONDS)
    done = subprocess.run(command, env={**unset, **given}, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


@contextmanager
def beside_a_training() -> Generator[None]:
    """Train on one thread meanwhile."""
    with subprocess.Popen(in_a_process("laptop", 1, math.inf), start_new_session=True) as process:
        try:
            yield
        finally:
            process.kill()


def main() -> None:
    """Print a line for each recipe and surroundings, and write all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3, help="processes for each number")
    parser.add_argument("--json", type=Path, help="where to write what was found")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(step_seconds(asked.step, asked.threads, asked.seconds))
        return
    beginning = circumstances()
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in MEASURED:
        found[name] = {}
        for beside in BESIDE:
            turns: dict[str, list[float]] = {kind: [] for kind in SPINS}
            with beside_a_training() if beside != "nothing" else nullcontext():
                for _ in range(asked.turns):
                    for kind, spins in SPINS.items():
                        turns[kind].append(measured(name, asked.threads, spins))
            found[name][beside] = turns
            medians = ", ".join(f"{1e3 * statistics.median(of):,.0f} ({kind})" for kind, of in turns.items())
            print(f"{name} beside {beside}: ms a step by spins: {medians}", flush=True)
    if asked.json:
        what = {"threads": asked.threads, "spins": SPINS, "step_seconds": found}
        write_json(asked.json, {"kind": "waiting", "schema": 1, **beginning, **what})


if __name__ == "__main__":
    main()
