"""A process that takes the lock of a folder: `lock_driver.py FOLDER WHAT`; prints what happened, then waits for input.

WHAT is hold, fork (a child of the holder lives on), run (a started program does), raise (the body fails) or a name
of an errno that every flock of this process answers with from then on (by a seccomp filter of the real system call).
"""

import ctypes
import errno
import os
import platform
import struct
import subprocess
import sys
import time
from pathlib import Path

from smallvit.errors import SmallvitError
from smallvit.lock import run_lock

FLOCK = {"x86_64": 73, "aarch64": 32}


def answer_flock_with(number: int) -> None:
    """Let the kernel answer flock with an error, as a file system without it would."""
    load_word, jump_if_equal, give = 0x20, 0x15, 0x06
    allowed, error = 0x7FFF0000, 0x00050000
    steps = [
        (load_word, 0, 0, 0),
        (jump_if_equal, 0, 1, FLOCK[platform.machine()]),
        (give, 0, 0, error | number),
        (give, 0, 0, allowed),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    header = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, seccomp, by_filter = 38, 22, 2
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.prctl(seccomp, by_filter, header, 0, 0) == 0, os.strerror(ctypes.get_errno())


def main() -> None:
    folder, what = Path(sys.argv[1]), sys.argv[2]
    if hasattr(errno, what):
        answer_flock_with(getattr(errno, what))
    try:
        with run_lock(folder) as note:
            if what == "fork" and os.fork() == 0:
                time.sleep(60)
                return  # out of the with statement: in a child, that must not touch the lock
            if what == "run":
                subprocess.Popen(["sleep", "60"])
            print("locked", note, flush=True)
            if what == "raise":
                raise OSError("of the body")  # noqa: TRY301
            sys.stdin.readline()
        print("released", flush=True)
    except (SmallvitError, OSError) as error:
        print(type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main()
