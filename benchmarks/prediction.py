"""Does a run take what `smallvit recipes` says? Seconds predicted, and seconds taken from start to end.

    python benchmarks/prediction.py [--threads N] [--seconds 10] [--recipes ...] [--json FILE]

Whole recipes take hours. So each is shortened to as many epochs of the digits, which come with the package, as are
predicted to take `--seconds`, at least one; model, batch, augmentation and optimiser are the recipe's. A prediction is
made of the medians of a few measured steps and evaluations. What is taken is the time of a process that does the run,
its imports included.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from smallvit.bench.pace import measured_pace
from smallvit.bench.record import circumstances
from smallvit.bench.workload import Workload
from smallvit.config import RunConfig
from smallvit.files import write_json
from smallvit.recipes import RECIPES, quickstart
from smallvit.record import RunRecord
from smallvit.run_folder import RECORD
from smallvit.study.job import Order
from smallvit.study.process import Process


def shortened(config: RunConfig, epochs: int, threads: int | None) -> RunConfig:
    """Return a recipe for the digits, so many epochs long."""
    return replace(
        config,
        data=quickstart().data,
        train=replace(config.train, epochs=epochs),
        optim=replace(config.optim, warmup_epochs=1.0),
        evaluate=replace(config.evaluate, every_epochs=epochs),
        device=replace(config.device, num_threads=threads),
    )


def compare(config: RunConfig, threads: int | None, seconds: float) -> dict[str, Any]:
    """Predict a recipe, shortened to about as many seconds, train it, and return both."""
    pace = measured_pace(Workload(shortened(config, 1, threads)))
    epochs = 1
    while pace.seconds(shortened(config, epochs + 1, threads)) <= seconds:
        epochs += 1
    config = shortened(config, epochs, threads)
    predicted = pace.seconds(config)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        order = Order(do="run", config=config.to_json(), folder=str(folder), cwd=str(Path.cwd()))
        start = time.monotonic()
        ended = Process(order, Path(scratch) / "log").wait()
        taken = time.monotonic() - start
        if ended.status:
            raise SystemExit(ended.line)
        record = RunRecord.load(folder / RECORD)
    return {
        "steps": config.num_steps(record.num_train),
        "choices": str(record.choices),
        "predicted_seconds": round(predicted, 2),
        "taken_seconds": round(taken, 2),
        "train_seconds": round(record.train_seconds, 2),
        "evaluate_seconds": round(record.evaluate_seconds, 2),
        "predicted_over_taken": round(predicted / taken, 3),
    }


def main() -> None:
    """Print a line a recipe; write the record where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="CPU threads of torch; by default as many as torch chooses")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each run is to take")
    parser.add_argument("--recipes", default="quickstart,small,baseline,laptop,best")
    parser.add_argument("--json", type=Path, help="where to write the record")
    options = parser.parse_args()
    beginning, found = circumstances(), {}
    for name in options.recipes.split(","):
        found[name] = compare(RECIPES[name](), options.threads, options.seconds)
        taken, ratio = found[name]["taken_seconds"], found[name]["predicted_over_taken"]
        print(f"{name}: {found[name]['predicted_seconds']} s predicted, {taken} s taken, {ratio} of it", flush=True)
    if options.json is not None:
        write_json(options.json, {"kind": "prediction", "schema": 2, **beginning, "recipes": found})


if __name__ == "__main__":
    main()
