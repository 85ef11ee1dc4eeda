"""What does the convolution kernel of our own bring on a CPU, to the recipes that convolve?

    python benchmarks/convolution.py [--threads N] [--turns N] [--json FILE]

A step as `train` takes it (new batch, augmentation, forward, backward, update), in float32, by torch's convolutions and
by ours, both in one process, in turns after a warm-up; the median turn counts.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

from smallvit.bench.clock import take_turns
from smallvit.bench.record import circumstances
from smallvit.bench.workload import Workload
from smallvit.device.config import Convolution
from smallvit.files import write_json
from smallvit.recipes import RECIPES

CONVOLVING = ("laptop", "best")


def main() -> None:
    """Print a line a recipe; write the record where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the record")
    options = parser.parse_args()
    beginning, rows = circumstances(), {}
    for name in CONVOLVING:
        config, works = RECIPES[name](), {}
        for convolution in get_args(Convolution):
            device = replace(config.device, device="cpu", precision="float32", convolution=convolution)
            device = replace(device, num_threads=options.threads)
            works[convolution] = Workload(replace(config, device=device))
        taken = take_turns({key: work.pipeline for key, work in works.items()}, "cpu", options.turns)
        speeds = {key: config.train.batch_size / timing.seconds for key, timing in taken.items()}
        row = {"images_per_second": speeds, "native_over_torch": speeds["native"] / speeds["torch"]}
        rows[name] = {**row, "choices": str(works["native"].session.choices)}
        each = ", ".join(f"{speed:,.0f} images/s by {key}" for key, speed in speeds.items())
        print(f"{name}: {each}: {row['native_over_torch']:.2f} times", flush=True)
    if options.json is not None:
        write_json(options.json, {"kind": "convolution", "schema": 1, **beginning, "recipes": rows})


if __name__ == "__main__":
    main()
