"""Where does a training step's time go? The operations, on a GPU the kernels, that take most of it.

    python benchmarks/step_profile.py [--recipe baseline] [--device DEVICE] [--steps 20]
        [--batch-size N] [--json FILE]

Steps as a run takes them, with `auto` choices, on random images, under torch's profiler, which itself makes them
somewhat slower: the shares are what to read.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from smallvit.bench.record import circumstances
from smallvit.bench.workload import Workload
from smallvit.config import RunConfig
from smallvit.device.choose import synchronize
from smallvit.files import write_json
from smallvit.recipes import RECIPES

TOLD = 25
"""Operations in the record; the first dozen are printed."""


def profiled(config: RunConfig, steps: int) -> dict[str, object]:
    """Take steps, and return the milliseconds of a step, and of each operation in it, longest first."""
    work = Workload(config)
    work.pipeline()
    work.settle(work.pipeline)
    on_gpu = work.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        start = time.perf_counter()
        for _ in range(steps):
            work.pipeline()
        synchronize(work.device)
        seconds = time.perf_counter() - start
    events = [event for event in found.key_averages() if not on_gpu or event.device_type == DeviceType.CUDA]
    taken = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in events
    }
    whole = sum(microseconds for microseconds, _ in taken.values())
    longest = sorted(taken.items(), key=lambda item: -item[1][0])[:TOLD]
    return {
        "choices": str(work.session.choices),
        "steps": steps,
        "step_ms": 1000 * seconds / steps,
        "busy_ms": whole / 1000 / steps,
        "operations": [
            {"name": name, "calls": count / steps, "ms": microseconds / 1000 / steps, "share": microseconds / whole}
            for name, (microseconds, count) in longest
        ],
    }


def main() -> None:
    """Print the longest operations; write the record where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="baseline", choices=list(RECIPES))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--batch-size", type=int, help="by default the recipe's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where to write the record")
    options = parser.parse_args()
    beginning, config = circumstances(), RECIPES[options.recipe]()
    config = replace(config, device=replace(config.device, device=options.device))
    if options.batch_size is not None:
        config = replace(config, train=replace(config.train, batch_size=options.batch_size))
    found = profiled(config, options.steps)
    print(f"{found['choices']}\n{found['step_ms']:.1f} ms a step, {found['busy_ms']:.1f} of operations")
    for each in found["operations"][:12]:  # pyright: ignore[reportIndexIssue]
        print(f"{each['share']:6.1%} {each['ms']:9.3f} ms {each['calls']:7.1f} x {each['name'][:90]}")
    if options.json is not None:
        write_json(options.json, {"kind": "profile", "schema": 1, **beginning, "recipe": options.recipe, **found})


if __name__ == "__main__":
    main()
