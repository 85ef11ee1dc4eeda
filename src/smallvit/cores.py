"""What the system tells: how many processors this process may keep busy, whether others do already, how much memory is
free; and of /proc.
"""

import math
import os
import time
from contextlib import suppress
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time in a period, and the period's microseconds, where a container has a limit."""
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Bytes that a container may use, where it has a limit; what it does use is told beside it."""
LOADAVG = Path("/proc/loadavg")
LOOKS = 5


def usable_cores() -> int:
    """Return the processors that the affinity mask leaves to this process, or what its container's quota is worth."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # there is none: "max 100000"
        return cores


def proc(file: str, key: str) -> str | None:
    """Return what a file in /proc has after the first `key:`; None where there is none."""
    with suppress(OSError):
        for line in Path("/proc", file).read_text().splitlines():
            name, _, rest = line.partition(":")
            if name.strip() == key:
                return rest.strip()
    return None


def free_memory() -> float:
    """Return the bytes of memory that this process could still have, by what the system has and what its container may
    use; infinity where neither is known.
    """
    found = proc("meminfo", "MemAvailable")
    free = math.inf if found is None else 1024.0 * int(found.split()[0])
    with suppress(OSError, ValueError, KeyError):  # there is no limit: "max"
        limit, used = int(MEMORY_LIMIT.read_text()), int(MEMORY_LIMIT.with_name("memory.current").read_text())
        stat = dict(line.split() for line in MEMORY_LIMIT.with_name("memory.stat").read_text().splitlines())
        # What is kept of files that were read counts as used, and makes way.
        free = min(free, float(limit - used + int(stat["inactive_file"])))
    return free


def is_busy() -> bool:
    """Return whether other work runs just now, in most of a few looks within 40 ms; False where Linux does not tell.

    In a container the host's work is counted, so as much as its other processors take is left out.
    """
    elsewhere, seen = (os.cpu_count() or 1) - usable_cores(), 0
    for look in range(LOOKS):
        time.sleep(0.01 if look else 0)
        try:
            running = int(LOADAVG.read_text(encoding="ascii").split()[3].partition("/")[0]) - 1  # without this process
        except (OSError, ValueError, IndexError):
            return False
        seen += running > elsewhere
    return seen > LOOKS // 2
