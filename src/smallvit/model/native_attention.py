"""Self-attention of few tokens on a CPU, by a C++ kernel that is compiled for this processor and one shape.

With some 65 tokens and narrow heads an attention is softmax and memory traffic: plain products write and read its
weights several times, and torch's fused kernel is made for long sequences. `native_attention.cpp` keeps one head of one
image in the nearest caches, forward and backward, and keeps no weights for the backward pass. It gives the same bits on
any number of threads.

Shapes: B batch, N tokens, D embed_dim, H heads, K head width.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smallvit.model.native import UnavailableError, address, load

SOURCE = Path(__file__).with_name("native_attention.cpp")
MOST_TOKENS = 300
"""With the widest heads, in float32, a thread's working memory is 2.4 MB: more than the nearest caches hold."""
MOST_HEAD_WIDTH = 128
TILE = 4
"""A head's width is a multiple of it; the kernel's own constant."""
VALUE_BITS = {torch.bfloat16: 16, torch.float32: 32}

_libraries: dict[tuple[int, int, torch.dtype], ctypes.CDLL] = {}


def prepare(tokens: int, head_width: int, dtype: torch.dtype, folder: Path) -> None:
    """Have the kernel for N = `tokens` and K = `head_width` ready in this process, compiled into `folder` if need be.

    Raises `UnavailableError` for a shape or type that it does not have, and where it cannot be compiled or loaded.
    """
    key = (tokens, head_width, dtype)
    if key in _libraries:
        return
    if tokens > MOST_TOKENS or head_width > MOST_HEAD_WIDTH or head_width % TILE or dtype not in VALUE_BITS:
        raise UnavailableError(
            f"it is for up to {MOST_TOKENS} tokens and heads of {TILE} to {MOST_HEAD_WIDTH}, a multiple of {TILE}"
        )
    shape = (f"TOKENS={tokens}", f"HEAD_WIDTH={head_width}", f"VALUE_BITS={VALUE_BITS[dtype]}")
    _libraries[key] = load(SOURCE, shape, folder)


def native_attention(qkv: Float[Tensor, "B N E"], num_heads: int) -> Float[Tensor, "B N D"]:
    """Return each token's attended values, the heads side by side; E = 3 D: queries, keys and values, each of H x K.

    Raises `UnavailableError` where the shape was not prepared.
    """
    if qkv.shape[-1] % (3 * num_heads):
        raise UnavailableError(f"{qkv.shape[-1]} values are no queries, keys and values of {num_heads} heads")
    return _attention(qkv.contiguous(), num_heads)[0]


def _forward(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    library, sizes = _library(qkv, num_heads)
    out, softmax = _outputs(qkv, num_heads)
    library.forward(address(qkv), address(out), address(softmax), *sizes)
    return out, softmax


def _backward(qkv: Tensor, out: Tensor, softmax: Tensor, gradient: Tensor, num_heads: int) -> Tensor:
    library, sizes = _library(qkv, num_heads)
    if (gradient.shape, gradient.dtype) != (out.shape, out.dtype) or not (
        out.is_contiguous() and gradient.is_contiguous()
    ):
        raise UnavailableError("it takes gradients of its outputs' shape and type, one row after another in memory")
    found = torch.empty_like(qkv)
    library.backward(address(qkv), address(out), address(gradient), address(softmax), address(found), *sizes)
    return found


def _outputs(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    images, tokens, width = qkv.shape
    softmax = qkv.new_empty(images, num_heads, 2, tokens, dtype=torch.float32)
    return qkv.new_empty(images, tokens, width // 3), softmax


def _backward_outputs(qkv: Tensor, out: Tensor, softmax: Tensor, gradient: Tensor, num_heads: int) -> Tensor:
    return torch.empty_like(qkv)


def _library(qkv: Tensor, num_heads: int) -> tuple[ctypes.CDLL, tuple[object, ...]]:
    """Return the kernel for a tensor's shape, and what both of its calls end with."""
    images, tokens, head_width = len(qkv), qkv.shape[1], qkv.shape[2] // (3 * num_heads)
    library = _libraries.get((tokens, head_width, qkv.dtype))
    if library is None:
        raise UnavailableError(f"it was not prepared for {tokens} tokens and heads of {head_width} in {qkv.dtype}")
    if not qkv.is_contiguous():
        raise UnavailableError("it takes tokens that lie one after another in memory")
    scale, threads = ctypes.c_float(head_width**-0.5), ctypes.c_int32(torch.get_num_threads())
    return library, (ctypes.c_int64(images), ctypes.c_int64(num_heads), scale, threads)


def _save(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.num_heads = inputs[1]


def _gradients(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return _attention_backward(*ctx.saved_tensors, gradient.contiguous(), ctx.num_heads), None


# For a CPU alone: elsewhere torch refuses a tensor, whose memory is not the kernel's to read.
_attention = torch.library.custom_op("smallvit::native_attention", _forward, mutates_args=(), device_types="cpu")
_attention.register_fake(_outputs)
_attention.register_autograd(_gradients, setup_context=_save)
_attention_backward = torch.library.custom_op(
    "smallvit::native_attention_backward", _backward, mutates_args=(), device_types="cpu"
)
_attention_backward.register_fake(_backward_outputs)
