"""What the user says about the machine; free of torch, so that the command line can show it at once."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from smallvit.checks import require_one_of, require_whole

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
AttentionChoice = Literal["auto", "bmm", "sdpa", "native", "flash", "efficient", "cudnn", "flex"]
Switch = Literal["auto", "on", "off"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """How to use the machine, as far as it is no part of a run's identity (its digest).

    `auto` is decided at the start of a run. Device, threads, precision, attention and whether the step is compiled are
    said aloud and kept in the record.
    """

    device: DeviceName = field(default="auto", metadata={"digest": False})
    """Where the run takes place; auto: a CUDA GPU if torch sees one, else the CPU. mps is untested."""
    attention: AttentionChoice = field(default="auto", metadata={"digest": False})
    """Attention implementation: bmm (two plain matrix products), sdpa (torch's fused attention, its own choice of back
    end), on a CPU native (a C++ kernel of our own for few tokens, compiled when first needed), and on a GPU flash,
    efficient and cudnn (that back end of sdpa) and flex (torch's FlexAttention, compiled only); auto: the fastest in a
    short measurement of those that work on this device, remembered in the cache."""
    compile: Switch = field(default="auto", metadata={"digest": False})
    """Whether torch.compile makes the training step; auto: on a GPU only."""
    compile_mode: CompileMode = field(default="default", metadata={"digest": False})
    """How torch.compile goes about it; reduce-overhead: with CUDA graphs, max-autotune: with a search for the best
    kernels too."""
    compile_augment: Switch = field(default="auto", metadata={"digest": False})
    """Whether torch.compile makes the augmentation as well; auto: on a GPU whose step is compiled."""
    prefetch: Switch = field(default="auto", metadata={"digest": False})
    """Whether the next batch is prepared while the device still works on this one; auto: on a GPU only."""
    cuda_graphs: Switch = field(default="auto", metadata={"digest": False})
    """Whether augmentation, forward and backward pass, and update are recorded once, as a CUDA graph each; auto: on one
    GPU, with compile_mode default."""
    num_threads: int | None = field(default=None, metadata={"digest": False})
    """Threads of a CPU run; None: as many as torch chooses, and without OMP_NUM_THREADS no more than a
    container's quota is worth."""

    def __post_init__(self) -> None:
        require_one_of("device.device", self.device, get_args(DeviceName))
        require_one_of("device.attention", self.attention, get_args(AttentionChoice))
        require_one_of("device.compile_mode", self.compile_mode, get_args(CompileMode))
        for name in ("compile", "compile_augment", "prefetch", "cuda_graphs"):
            require_one_of(f"device.{name}", getattr(self, name), get_args(Switch))
        if self.num_threads is not None:
            require_whole("device.num_threads", self.num_threads, 1)


@dataclass(frozen=True, kw_only=True)
class DeviceConfig(DeviceUse):
    """How to use the machine; of this only the precision is a part of a run's identity."""

    precision: Precision = "auto"
    """Type of the matrix products; auto: the faster one in a short measurement on this device."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("device.precision", self.precision, get_args(Precision))
