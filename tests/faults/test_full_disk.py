"""A full disk: what is there stays whole, one line says what had no room, and the run goes on to the same bits."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disks import small_disk
from fault_jobs import TOY, Smallvit, assert_unfinished_and_whole, command_to_go_on, contents, newest_step, one_line
from outcomes import outcome


def test_a_checkpoint_that_has_no_room(smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """A limit on the size of files stands for a quota; it comes after 8 steps."""
    words, run = [*TOY, "--out", "run"], tmp_path / "run"
    line = one_line(smallvit(words, [("step", 8, "limit", 20_000)]), 1)
    assert line == (
        "checkpoint run/checkpoints/step-00000009 cannot be saved: File too large; "
        "the newest whole one is step-00000008"
    )
    assert_unfinished_and_whole(run)
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000007", "step-00000008"]
    before = contents(run / "checkpoints")
    # Again without room: the same, and what was whole stays so.
    line = one_line(smallvit(words, limit=20_000), 1)
    assert line.endswith("step-00000009 cannot be saved: File too large; the newest whole one is step-00000008")
    assert contents(run / "checkpoints") == before
    assert smallvit(words).status == 0
    assert outcome(run) == undisturbed


def test_a_first_checkpoint_that_has_no_room(smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    words = [*TOY, "--out", "run"]
    line = one_line(smallvit(words, limit=20_000), 1)
    assert line.endswith("step-00000001 cannot be saved: File too large; there is no whole one")
    assert_unfinished_and_whole(tmp_path / "run")
    job = smallvit(words)
    assert "note: run holds an unfinished run without a whole checkpoint, which is started over" in job.out
    assert outcome(tmp_path / "run") == undisturbed


def test_metrics_that_have_no_room(smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """After 6 steps a line is cut short by the disk, and taken back."""
    words, run = [*TOY, "--out", "run"], tmp_path / "run"
    seldom = [*words, "--checkpoint.every-seconds", "60"]
    line = one_line(smallvit(seldom, [("step", 5, "limit beyond", ["run/metrics.jsonl", 20])]), 1)
    assert line.startswith("run/metrics.jsonl: No space left on device; ")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    assert_unfinished_and_whole(run)
    assert smallvit(words).status == 0
    assert outcome(run) == undisturbed


def test_a_config_that_has_no_room_starts_nothing(smallvit: Smallvit, tmp_path: Path) -> None:
    line = one_line(smallvit([*TOY, "--out", "run"], limit=1000), 1)
    assert line.startswith("run/config.json: File too large")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    with small_disk(tmp_path / "disk", "size=3m") as place:
        yield place


def test_a_disk_that_fills_up(smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path, disk: Path) -> None:
    words, run = [*TOY, "--out", "disk/run"], disk / "run"
    line = one_line(smallvit(words, [("step", 10, "fill", ["disk", 60_000])]), 1)
    assert re.search(
        r"step-000000\d\d cannot be saved: No space left on device; the newest whole one is step-000000\d\d$", line
    )
    assert newest_step(run) >= 10
    assert_unfinished_and_whole(run)
    (disk / "filler").unlink()
    assert smallvit(words).status == 0
    assert outcome(run) == undisturbed
    # And one that nothing may be written to any more.
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    line = one_line(smallvit([*TOY, "--out", "disk/other"]), 1)
    assert line == "disk/other cannot be made a run folder: Read-only file system"
    assert one_line(smallvit(words), 1) == "disk/run cannot be locked: Read-only file system"


@pytest.mark.parametrize("file", ["model.safetensors", "test.safetensors", "record.json"])
def test_a_disk_that_is_full_at_the_end(
    file: str, smallvit: Smallvit, whole_run: Path, tmp_path: Path, disk: Path
) -> None:
    """With room for what comes before a file, and not for all of it."""
    words, run, page = [*TOY, "--out", "disk/run", "--checkpoint.every-seconds", "60"], disk / "run", 4096
    names = ["model.safetensors", "test.safetensors", "record.json"]
    sizes = [(whole_run / name).stat().st_size for name in names[: names.index(file)]]
    room = sum(-(-size // page) * page for size in sizes)
    line = one_line(smallvit(words, [("finish", 1, "fill", ["disk", room + page])]), 1)
    assert line.startswith(f"disk/run/{file}: No space left on device; ")
    assert [path.name for path in run.iterdir() if path.name.startswith(f".{file}")] == []
    assert_unfinished_and_whole(run)
    (disk / "filler").unlink()
    assert smallvit(command_to_go_on(line)).status == 0
    found, expected = outcome(run), outcome(whole_run)
    for config in (found["config"], found["record"]["config"]):
        config["checkpoint"]["every_seconds"] = 0.0
    assert found == expected
