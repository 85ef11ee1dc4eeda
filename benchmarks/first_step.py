"""How long until a run has taken its first step? Seconds from the start of its process.

    python benchmarks/first_step.py [--threads N] [--turns N] [--recipes ...] [--json FILE]

The recipes' models and batches on the digits, which come with the package. Nothing compiled: the median of some turns,
after one that fills the caches (decoded images, which attention is fastest). Compiled: one turn with the compiler's
cache empty, and one with what it left.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from smallvit.bench.record import circumstances
from smallvit.files import write_json

# The command, told to say when it has taken a step.
RUN = """
import sys
import time

from smallvit.train import loop

take = loop.fit

def told(*args, **options):
    for state in take(*args, **options):
        print("taken at", time.time(), flush=True)
        yield state

loop.fit = told
from smallvit.cli import main

main()
"""


def seconds(recipe: str, compiled: str, threads: int, scratch: Path) -> float:
    """Return the seconds from a process's start until it has taken its first step; it is asked to end then."""
    options = {"data.dataset": "digits", "data.root": "None", "max-seconds": "0.001"}
    options |= {"data.cache": str(scratch / "cache"), "device.compile": compiled, "device.num-threads": str(threads)}
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        command = [sys.executable, "-c", RUN, "train", recipe, *words, "--out", f"{out}/run"]
        start = time.time()  # the processes' common clock
        done = subprocess.run(
            command,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(scratch / "compiled")},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("taken at ")]
    if len(lines) != 1:
        raise SystemExit(f"{recipe} did not end after its first step: {done.stderr}")
    return round(float(lines[0].removeprefix("taken at ")) - start, 2)


def main() -> None:
    """Print a line a recipe; write the record where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--turns", type=int, default=3, help="turns of each recipe with nothing compiled")
    parser.add_argument("--recipes", default="quickstart,small,baseline,laptop,best")
    parser.add_argument("--json", type=Path, help="where to write the record")
    options = parser.parse_args()
    beginning, found = circumstances(), {}
    for name in options.recipes.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            plain = [seconds(name, "off", options.threads, Path(scratch)) for _ in range(1 + options.turns)]
            cold, warm = [seconds(name, "on", options.threads, Path(scratch)) for _ in range(2)]
        found[name] = {
            "not_compiled_seconds": statistics.median(plain[1:]),
            "compiled_cold_seconds": cold,
            "compiled_warm_seconds": warm,
        }
        print(f"{name}: {found[name]}", flush=True)
    if options.json is not None:
        record = {"kind": "first-step", "schema": 1, **beginning, "threads": options.threads, "recipes": found}
        write_json(options.json, record)


if __name__ == "__main__":
    main()
