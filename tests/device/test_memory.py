"""Freed memory stays with the process: seen in a process of its own, by the kernel's count of page faults."""

import platform
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from smallvit.device.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    torch.ones(40 * 2**20 // 4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to keep memory")
def test_a_freed_block_of_40_mib_is_taken_again_without_page_faults() -> None:
    counts = {
        mode: int(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, check=True).stdout)
        for mode in ("keep", "plain")
    }
    pages = 40 * 2**20 // resource.getpagesize()
    assert counts["plain"] > 50 * pages, "else there is nothing to gain here"
    assert counts["keep"] < 25 * pages  # the heap grows by some blocks until one fits with its alignment
