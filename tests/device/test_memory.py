"""Freed memory stays with the process: seen in a process of its own, by the kernel's count of page faults."""

import platform
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from smallvit.device.memory import keep_freed_memory

PROGRAM = """
import os, resource, torch
from smallvit.device.memory import keep_freed_memory
torch.set_num_threads(1)
for mode in ("keep", "plain"):
    if os.fork():  # each in a process of its own, since what is asked of glibc lasts
        os.wait()
        continue
    if mode == "keep":
        keep_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(40 * 2**20 // 4)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    break
"""


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="huge pages have few faults in any case"
)
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to keep memory")
def test_a_freed_block_of_40_mib_is_taken_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    keep, plain = map(int, done.stdout.split())
    pages = 40 * 2**20 // resource.getpagesize()
    assert plain > 25 * pages, "else there is nothing to gain here"
    assert keep < 13 * pages  # the heap grows by some blocks until one fits with its alignment


@pytest.mark.parametrize(
    ("largest", "sizes", "kept"), [(2**30, [2**30], True), (2**25, [2**30, 2**25], True), (0, [2**30, 2**25], False)]
)
def test_glibc_is_asked_for_less_where_it_refuses_and_for_nothing_else_where_it_still_does(
    largest: int, sizes: list[int], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 2.35 it refuses a threshold of more than 32 MiB, yet whatever it accepts ends its own adjustments."""
    asked: list[tuple[int, int]] = []

    def mallopt(name: int, value: int) -> int:
        asked.append((name, value))
        return int(name != -3 or value <= largest)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert asked[: len(sizes)] == [(-3, size) for size in sizes]  # M_MMAP_THRESHOLD
    assert sorted(name for name, _ in asked[len(sizes) :]) == ([-2, -1] if kept else [])
