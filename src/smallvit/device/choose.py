"""Turns `auto` into decisions, by asking torch and by measuring."""

import math
import os
import platform
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from smallvit.cores import proc, usable_cores
from smallvit.device.config import Attention, Convolution, Device, DeviceConfig, DeviceUse, Precision
from smallvit.device.memory import keep_freed_memory
from smallvit.errors import UsageError

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The type of the matrix products in each precision."""
MeasureAttention = Callable[[Device, Precision, bool], tuple[Attention, str]]
"""From device, precision and whether the step is compiled to the fastest implementation, and the reason."""
MeasureConvolution = Callable[[Device, Precision], tuple[Convolution, str | None]]
"""Likewise; no reason where there is nothing to choose."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What was decided for a run."""

    device: Device
    precision: Precision
    attention: Attention
    convolution: Convolution
    compile: bool
    num_threads: int
    reason: str
    """How precision, attention and convolution were chosen, for the user."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the matrix products."""
        return DTYPES[self.precision]

    def __str__(self) -> str:
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        where = f"cpu with {threads}" if self.device == "cpu" else self.device
        compiled = "compiled" if self.compile else "not compiled"
        convolution = ", native convolution" if self.convolution == "native" else ""
        return f"{where}, {self.precision} ({self.reason}), {self.attention} attention{convolution}, {compiled}"


def choose(
    config: DeviceConfig, *, rows: int, embed_dim: int, attention: MeasureAttention, convolution: MeasureConvolution
) -> Choices:
    """Decide what `config` leaves to `auto` and a record keeps, and set torch's thread count.

    `rows` and `embed_dim` are the shape of the matrix products to come (tokens in a batch, width); `attention` and
    `convolution` measure where they are left to `auto`. Raises `UsageError` for a device that torch does not see.
    """
    seen = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = device_of(config)
    if not seen[device]:
        available = ", ".join(name for name, is_seen in seen.items() if is_seen)
        raise UsageError(f"device.device is {device}: torch sees none here; available: {available}, or auto")
    torch.set_num_threads(num_threads(config))
    if device == "cpu":
        keep_freed_memory()
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # torch allows it, of all products, to convolutions: 10 bits of 23
    if config.precision == "auto":
        precision, reason = _faster_precision(device, rows, embed_dim)
    else:
        precision, reason = config.precision, "as asked"
    compiled = device == "cuda" if config.compile == "auto" else config.compile == "on"
    if config.attention == "auto":
        chosen, why = attention(device, precision, compiled)
        reason = f"{reason}; {why}"
    else:
        chosen = config.attention
    if config.convolution == "auto":
        convolved, why = convolution(device, precision)
        reason = reason if why is None else f"{reason}; {why}"
    else:
        convolved = config.convolution
    return Choices(
        device=device,
        precision=precision,
        attention=chosen,
        convolution=convolved,
        compile=compiled,
        num_threads=torch.get_num_threads(),
        reason=reason,
    )


def device_of(config: DeviceUse) -> Device:
    """Return the device that is asked for, seen or not; by `auto` a GPU of CUDA or else the CPU, as MPS is untested."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def num_threads(config: DeviceUse) -> int:
    """Return the threads of torch that are asked for, or torch's own number, without OMP_NUM_THREADS no more than a
    container's quota is worth.
    """
    if config.num_threads is not None:
        return config.num_threads
    threads = torch.get_num_threads()
    return threads if os.environ.get("OMP_NUM_THREADS") else min(threads, usable_cores())


def hardware() -> dict[str, str | int]:
    """Return what a reader of a number needs to know of the machine: processor, cores, memory in GiB, GPU.

    Some processors' names tell little ("AMD EPYC"); family and model tell them apart.
    """
    name = proc("cpuinfo", "model name") or platform.processor() or platform.machine()
    info: dict[str, str | int] = {"processor": name}
    family, model = proc("cpuinfo", "cpu family"), proc("cpuinfo", "model")
    if family is not None and model is not None:
        info["processor_model"] = f"family {family}, model {model}"
    info |= {"cores": usable_cores(), "platform": platform.platform(terse=True)}
    if "SC_PHYS_PAGES" in os.sysconf_names:
        info["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info


@contextmanager
def threads_kept() -> Generator[None]:
    """Give torch back the number of threads that it had before, whatever was set within."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def torch_kept() -> Generator[None]:
    """Give torch back the number of threads and the states of its generators that it had before: they are the caller's,
    who may draw by them between two runs. Within, new tensors are of float32 and on the CPU by default, gradients are
    found and autocast is off, whatever the caller has set.
    """
    began = torch.cuda.is_initialized()
    seed, cards = torch.initial_seed(), range(torch.cuda.device_count() if began else 0)
    try:
        with threads_kept(), torch.random.fork_rng(cards, device_type="cuda"), _own_defaults():
            yield
    finally:
        if not began and torch.cuda.is_initialized():  # by the caller's seed, as torch has a card begin
            torch.cuda.manual_seed_all(seed)


@contextmanager
def _own_defaults() -> Generator[None]:
    kind, cpu = torch.get_default_dtype(), torch.device("cpu")
    torch.set_default_dtype(torch.float32)
    try:  # as a context a device costs each call of torch something
        with ExitStack() as own:
            if torch.get_default_device() != cpu:
                own.enter_context(cpu)
            if torch.is_inference_mode_enabled():
                own.enter_context(torch.inference_mode(mode=False))
            own.enter_context(torch.enable_grad())
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    own.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        torch.set_default_dtype(kind)


@contextmanager
def one_thread() -> Generator[None]:
    """Have torch compute on one thread of the CPU: beside other work, several wait for one another, and a measurement
    of them tells more of that than of the arithmetic.
    """
    with threads_kept():
        torch.set_num_threads(1)
        yield


def synchronize(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def timed(call: Callable[[], object], device: str, calls: int = 1) -> float:
    """Return the seconds that a call takes, the mean of `calls` one after another, until the device has done them."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / calls


# On a CPU so many rows tell as much as all of a batch, in some 10 ms.
MOST_ROWS_ON_A_CPU = 2048
PRECISION_TURNS = 10
TIE = 1.1
"""Up to this ratio of times contestants are equal, and the one that is named first wins, so that runs alike choose
alike."""
PRODUCTS_ON_A_GPU = 50
"""One after another, so that not the launch of one is measured, nor the wait for it."""
CLEARLY_SLOWER = 10.0
"""Where bfloat16 takes as many times longer two turns are enough: of processors without it, at a great width, they
would take many seconds."""


def times(ratio: float) -> str:
    """Return a ratio in words, to two digits: `1.4 times`, `160 times`."""
    return f"{float(f'{ratio:.2g}'):g} times"


def _faster_precision(device: str, rows: int, embed_dim: int) -> tuple[Precision, str]:
    rows = min(rows, MOST_ROWS_ON_A_CPU) if device == "cpu" else rows
    with one_thread():
        full, half = _matmul_seconds(device, rows, embed_dim)
    speed = f"bfloat16 products measured {times(full / half)} as fast"
    # Launched one by one small products take alike, whatever they cost the device.
    tie = 1.0 if device == "cpu" else TIE
    return ("bfloat16" if half < tie * full else "float32"), speed


def _matmul_seconds(device: str, rows: int, embed_dim: int) -> tuple[float, float]:
    """Return the seconds of a product in float32 and in bfloat16: the least of some turns, since other work adds to
    one turn or another, and takes from none.
    """
    products = [
        (
            torch.ones(rows, embed_dim, device=device, dtype=t),
            torch.ones(embed_dim, 3 * embed_dim, device=device, dtype=t),
        )
        for t in (torch.float32, torch.bfloat16)
    ]
    full, half, calls = math.inf, math.inf, 1 if device == "cpu" else PRODUCTS_ON_A_GPU
    for turn in range(PRECISION_TURNS):
        if turn > 1 and half > CLEARLY_SLOWER * full:
            break
        full, half = (
            min(least, timed(partial(torch.matmul, *each), device, calls))
            for least, each in zip((full, half), products, strict=True)
        )
    return full, half
