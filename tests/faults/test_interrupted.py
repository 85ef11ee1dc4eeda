"""A run that is killed, asked to end, or out of time: it goes on to the same bits."""

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fault_jobs import (
    STEPS,
    TOY,
    Smallvit,
    Start,
    assert_unfinished_and_whole,
    command_to_go_on,
    listed_step,
    newest_step,
    one_line,
    wait_for,
)
from outcomes import outcome
from smallvit.record import RunRecord


def test_killed_at_six_random_moments_and_started_again_with_the_same_command(
    start: Start, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    print(f"seed {(seed := random.randrange(2**32))}")
    draw, run, words = random.Random(seed), tmp_path / "run", [*TOY, "--out", "run"]
    resumed: list[int] = []
    for number in range(6):
        found = newest_step(run)
        # Six lives do not come to the last step, however late one is killed.
        job = start(words, [("step", "*", "sleep", 0.1), ("step", found + 2, "sleep", 600)])
        if number in (2, 4):  # anywhere, so perhaps before its first step
            time.sleep(draw.uniform(0.0, 0.3))
        else:
            target = found + draw.choice((1, 2))
            wait_for(lambda target=target: listed_step(run) >= target, job)
            time.sleep(draw.uniform(0.0, 0.03))
        os.kill(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
        assert job.err == ""
        assert_unfinished_and_whole(run)
        resumed.append(newest_step(run))
    job = smallvit(words)
    assert (job.status, job.err) == (0, "")
    assert f"note: run was last written to by process {job.pid}" not in job.out
    assert re.search(r"^note: run was last written to by process \d+ on \S+, since \S+, which died$", job.out, re.M)
    assert f"going on after step {resumed[-1]} of {STEPS}" in job.out
    assert RunRecord.load(run / "record.json").resumed_at_steps == sorted(set(resumed) - {0})
    assert outcome(run) == undisturbed


WRITES = 6
"""Files of a checkpoint."""
PLACES: dict[str, tuple[str, int, int]] = {
    "warm-up": ("step", 3, 4),
    "step": ("step", 14, 15),
    "evaluation": ("pass", 3, 12),
    "save": ("write", 7 * WRITES + 2, 9),  # in the 8th; the run ends after one more step
}
"""Where a signal comes, and the steps that are done when the run ends."""


@pytest.mark.parametrize(("place", "name"), [("step", "SIGINT"), *((place, "SIGTERM") for place in PLACES)])
def test_a_signal_ends_the_run_after_its_step_with_the_command_to_go_on(
    place: str, name: str, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    where, number, steps = PLACES[place]
    folder = "run" if name == "SIGINT" else "it's my run"  # the command is quoted as a shell wants it
    job = smallvit([*TOY, "--out", folder], [(where, number, "signal", name)])
    line = one_line(job, 128 + signal.Signals[name])
    assert line.startswith(f"{name}: saved after step {steps} of {STEPS}; to go on: smallvit train --resume ")
    assert newest_step(tmp_path / folder) == steps
    assert_unfinished_and_whole(tmp_path / folder)
    job = smallvit(command_to_go_on(line))
    assert (job.status, job.err) == (0, "")
    assert RunRecord.load(tmp_path / folder / "record.json").resumed_at_steps == [steps]
    assert outcome(tmp_path / folder) == undisturbed


SECOND: dict[str, tuple[list[tuple[str, int, str, str]], int]] = {
    "in the step": ([("step", 14, "signal", "{0} {1}")], 14),
    "in the save": ([("step", 14, "signal", "{0}"), ("write", 3, "signal again", "{1}")], 14),
    "in the evaluation": ([("step", 11, "touch", "here"), ("pass", 2, "signal", "{0} {1}")], 12),
    "after the last step": ([("finish", 1, "signal", "{0} {1}")], 17),
}
"""Where the second signal comes, and the newest checkpoint then."""


@pytest.mark.parametrize(
    ("place", "names"),
    [
        *((place, "SIGINT SIGINT") for place in SECOND),
        ("in the save", "SIGTERM SIGINT"),
        ("in the save", "SIGTERM SIGTERM"),
    ],
)
def test_a_second_signal_ends_the_run_at_once(
    place: str, names: str, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    moments, steps = SECOND[place]
    words, last = [*TOY, "--out", "run"], names.split()[1]
    job = smallvit(words, [(where, number, do, value.format(*names.split())) for where, number, do, value in moments])
    line = one_line(job, 128 + signal.Signals[last])
    assert line.startswith(f"{last} again: ended at once, nothing more was saved")
    assert_unfinished_and_whole(tmp_path / "run")
    assert newest_step(tmp_path / "run") == steps
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    assert smallvit(words).status == 0
    assert outcome(tmp_path / "run") == undisturbed


def test_a_signal_that_comes_twice_at_once_is_one(
    smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """As `timeout` sends it, to the process and to its group."""
    moments = [("step", 14, "signal", "SIGTERM"), ("write", 1, "signal", "SIGTERM")]
    job = smallvit([*TOY, "--out", "run"], moments, one_signal=600)  # times longer, for a busy machine
    assert "SIGTERM: saved after step 15 of 18" in one_line(job, 143)
    assert smallvit([*TOY, "--out", "run"]).status == 0
    assert outcome(tmp_path / "run") == undisturbed


def test_out_of_time_in_time(start: Start, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    began = time.monotonic()
    job = start([*TOY, "--out", "run", "--max-seconds", "3"], [("step", "*", "sleep", 0.5)])
    job.wait()
    elapsed, line = time.monotonic() - began, one_line(job, 75)
    steps = newest_step(tmp_path / "run")
    assert 1 <= steps <= 5  # of 9 s in all
    assert elapsed < 3 + 4 or steps == 1  # one step is always taken, however long it is to the first
    assert line.startswith(f"out of time (--max-seconds): saved after step {steps} of {STEPS}; to go on: ")
    # As often as a scheduler likes: with no time at all it still gains a step each time.
    job = smallvit([*command_to_go_on(line), "--max-seconds", "0"])
    assert one_line(job, 75).startswith(f"out of time (--max-seconds): saved after step {steps + 1} of {STEPS}")
    assert smallvit(command_to_go_on(line)).status == 0
    assert RunRecord.load(tmp_path / "run" / "record.json").resumed_at_steps == [steps, steps + 1]
    assert outcome(tmp_path / "run") == undisturbed
