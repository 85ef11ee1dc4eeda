"""A loss or gradient that is no number: it never reaches the weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from fault_jobs import TOY, Smallvit, assert_unfinished_and_whole, newest_step, one_line
from outcomes import outcome
from smallvit.record import RunRecord


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_no_number_ends_the_run_before_the_weights(
    what: str, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    words, run = [*TOY, "--out", "run"], tmp_path / "run"
    line = one_line(smallvit(words, **{what: [7]}), 1)
    found = "the loss is nan" if what == "loss" else "the gradient's norm is nan"
    assert line.startswith(f"{found} at step 7 (rate 0.00889): try a lower optim.lr, or muon_lr if that is set; ")
    assert line.endswith("; the batch is in run/nonfinite-step-00000007.json")
    assert newest_step(run) == 7
    report = json.loads((run / "nonfinite-step-00000007.json").read_text())
    assert (report["step"], report["loss"] == "nan", report["gradient_norm"]) == (7, what == "loss", "nan")
    assert len(set(report["batch_indices"])) == 64
    assert_unfinished_and_whole(run)
    assert smallvit(words).status == 0
    assert outcome(run) == undisturbed


def test_a_signal_while_it_ends_of_itself_does_not_cut_its_line_off(smallvit: Smallvit) -> None:
    """As torchrun's, which comes to all ranks when one is lost, and they know it already."""
    job = smallvit([*TOY, "--out", "run"], [("release", 1, "signal", "SIGTERM")], loss=[7])
    assert one_line(job, 1).startswith("the loss is nan at step 7 ")
    assert not Path(job.cwd, "run", ".owner.json").exists()


def test_no_numbers_are_left_out_and_counted_up_to_a_number_in_a_row(smallvit: Smallvit, tmp_path: Path) -> None:
    skip = [*TOY, "--train.on-nonfinite", "skip", "--train.max-skips", "2"]
    job = smallvit([*skip, "--out", "run"], gradient=[3, 4, 8])
    assert (job.status, job.err) == (0, "")
    assert job.out.count(" is left out: its loss or gradient is no finite number") == 3
    assert RunRecord.load(tmp_path / "run" / "record.json").skipped_steps == [3, 4, 8]
    # Interrupted between two that are left out: they are in a row nevertheless.
    words = [*skip, "--out", "parts"]
    job = smallvit(words, [("step", 4, "signal", "SIGTERM")], loss=[3, 4])
    one_line(job, 143)
    line = one_line(smallvit(words, loss=[5]), 1)
    assert line.startswith("the loss is nan at step 5 ")
