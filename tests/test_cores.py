"""How many processors a process may keep busy, by affinity and quota, and whether others do."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smallvit.cores import LOADAVG, free_memory, is_busy, usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity masks")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        (None, 8),
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("6400000 100000\n", 8),
        ("odd\n", 8),
    ],
)
def test_no_more_than_the_mask_and_the_quota_allow(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("smallvit.cores.CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("told", "processors", "busy"),
    [
        ("1.90 1.50 1.00 1/200 77\n", 2, False),  # of a minute ago
        ("0.00 0.00 0.00 2/200 77\n", 2, True),
        ("9.00 9.00 9.00 7/200 77\n", 8, False),  # as many as the six processors that are not ours may run
        ("9.00 9.00 9.00 8/200 77\n", 8, True),
        ("odd\n", 2, False),
        (None, 2, False),
    ],
)
def test_a_machine_is_busy_by_what_runs_on_it_now(
    told: str | None, processors: int, busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smallvit.cores.usable_cores", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    monkeypatch.setattr("smallvit.cores.LOADAVG", tmp_path / "loadavg")
    if told is not None:
        (tmp_path / "loadavg").write_text(told)
    assert is_busy() == busy


@pytest.mark.skipif(not LOADAVG.exists(), reason="this system has no /proc/loadavg")
def test_a_process_that_computes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallvit.cores.usable_cores", os.cpu_count)
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        found = is_busy()
        other.kill()
    assert found


@pytest.mark.parametrize(
    ("available", "limit", "free"),
    [
        ("2000 kB", None, 2000 * 1024),
        ("2000 kB", "max\n", 2000 * 1024),
        ("2000 kB", "1000000\n", 1_000_000 - 700_000 + 500_000),
        ("20 kB", "1000000\n", 20 * 1024),
        (None, "1000000\n", 1_000_000 - 700_000 + 500_000),
        (None, None, math.inf),
    ],
)
def test_no_more_memory_is_free_than_the_container_allows(
    available: str | None, limit: str | None, free: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what it uses, files that were read make way."""
    monkeypatch.setattr("smallvit.cores.proc", lambda file, key: available)
    monkeypatch.setattr("smallvit.cores.MEMORY_LIMIT", tmp_path / "memory.max")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("700000\n")
        (tmp_path / "memory.stat").write_text("anon 100000\ninactive_file 500000\nactive_file 100000\n")
    assert free_memory() == free
