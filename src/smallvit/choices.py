"""What a config leaves to `auto`, decided once for all ranks of a run."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch

from smallvit.config import RunConfig
from smallvit.data.cache import cache_folder
from smallvit.device.choose import (
    DTYPES,
    Attention,
    Choices,
    Convolution,
    Device,
    Precision,
    choose,
    hardware,
    one_thread,
)
from smallvit.device.fastest import fastest
from smallvit.errors import UsageError
from smallvit.model import native_attention, native_conv
from smallvit.model.attention import AttentionImplementation, attention_calls, implementations
from smallvit.model.native import UnavailableError, version
from smallvit.model.tokenizer import MatrixConv, conv_calls
from smallvit.model.vit import largest_convolution
from smallvit.train.distributed import World

ATTENTION_WEIGHTS = 2**20
"""Query-key pairs over which attention is measured on a CPU: 20 images of the baseline, 0.2 s."""
CONVOLUTION_MACS = 2**30
"""Multiply-accumulates, as a plain sum has them, over which a convolution is measured: 28 images of `laptop`, 1 s."""
INSTEAD = {"attention": "sdpa", "convolution": "torch"}
"""What a run goes on with where a kernel of ours, with which it began, is not to be had."""


def decide(config: RunConfig, world: World, earlier: Choices | None) -> Choices:
    """Decide what `config` leaves to `auto`: what rank 0 measures holds for all."""
    device, model = config.device, config.model
    images = config.train.batch_size // world.size
    if earlier is not None:
        device = replace(
            device,
            precision=earlier.precision,
            attention=earlier.attention if device.attention == "auto" else device.attention,
            convolution=earlier.convolution if device.convolution == "auto" else device.convolution,
        )
    elif not world.is_main:
        device = replace(device, precision="float32", attention="sdpa", convolution="torch")
    own = choose(
        device,
        rows=images * model.num_tokens,
        embed_dim=model.embed_dim,
        attention=partial(_attention, config, images),
        convolution=partial(_convolution, config, images),
    )
    works = implementations(own.device, compiled=own.compile, masked=model.locality == "lsa")
    if earlier is not None:
        # A run of a GPU may go on, or be measured anew, on a CPU.
        own = replace(own, reason=earlier.reason, attention=own.attention if own.attention in works else "sdpa")
    for what, why in _missing(config, own).items():
        if earlier is None:
            others = ", ".join(name for name in works if name != "native") if what == "attention" else INSTEAD[what]
            raise UsageError(f"device.{what} is native: {why}; allowed are {others}, or auto")
        own = replace(own, **{what: INSTEAD[what]})
    if own.attention not in works:
        allowed = f"for {own.device}, {'' if own.compile else 'not '}compiled, allowed are {', '.join(works)}, or auto"
        raise UsageError(f"device.attention is {own.attention}: {allowed}")
    if world.size == 1:
        return own
    world.barrier()  # patient, where rank 0 has much to measure
    shared = Choices(**world.broadcast_object(asdict(own)))
    alike = own.device == shared.device and own.device != "mps"
    if own.device == "cuda" and world.local_rank >= torch.cuda.device_count():
        alike = False
    if world.any(not alike):
        raise UsageError(
            f"device.device is {config.device.device}, rank {world.rank} would have {own.device}: "
            f"{world.size} ranks need cpu on all, or a cuda GPU for each"
        )
    missing = _missing(config, shared)
    world.barrier()  # patient, where another machine compiles the kernels
    for what, instead in INSTEAD.items():
        if world.any(what in missing):
            if earlier is None:
                why = missing.get(what, "it works here, but not on every rank")
                raise UsageError(f"device.{what} is native, on rank {world.rank}: {why}; give {instead}")
            shared = replace(shared, **{what: instead})
    return shared


def _missing(config: RunConfig, choices: Choices) -> dict[str, str]:
    """Have the kernels ready that are chosen; return which of them cannot be had, and why."""
    attention, convolution = choices.attention == "native", choices.convolution == "native"
    found = {
        "attention": _why_no_native(config, choices.dtype) if attention else None,
        "convolution": _why_no_native_conv(config, choices.device, choices.precision) if convolution else None,
    }
    return {what: why for what, why in found.items() if why is not None}


def _why_no_native(config: RunConfig, dtype: torch.dtype) -> str | None:
    """Have the CPU's own kernel ready for a model; return why that is not possible, if it is not."""
    model = config.model
    try:
        # Not the cache that the config names: one that came with a run of somebody else's would bring code to load.
        width = model.embed_dim // model.num_heads
        native_attention.prepare(model.num_tokens, width, dtype, cache_folder(None) / "native")
    except UnavailableError as error:
        return str(error)
    return None


def _attention(
    config: RunConfig, images: int, device: Device, precision: Precision, compiled: bool
) -> tuple[Attention, str]:
    """Measure which attention is fastest for a model, forward and backward; see `fastest`."""
    model = config.model
    tokens, heads, width = model.num_tokens, model.num_heads, model.embed_dim
    if device != "cuda":  # where a part of the batch tells as much
        images = max(1, min(images, ATTENTION_WEIGHTS // (heads * tokens**2)))
    qkv = torch.randn(images, tokens, 3 * width, generator=torch.Generator().manual_seed(0))
    qkv = qkv.to(device, DTYPES[precision])
    masked = model.locality == "lsa"
    mask = ~torch.eye(tokens, dtype=torch.bool, device=device) if masked else None
    names = implementations(device, compiled=compiled, masked=masked)
    missing = _why_no_native(config, qkv.dtype) if "native" in names else None
    if missing is not None:
        names = tuple[AttentionImplementation, ...](name for name in names if name != "native")
    how = f"{device}, {precision}, {'' if compiled else 'not '}compiled{', masked' if masked else ''}"
    key = f"{how}; {images} x {tokens} tokens, {heads} heads of {width // heads}"
    calls = attention_calls(names, qkv, heads, compiled=compiled and device == "cuda", mask=mask)
    best, reason = _fastest("attention", calls, device, native_attention.SOURCE, key)
    return cast("Attention", best), reason if missing is None else f"{reason}; native left out: {missing}"


def _why_no_native_conv(config: RunConfig, device: Device, precision: Precision) -> str | None:
    """Have the CPU's kernel for a model's convolutions ready; return why that is not possible, if it is not."""
    if device != "cpu" or precision != "float32":
        return f"it is for cpu and float32, and this is {device} and {precision}"
    if largest_convolution(config.model) is None:
        return f"the model has no 3 x 3 convolution of stride 1 whose channels are multiples of {native_conv.CHANNELS}"
    try:
        native_conv.prepare(cache_folder(None) / "native")  # not the config's, as above
    except UnavailableError as error:
        return str(error)
    return None


def _convolution(
    config: RunConfig, images: int, device: Device, precision: Precision
) -> tuple[Convolution, str | None]:
    """Measure which convolution is faster for a model, forward and backward; see `fastest`."""
    shape = largest_convolution(config.model)
    if device != "cpu" or precision != "float32" or shape is None:
        return "torch", None
    missing = _why_no_native_conv(config, device, precision)
    if missing is not None:
        return "torch", f"native convolution left out: {missing}"
    size, channels, width = shape
    images = max(1, min(images, CONVOLUTION_MACS // (9 * size**2 * channels * width)))
    pixels = torch.randn(images, channels, size, size, generator=torch.Generator().manual_seed(0))
    calls = conv_calls(MatrixConv(channels, width), pixels)
    key = f"{images} x {size} x {size}, {channels} to {width}"
    best, reason = _fastest("convolution", calls, device, native_conv.SOURCE, key)
    return cast("Convolution", best), reason


def _fastest(
    what: str, calls: Mapping[str, Callable[[], object]], device: Device, source: Path, key: str
) -> tuple[str, str]:
    """Return `fastest` on one thread, remembered for this hardware, torch and, where it competes, kernel (`source`)."""
    here = hardware()
    names = ("gpu",) if device == "cuda" else ("processor", "processor_model")
    parts = [*(str(here[name]) for name in names if name in here), f"torch {torch.__version__}"]
    if "native" in calls:
        parts.append(f"kernel {version(source)}")
    with one_thread():
        return fastest(what, calls, device, cache_folder(None) / f"{what}.json", "; ".join([*parts, key]))
