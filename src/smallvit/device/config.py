"""What the user says about the machine; free of torch, so that the command line can show it at once."""

from dataclasses import dataclass, field
from typing import Literal

from smallvit.checks import require_whole, require_words

MOST_THREADS = 1024
"""Of some ten thousand a process has no room for the stacks, and crashes."""
Device = Literal["cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16"]
Attention = Literal["bmm", "sdpa", "native", "flash", "efficient", "cudnn", "flex"]
Convolution = Literal["torch", "native"]
DeviceChoice = Literal["auto", Device]
PrecisionChoice = Literal["auto", Precision]
AttentionChoice = Literal["auto", Attention]
ConvolutionChoice = Literal["auto", Convolution]
Switch = Literal["auto", "on", "off"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """How to use the machine, as far as it is no part of a run's identity (its digest).

    `auto` is decided at the start of a run. Device, threads, precision, attention, convolution and whether the step is
    compiled are said aloud and kept in the record.
    """

    device: DeviceChoice = field(default="auto", metadata={"digest": False})
    """Where the run takes place; auto: a CUDA GPU if torch sees one, else the CPU. mps is untested."""
    attention: AttentionChoice = field(default="auto", metadata={"digest": False})
    """Attention implementation: bmm (two plain matrix products), sdpa (torch's fused attention, its own choice of back
    end), on a CPU native (a C++ kernel of our own for few tokens, compiled when first needed), and on a GPU flash,
    efficient and cudnn (that back end of sdpa) and flex (torch's FlexAttention, compiled only); auto: the fastest in a
    short measurement of those that work on this device, remembered in the cache, or of those that take up to a tenth
    longer the first of sdpa, native, flash, efficient, cudnn, flex, bmm."""
    convolution: ConvolutionChoice = field(default="auto", metadata={"digest": False})
    """Implementation of the tokenizer's 3 x 3 convolutions of stride 1: torch, and on a CPU in float32 native (a C++
    kernel of our own, Winograd's, compiled when first needed); auto: the faster in a short measurement, remembered in
    the cache."""
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
    """Whether forward and backward pass, update, and, where it is compiled, augmentation are recorded once, as a CUDA
    graph each; auto: on one GPU, with compile_mode default."""
    num_threads: int | None = field(default=None, metadata={"digest": False})
    """Threads of a CPU run; None: as many as torch chooses, and without OMP_NUM_THREADS no more than a
    container's quota is worth."""

    def __post_init__(self) -> None:
        require_words("device", self)
        if self.num_threads is not None:
            require_whole("device.num_threads", self.num_threads, 1, MOST_THREADS)


@dataclass(frozen=True, kw_only=True)
class DeviceConfig(DeviceUse):
    """How to use the machine; of this only the precision is a part of a run's identity."""

    precision: PrecisionChoice = "auto"
    """Type of the matrix products; auto: the faster one in a short measurement on this device."""
