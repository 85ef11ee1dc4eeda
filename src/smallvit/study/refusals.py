"""When a job that an engine refused is submitted again, and when it has failed: a scheduler's limit is not for ever."""

import math
import time

RETRY_SECONDS = 10.0
"""Until a job that was refused is submitted again."""
REFUSED_SECONDS = 60.0
"""How long jobs may be refused while none runs: a scheduler counts a job for some time after it has ended."""


class Refusals:
    """Those of one engine."""

    def __init__(self) -> None:
        self._retry_at = self._since = math.inf
        """The latter: since when jobs have been refused while none runs."""

    @property
    def is_pending(self) -> bool:
        """Whether a job is to be submitted again."""
        return self._retry_at < math.inf

    def is_too_early(self) -> bool:
        """Return whether to wait before jobs are submitted again; that it is not is told once of each refusal."""
        if self.is_pending and time.monotonic() < self._retry_at:
            return True
        self._retry_at = math.inf
        return False

    def taken(self) -> None:
        """Note that a job was taken."""
        self._since = math.inf

    def refused(self, *, others_run: bool) -> bool:
        """Note that a job was refused, and return whether it is to be submitted again."""
        now = time.monotonic()
        self._since = math.inf if others_run else min(self._since, now)
        if now < self._since + REFUSED_SECONDS:
            self._retry_at = now + RETRY_SECONDS
        else:
            self._since = math.inf  # the next job has as long
        return self.is_pending
