"""Self-attention of few tokens on a CPU, by a C++ kernel that is compiled for this processor and one shape.

With some 65 tokens and narrow heads an attention is softmax and memory traffic: plain products write and read its
weights several times, and torch's fused kernel is made for long sequences. `native_attention.cpp` keeps one head of one
image in the nearest caches, forward and backward, and keeps no weights for the backward pass.

`prepare` compiles, once a shape, and keeps the library in a folder; where that does not work it says why, and the other
implementations remain. The kernel shares torch's threads, and gives the same bits on any number of them.

Shapes: B batch, N tokens, D embed_dim, H heads, K head width.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smallvit.files import write_atomically

SOURCE = Path(__file__).with_name("native_attention.cpp")
MOST_TOKENS = 300
"""The kernel's working memory lies on the stack: with the widest heads, in float32, 2.4 MB of a thread's usual 8."""
MOST_HEAD_WIDTH = 128
TILE = 4
"""A head's width is a multiple of it; the kernel's own constant."""
VALUE_BITS = {torch.bfloat16: 16, torch.float32: 32}
# Not -ffast-math: rounding to whole numbers by a large constant would be reasoned away.
FLAGS = ("-O3", "-march=native", "-std=gnu++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
LIBRARY_FLAGS = ("-fopenmp", "-shared", "-fPIC")
COMPILE_SECONDS = 120.0

_libraries: dict[tuple[int, int, torch.dtype], ctypes.CDLL] = {}


class UnavailableError(RuntimeError):
    """The kernel is not to be had here; the message says why."""


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
    if sys.platform != "linux" or sys.byteorder != "little":
        raise UnavailableError("it is for Linux, on a processor that has the lowest byte first")
    shape = (f"-DTOKENS={tokens}", f"-DHEAD_WIDTH={head_width}", f"-DVALUE_BITS={VALUE_BITS[dtype]}")
    try:
        _libraries[key] = ctypes.CDLL(str(_compiled(shape, folder)))
    except OSError as error:
        raise UnavailableError(f"its library cannot be written or loaded: {error}") from error


def _compiled(shape: tuple[str, ...], folder: Path) -> Path:
    """Return the library for a shape, from `folder` where it lies for this source, compiler and processor.

    Its name has a hash of its content, too: a damaged one, which would crash or compute something else, is replaced.
    One that another user may have written is not taken.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX") or "c++")  # perhaps `ccache g++`
    except ValueError:  # an open quotation mark
        compiler = []
    if not compiler or shutil.which(compiler[0]) is None:
        raise UnavailableError("no C++ compiler was found (c++, or what $CXX names)")
    # What the compiler defines tells its version and the instructions that the processor has.
    defined = _output([*compiler, *FLAGS, "-dM", "-E", "-x", "c++", "/dev/null"])
    what = "\0".join([*shape, *FLAGS, *LIBRARY_FLAGS, defined]).encode() + SOURCE.read_bytes()
    name = f"attention-{_short_hash(what)}"
    for library in filter(_is_ours, folder.glob(f"{name}-*.so")):
        if library.name == f"{name}-{_short_hash(library.read_bytes())}.so":
            return library
        library.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as place:
        made = Path(place) / "attention.so"
        _output([*compiler, *FLAGS, *LIBRARY_FLAGS, *shape, str(SOURCE), "-o", str(made)])
        content = made.read_bytes()
    library = folder / f"{name}-{_short_hash(content)}.so"
    write_atomically(library, content)
    return library


def _is_ours(library: Path) -> bool:
    """Return whether nobody but this user can have written a library: it is code."""
    state = library.stat()
    return state.st_uid == os.getuid() and not state.st_mode & stat.S_IWOTH


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _output(command: list[str]) -> str:
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{name} took over {COMPILE_SECONDS:.0f} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UnavailableError(f"{name} cannot compile it: {' '.join(last) or 'it says nothing'}")
    return done.stdout


def native_attention(qkv: Float[Tensor, "B N E"], num_heads: int) -> Float[Tensor, "B N D"]:
    """Return each token's attended values, the heads side by side; E = 3 D: queries, keys and values, each of H x K.

    Raises `UnavailableError` where the shape was not prepared.
    """
    return _attention(qkv.contiguous(), num_heads)[0]


def _forward(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    library, sizes = _library(qkv, num_heads)
    out, softmax = _outputs(qkv, num_heads)
    library.forward(_place(qkv), _place(out), _place(softmax), *sizes)
    return out, softmax


def _backward(qkv: Tensor, out: Tensor, softmax: Tensor, gradient: Tensor, num_heads: int) -> Tensor:
    library, sizes = _library(qkv, num_heads)
    found = torch.empty_like(qkv)
    library.backward(_place(qkv), _place(out), _place(gradient), _place(softmax), _place(found), *sizes)
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
    scale, threads = ctypes.c_float(head_width**-0.5), ctypes.c_int32(torch.get_num_threads())
    return library, (ctypes.c_int64(images), ctypes.c_int64(num_heads), scale, threads)


def _place(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


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
