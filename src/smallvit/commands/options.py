"""Options that several commands have: those that say where bytes lie and how a device is used, not what a run is."""

from dataclasses import dataclass
from pathlib import Path

from smallvit.device.config import AttentionChoice, DeviceConfig, DeviceName, Switch


@dataclass(frozen=True, kw_only=True)
class DataPlace:
    """Where the data set lies."""

    root: Path | None = None
    """Folder or .tar.gz that holds the data set; without it the cache is read, then the Hugging Face hub."""


@dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """How to use the machine; what the runs are does not depend on it."""

    device: DeviceName = "auto"
    """Where runs take place; auto: a GPU if torch sees one."""
    attention: AttentionChoice = "auto"
    """Attention implementation; auto: two plain matrix products on a CPU, torch's fused attention on a GPU."""
    compile: Switch = "auto"
    """Whether torch.compile makes the training step; auto: on a GPU only."""
    num_threads: int | None = None
    """Threads of each run; None: an equal share for each of those that run at once."""

    def config(self) -> DeviceConfig:
        """Return it as a run's config has it; raise `UsageError` for a bad value."""
        return DeviceConfig(
            device=self.device, attention=self.attention, compile=self.compile, num_threads=self.num_threads
        )


@dataclass(frozen=True, kw_only=True)
class SlurmUse:
    """What is asked of Slurm for each run."""

    partition: str | None = None
    """Partition to submit to; by default the cluster's own."""
    account: str | None = None
    """Account to charge; by default the user's own."""
    minutes: int = 240
    """Time limit of a job; a run that needs longer saves in time, and is queued again."""
