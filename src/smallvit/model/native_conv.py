"""3 x 3 convolutions in float32 on a CPU, by a C++ kernel that multiplies a quarter as often.

`native_conv.cpp` is Winograd's minimal filtering, which rounds to 4e-6 of the output's size, with 256 channels, where a
plain sum rounds to 1e-6. That is of no use to bfloat16, whose processors multiply faster than memory can follow.

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
"""Of 4 x 4 pixels, at a time, or one image's: with 256 channels these need 14 MB."""
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
    images: Float[Tensor, "B C S S"], weight: Float[Tensor, "E K"], bias: Float[Tensor, "E"], halved: bool = False
) -> Float[Tensor, "B E R R"]:
    """Return square images convolved, with zeros around them; K = 9 C, row by row of the 3 x 3, the channels last; R is
    S. With `halved` only the maxima of 2 x 2 pixels, as `max_pool2d` has them; R is S / 2, and S is even.

    The output's channels lie last in memory, as the kernel reads the input's. Raises `UnavailableError` where it was
    not prepared, and for other types, as autocast makes them, or other shapes.
    """
    out, _ = _conv(images.permute(0, 2, 3, 1).contiguous(), weight.contiguous(), bias.contiguous(), halved)
    return out.permute(0, 3, 1, 2)


def _forward(images: Tensor, weight: Tensor, bias: Tensor, halved: bool) -> tuple[Tensor, Tensor]:
    library, sizes, chunk = _library(images, weight, bias, (len(weight),), halved)
    found = _outputs(images, weight, bias, halved)
    memory = images.new_empty(library.forward_floats(*sizes[1:], chunk))
    places = map(address, (images, weight, bias, *found, memory))
    library.forward(*places, *sizes, chunk, ctypes.c_int32(torch.get_num_threads()))
    return found


def _backward(images: Tensor, weight: Tensor, gradient: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    halved = where.ndim > 1
    library, sizes, chunk = _library(images, weight, gradient, _output_shape(images, weight, halved), halved)
    if halved and (where.dtype != torch.uint8 or where.shape != gradient.shape):
        raise UnavailableError("the kernel for convolutions has where the maxima are as bytes, one for each of them")
    found = _gradients(images, weight, gradient, where)
    memory = images.new_empty(library.backward_floats(*sizes[1:], chunk))
    places = map(address, (images, weight, gradient, where, *found, memory))
    library.backward(*places, *sizes, chunk, ctypes.c_int32(torch.get_num_threads()))
    return found


def _outputs(images: Tensor, weight: Tensor, bias: Tensor, halved: bool) -> tuple[Tensor, Tensor]:
    """Return room for the output, and for which of 2 x 2 pixels each value of a halved one is: 0 to 3, row by row."""
    out = images.new_empty(_output_shape(images, weight, halved))
    return out, torch.empty(out.shape if halved else 0, dtype=torch.uint8, device=out.device)


def _gradients(images: Tensor, weight: Tensor, gradient: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(images), torch.empty_like(weight)


def _output_shape(images: Tensor, weight: Tensor, halved: bool) -> tuple[int, int, int, int]:
    count, size = images.shape[:2]
    size = size // 2 if halved else size
    return count, size, size, len(weight)


def _library(
    images: Tensor, weight: Tensor, outside: Tensor, shape: tuple[int, ...], halved: bool
) -> tuple[ctypes.CDLL, list[ctypes.c_int64], ctypes.c_int64]:
    """Return the kernel, the sizes B, S, C and E, and the images that it is to take at a time; `outside`, of that
    `shape`, is the bias or the output's gradient.
    """
    if not _libraries:
        raise UnavailableError("the kernel for convolutions was not prepared")
    count, size, other, channels = images.shape
    given = (images, weight, outside)
    fits = size == other > 0 and takes(channels, len(weight)) and weight.shape[1] == 9 * channels
    fits = fits and outside.shape == shape and all(each.is_contiguous() for each in given)
    if not fits or {each.dtype for each in given} != {torch.float32}:
        found = ", ".join(f"{tuple(each.shape)} in {each.dtype}" for each in given)
        raise UnavailableError(
            "the kernel for convolutions is for square float32 images, channels last and without gaps, a weight "
            f"of 9 values a channel, and channels that are multiples of {CHANNELS}, not for {found}"
        )
    if halved and size % 2:
        raise UnavailableError(f"the kernel for convolutions halves no images of {size} x {size}")
    grid = math.ceil(size / TILE)
    chunk = max(1, min(count, TILES // grid**2))
    sizes = [ctypes.c_int64(number) for number in (count, size, channels, len(weight))]
    return _libraries[0], sizes, ctypes.c_int64(chunk)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.set_materialize_grads(False)  # no zeros for `where`, which has no gradient


def _all_gradients(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return None, None, None, None
    images, weight, where = ctx.saved_tensors
    return *_conv_backward(images, weight, gradient.contiguous(), where), gradient.sum((0, 1, 2)), None


# For a CPU alone: elsewhere torch refuses a tensor, whose memory is not the kernel's to read.
_conv = torch.library.custom_op("smallvit::native_conv", _forward, mutates_args=(), device_types="cpu")
_conv.register_fake(_outputs)
_conv.register_autograd(_all_gradients, setup_context=_save)
_conv_backward = torch.library.custom_op(
    "smallvit::native_conv_backward", _backward, mutates_args=(), device_types="cpu"
)
_conv_backward.register_fake(_gradients)
