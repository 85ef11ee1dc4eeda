"""What an engine is."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from smallvit.study.job import Order
from smallvit.study.process import Handle


@runtime_checkable
class Engine(Protocol):
    """Somewhere to run jobs."""

    @property
    def threads(self) -> int | None:
        """Threads of a job, where the user does not say; None: as many as torch chooses."""
        ...

    @property
    def requeues(self) -> int:
        """Times that a job which was ended there, by its scheduler say, and not by the study, is begun again."""
        ...

    def slots(self) -> int:
        """Return how many jobs it runs at once, now."""
        ...

    def start(self, order: Order, log: Path) -> Handle:
        """Start a job, whose output goes to the end of `log`."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
