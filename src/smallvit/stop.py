"""Ends a run in time: at SIGINT or SIGTERM, or before a scheduler's limit.

The first signal asks; the loop finishes its step, saves and ends. A second one ends at once, and a third is not caught.
What follows the first within a second is a part of it: `timeout` and some schedulers send theirs to the process and
then to its group.
"""

import math
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, ClassVar

from smallvit.errors import SmallvitError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_SIGNAL_SECONDS = 1.0
"""Signals that come so soon after the first are one with it."""
OUT_OF_TIME = 75
"""Exit status of a run that `--max-seconds` ended; the customary one for "try again later"."""


class InterruptedRunError(SmallvitError):
    """A run that was asked to end before its last epoch, and has saved what it needs to go on."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status

    def __reduce__(self) -> tuple[type["InterruptedRunError"], tuple[str, int]]:
        return type(self), (str(self), self.exit_status)  # from a process of a pool it comes to its parent so


class Stop:
    """Whether the run has been asked to end, by whom, and the exit status that this means.

    As a context it catches the signals (only in the main thread, as Python has it), but for a SIGINT that is ignored,
    as a shell has it for what it runs in the background.
    """

    _catching: ClassVar["Stop | None"] = None

    def __init__(self, max_seconds: float | None = None) -> None:
        self.reason = ""
        self.exit_status = 0
        self._deadline = time.monotonic() + max_seconds if max_seconds is not None else None
        self._asked_at = -math.inf
        self._before: dict[signal.Signals, Any] = {}
        self._outer: Stop | None = None

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            # None is a handler that Python did not set (of a program that embeds it), and could not be put back.
            ours = [number for number in SIGNALS if signal.getsignal(number) is not None]
            caught = [number for number in ours if not (ignored and number == signal.SIGINT)]
            self._before = {number: signal.signal(number, self._asked_by_signal) for number in caught}
            if caught:
                self._outer, Stop._catching = Stop._catching, self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            Stop._catching = self._outer

    def asked(self, seconds_needed: float = 0.0) -> bool:
        """Return whether to end now, when what comes next and saving need about `seconds_needed`."""
        if not self.reason and self._deadline is not None and time.monotonic() + seconds_needed > self._deadline:
            self.reason, self.exit_status = "out of time (--max-seconds)", OUT_OF_TIME
        return bool(self.reason)

    @classmethod
    def ask_once(cls) -> None:
        """Do as if this process got SIGTERM, unless a signal has asked it to end already; from any thread."""
        if cls._catching is None or not cls._catching.reason:
            os.kill(os.getpid(), signal.SIGTERM)

    def _asked_by_signal(self, number: int, frame: FrameType | None) -> None:
        again = self.exit_status > 128
        if not again:
            self._asked_at = time.monotonic()
        elif time.monotonic() < self._asked_at + ONE_SIGNAL_SECONDS:
            return
        self.reason, self.exit_status = signal.Signals(number).name, 128 + number
        if again:
            for each in self._before:
                signal.signal(each, signal.SIG_DFL)
            raise InterruptedRunError(f"{self.reason} again: ended at once, nothing more was saved", self.exit_status)
