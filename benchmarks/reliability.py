"""What does it cost that a run cannot be lost? Seconds of a save, and the share of a step that exactness takes.

    python benchmarks/reliability.py [--recipe baseline] [--folder .] [--json FILE]

A save is that of the training loop: weights, the optimiser's state, the state's JSON, a hash of the last batch's draws,
metrics of a whole run's length; flushed to the disk. What exactness adds to each step is the look at loss and gradient
before the weights are touched. The rest of it (draws by hashed keys, no random state) costs nothing that a step shows.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from smallvit.bench.record import circumstances
from smallvit.bench.workload import Workload
from smallvit.files import write_json
from smallvit.metrics import MetricsFile
from smallvit.recipes import RECIPES
from smallvit.session import Session
from smallvit.stop import Stop
from smallvit.train.loop import fit
from smallvit.training import Training

SAVES, STEPS, CHECKS = 15, 3, 50


def main() -> None:
    """Measure, print, and write the record that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="baseline")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to save, on the disk that is asked about")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    beginning = circumstances()
    session = Workload(RECIPES[options.recipe]()).session
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        found = measured(session, folder)
    finally:
        shutil.rmtree(folder)
    found = {"recipe": options.recipe, **beginning, **found}
    found["threads"] = torch.get_num_threads()
    for name in ("checkpoint_bytes", "save_seconds", "step_seconds", "check_seconds", "check_share_of_a_step"):
        print(f"{name:24}{found[name]}")
    if options.json:
        write_json(options.json, found)


def measured(session: Session, folder: Path) -> dict[str, object]:
    """Take some steps and saves of a session, and return their seconds."""
    training = Training(session, folder, Stop())
    steps: list[float] = []
    start = time.perf_counter()
    states = fit(
        session.learner(training.optimizers),
        lambda step: session.batch(0),
        rate=lambda _: 1e-3,
        total_steps=STEPS + 1,
    )
    for state in states:
        training.steps_done = state.step + 1
        steps.append(time.perf_counter() - start)
        start = time.perf_counter()
    line = json.dumps({"step": 80000, "loss": 1.23456789, "lr": 1e-3, "seconds": 12345.678, "images_per_second": 321.0})
    training._metrics = MetricsFile(folder / "metrics.jsonl", (line + "\n") * (58_500 // 20))
    saves: list[float] = []
    for number in range(SAVES):
        training.steps_done = STEPS + 1 + number
        start = time.perf_counter()
        training._save()
        saves.append(time.perf_counter() - start)
    training._metrics.close()
    newest = max((folder / "checkpoints").iterdir())
    checks: list[float] = []
    gradients = [torch.randn_like(p) for p in session.model.parameters()]
    for _ in range(CHECKS):
        start = time.perf_counter()
        norm = torch.nn.utils.get_total_norm(gradients)
        bool(torch.stack([norm, norm]).isfinite().all())
        checks.append(time.perf_counter() - start)
    step, check = statistics.median(steps[1:]), statistics.median(checks)
    return {
        "checkpoint_bytes": sum(path.stat().st_size for path in newest.iterdir()),
        "save_seconds": {"median": round(statistics.median(saves), 4), "slowest": round(max(saves), 4), "of": SAVES},
        "step_seconds": round(step, 4),
        "check_seconds": round(check, 6),
        "check_share_of_a_step": round(check / step, 5),
    }


if __name__ == "__main__":
    main()
