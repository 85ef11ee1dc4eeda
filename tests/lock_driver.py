"""A process that takes the lock of a folder: `lock_driver.py FOLDER WHAT`; prints what happened, then waits for input.

WHAT is hold, wait (for the holder's name), fork (a child of the holder lives on), run (a started program does), raise
(the body fails) or a name of an errno that every flock of this process answers with from then on (see failing_calls).
"""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import smallvit.lock
from failing_calls import fail
from smallvit.errors import SmallvitError
from smallvit.lock import run_lock


def main() -> None:
    folder, what = Path(sys.argv[1]), sys.argv[2]
    if what == "wait":
        smallvit.lock.GRACE_SECONDS = 60.0
    if hasattr(errno, what):
        fail("flock", what)
    try:
        with run_lock(folder) as note:
            if what == "fork":
                ready, tell = os.pipe()
                if os.fork() == 0:
                    os.write(tell, b"x")  # from here on a signal is not lost
                    time.sleep(60)
                    return  # out of the with statement: in a child, that must not touch the lock
                os.read(ready, 1)
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
