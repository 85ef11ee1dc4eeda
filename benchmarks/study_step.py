"""What does a training step of each row of a study cost, beside its reference's?

    python benchmarks/study_step.py STUDY [--threads N] [--turns N] [--json FILE]

A step as `train` takes it (new batch, augmentation, forward, backward, update) on random images, all rows in one
process, in turns after a warm-up; the median turn counts. A run's own seconds are those of another hour.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from smallvit.bench.clock import take_turns
from smallvit.bench.record import circumstances
from smallvit.bench.workload import Workload
from smallvit.files import write_json
from smallvit.study.studies import STUDIES


def main() -> None:
    """Print a line a row; write the record where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the record")
    options = parser.parse_args()
    study, beginning = STUDIES[options.study](), circumstances()
    works: dict[str, Workload] = {}
    for row in study.rows:
        device = replace(row.config.device, device="cpu", num_threads=options.threads)
        works[row.label] = Workload(replace(row.config, device=device))
    taken = take_turns({label: work.pipeline for label, work in works.items()}, "cpu", options.turns)
    seconds = {label: timing.seconds for label, timing in taken.items()}
    rows = {
        label: {"seconds": round(value, 4), "over_reference": round(value / seconds[study.reference], 5)}
        for label, value in seconds.items()
    }
    for label, row in rows.items():
        print(f"{row['over_reference']:.2f} times, {1e3 * row['seconds']:,.0f} ms: {label}", flush=True)
    if options.json is not None:
        choices = str(works[study.reference].session.choices)
        record = {"kind": "study-step", "schema": 1, **beginning, "study": study.name, "choices": choices, "rows": rows}
        write_json(options.json, record)


if __name__ == "__main__":
    main()
