"""What a finished run left, bar the clocks: equal for two runs of one config, however they were interrupted."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from smallvit.measured import Measured
from smallvit.record import RunRecord

CLOCKS = {"started", "train_seconds", "first_step_seconds", "evaluate_seconds", "images_per_second", "seconds"}


def without_clocks(value: Any) -> Any:
    """Return what two runs of one config have in common: all but clock readings and the list of interruptions."""
    if isinstance(value, dict):
        hidden = CLOCKS | {"sha256", "resumed_at_steps"}
        return {key: without_clocks(item) for key, item in value.items() if key not in hidden}
    return [without_clocks(item) for item in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that a finished run left, bar the clocks."""
    hashes = {
        name: sha256((folder / name).read_bytes()).hexdigest() for name in ("model.safetensors", "test.safetensors")
    }
    metrics = [without_clocks(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    record = without_clocks(RunRecord.load(folder / "record.json").to_json())
    config = json.loads((folder / "config.json").read_text())
    return {**hashes, "metrics": metrics, "record": record, "config": config}


def assert_measured(found: Measured, record: RunRecord) -> None:
    """Assert that test, measured again, is what the record says of it."""
    assert (found.metrics(), found.calibrated()) == (record.test, record.test_calibrated)
