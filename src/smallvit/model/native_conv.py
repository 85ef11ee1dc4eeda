"""3 x 3 convolutions in float32 on a CPU, by a C++ kernel that multiplies a quarter as often.

`native_conv.cpp` is Winograd's minimal filtering, which rounds to some 2e-6 of the output's size where a plain sum
rounds to 5e-7. That is of no use to bfloat16, whose processors multiply faster than memory can follow.

Shapes: B batch, S image size, C channels that go in, E that come out.
"""

import ctypes
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smallvit.model.native import UnavailableError, address, load

SOURCE = Path(__file__).with_name("native_conv.cpp")
CHANNELS = 8
"""What goes in and what comes out are a multiple of it; the kernel's own constant."""
TILES = 128
"""Of 4 x 4 pixels, at a time, or one image's: with 256 channels these need 15 MB."""
TILE = 4

_libraries: list[ctypes.CDLL] = []


def takes(in_channels: int, out_channels: int) -> bool:
    """Return whether the kernel is for a layer of so many channels."""
    return in_channels % CHANNELS == 0 and out_channels % CHANNELS == 0


def prepare(folder: Path) -> None:
    """Have the kernel ready in this process, compiled into `folder` if need be.

    Raises `UnavailableError` where it cannot be compiled or loaded.
    """
    if not _libraries:
        library = load(SOURCE, (), folder)
        library.forward_floats.restype = library.backward_floats.restype = ctypes.c_int64
        _libraries.append(library)


def native_conv(
    images: Float[Tensor, "B C S S"], weight: Float[Tensor, "E K"], bias: Float[Tensor, "E"]
) -> Float[Tensor, "B E S S"]:
    """Return square images convolved, with zeros around them; K = 9 C, row by row of the 3 x 3, the channels last.

    The output's channels lie last in memory, as the kernel reads the input's. Raises `UnavailableError` where it was
    not prepared, and for other types, as autocast makes them, or other shapes.
    """
    return _conv(images.permute(0, 2, 3, 1).contiguous(), weight.contiguous(), bias.contiguous()).permute(0, 3, 1, 2)


def _forward(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    library, sizes, chunk = _library(images, weight, bias)
    out = _output(images, weight, bias)
    memory = images.new_empty(library.forward_floats(*sizes[1:], chunk))
    places = map(address, (images, weight, bias, out, memory))
    library.forward(*places, *sizes, chunk, ctypes.c_int32(torch.get_num_threads()))
    return out


def _backward(images: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    library, sizes, chunk = _library(images, weight, gradient)
    found = _gradients(images, weight, gradient)
    memory = images.new_empty(library.backward_floats(*sizes[1:], chunk))
    places = map(address, (images, weight, gradient, *found, memory))
    library.backward(*places, *sizes, chunk, ctypes.c_int32(torch.get_num_threads()))
    return found


def _output(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return images.new_empty(*images.shape[:3], len(weight))


def _gradients(images: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(images), torch.empty_like(weight)


def _library(
    images: Tensor, weight: Tensor, outside: Tensor
) -> tuple[ctypes.CDLL, list[ctypes.c_int64], ctypes.c_int64]:
    """Return the kernel, the sizes B, S, C and E, and the images that it is to take at a time; `outside` is the bias or
    the output's gradient.
    """
    if not _libraries:
        raise UnavailableError("the kernel for convolutions was not prepared")
    count, size, other, channels = images.shape
    given = (images, weight, outside)
    fits = size == other > 0 and takes(channels, len(weight)) and weight.shape[1] == 9 * channels
    fits = fits and outside.shape in ((len(weight),), (*images.shape[:3], len(weight)))
    if not fits or {each.dtype for each in given} != {torch.float32}:
        found = ", ".join(f"{tuple(each.shape)} in {each.dtype}" for each in given)
        raise UnavailableError(
            "the kernel for convolutions is for square float32 images, channels last, a weight of 9 values a channel, "
            f"and channels that are multiples of {CHANNELS}, not for {found}"
        )
    grid = math.ceil(size / TILE)
    chunk = max(1, min(count, TILES // grid**2))
    sizes = [ctypes.c_int64(number) for number in (count, size, channels, len(weight))]
    return _libraries[0], sizes, ctypes.c_int64(chunk)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _all_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return *_conv_backward(*ctx.saved_tensors, gradient.contiguous()), gradient.sum((0, 1, 2))


# For a CPU alone: elsewhere torch refuses a tensor, whose memory is not the kernel's to read.
_conv = torch.library.custom_op("smallvit::native_conv", _forward, mutates_args=(), device_types="cpu")
_conv.register_fake(_output)
_conv.register_autograd(_all_gradients, setup_context=_save)
_conv_backward = torch.library.custom_op(
    "smallvit::native_conv_backward", _backward, mutates_args=(), device_types="cpu"
)
_conv_backward.register_fake(_gradients)
