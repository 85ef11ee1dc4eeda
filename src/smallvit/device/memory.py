"""Freed memory is kept for the next tensors, not handed back to the system.

A step on a CPU frees and takes again some gigabytes. glibc maps blocks of over 32 MiB anew each time, and gives back
the heap's end; every page of them then costs a fault and is zeroed. Attention weights of 12 heads are 50 MiB a block:
kept, a step with plain products took 0.74 of its time (docs/performance.md). Numbers do not change. glibc before 2.35
keeps no more than those 32 MiB.
"""

import ctypes
import sys

# <malloc.h>'s names, and values that are never reached.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_TOP_PAD_BYTES, _LARGEST_KEPT_BYTES, _NEVER = 2**26, (2**30, 2**25), 2**31 - 1


def keep_freed_memory() -> None:
    """Ask the C library to keep what is freed, in this process from now on; only glibc can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # Whichever is set, glibc no longer moves its own threshold: without a large one the others would do harm.
    if mallopt is not None and any(mallopt(_M_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT_BYTES):
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
        mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)
