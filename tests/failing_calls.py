"""Makes a real system call of this process fail from now on, by a seccomp filter; Linux on x86-64 only.

For what no disk here does by itself: a file system without flock, a quota, a device that breaks.
"""

import ctypes
import errno
import os
import struct

NUMBERS = {"fsync": 74, "flock": 73, "rename": 82, "mkdir": 83}


def fail(call: str, name: str) -> None:
    """Let the kernel answer `call` with the errno of that name, for good."""
    load_word, jump_if_equal, give = 0x20, 0x15, 0x06
    allowed, error = 0x7FFF0000, 0x00050000
    steps = [
        (load_word, 0, 0, 0),
        (jump_if_equal, 0, 1, NUMBERS[call]),
        (give, 0, 0, error | getattr(errno, name)),
        (give, 0, 0, allowed),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    header = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, seccomp, by_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(seccomp, by_filter, header, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
