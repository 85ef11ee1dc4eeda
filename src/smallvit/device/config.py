"""What the user says about the machine; free of torch, so that the command line can show it at once."""

from dataclasses import dataclass
from typing import Literal

from smallvit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """How to use the machine. `auto` is decided at the start of a run, said aloud, and kept in the record."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the run takes place; auto: a GPU if torch sees one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the matrix products; auto: the faster one in a short measurement on this device."""
    attention: Literal["auto", "bmm", "sdpa"] = "auto"
    """Attention implementation; auto: two plain matrix products on a CPU, torch's fused attention on a GPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch.compile makes the training step; auto: on a GPU only."""
    num_threads: int | None = None
    """Threads of a CPU run; None: as many as torch chooses."""

    def __post_init__(self) -> None:
        if self.num_threads is not None and self.num_threads < 1:
            raise UsageError(f"device.num_threads is {self.num_threads}: it must be at least 1, or None")
