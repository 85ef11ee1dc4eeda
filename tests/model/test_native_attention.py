"""The kernel for a CPU against plain products in float64, in every form that it is compiled to."""

import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smallvit.model import native
from smallvit.model import native_attention as module
from smallvit.model.attention import attend
from smallvit.model.config import ModelConfig
from smallvit.model.native import UnavailableError
from smallvit.model.native_attention import _attention, _attention_backward, native_attention, prepare
from smallvit.model.vit import VisionTransformer

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="the kernel needs a C++ compiler")
SHAPES = {
    "the baseline's": (65, 12, 16),
    "width 96, two CLS tokens": (66, 12, 8),
    "small's": (66, 3, 32),
    "patches of 2, in several chunks": (257, 2, 16),
    "one token": (1, 2, 12),
    "fewer tokens than lanes": (7, 2, 20),
    "wide heads": (17, 1, 128),
    "as many as it takes": (300, 1, 4),
}
BASE: dict[str, Any] = {"image_size": 16, "num_classes": 7, "embed_dim": 24, "depth": 2, "num_heads": 3}
# By the bits that a value keeps: of bfloat16 8, of which a product of rounded weights with rounded values loses some.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("native")


def plain(qkv: Tensor, num_heads: int) -> Tensor:
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    return attend(q, k, v, "bmm").transpose(1, 2).flatten(2)


def draws(shape: tuple[int, int, int], dtype: torch.dtype, images: int = 3) -> tuple[Tensor, Tensor]:
    """Return qkv of some size, so that weights are far from uniform, and a gradient of the output."""
    tokens, heads, width = shape
    generator = torch.Generator().manual_seed(0)
    qkv = 1.5 * torch.randn(images, tokens, 3 * heads * width, generator=generator)
    return qkv.to(dtype), torch.randn(images, tokens, heads * width, generator=generator).to(dtype)


def distances(shape: tuple[int, int, int], dtype: torch.dtype) -> list[float]:
    """Return how far output and gradient are from plain products in float64, relative to their size."""
    given, gradient = draws(shape, dtype)
    results: list[list[Tensor]] = []
    for attention, kind in ((native_attention, dtype), (plain, torch.float64)):
        qkv = given.to(kind).requires_grad_()
        out = attention(qkv, shape[1])
        results.append([out.detach(), *torch.autograd.grad(out, qkv, gradient.to(kind))])
    assert all(found.dtype == dtype for found in results[0])
    return [float((found.double() - wanted).norm() / wanted.norm()) for found, wanted in zip(*results, strict=True)]


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_plain_products(
    folder: Path, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    prepare(shape[0], shape[2], dtype, folder)
    assert max(distances(shape, dtype)) < TOLERANCE[dtype]


@needs_compiler
@pytest.mark.skipif("flags" not in Path("/proc/cpuinfo").read_text(), reason="the processors named are of x86")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_lesser_processors_have_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str, dtype: torch.dtype
) -> None:
    if processor == "x86-64-v4" and "avx512vl" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX-512")
    flags = [flag.replace("native", processor) for flag in native.FLAGS]
    monkeypatch.setattr(native, "FLAGS", tuple(flags))
    monkeypatch.setattr(module, "_libraries", {})
    prepare(65, 16, dtype, tmp_path)
    assert max(distances((65, 2, 16), dtype)) < TOLERANCE[dtype]


@needs_compiler
def test_weights_that_one_key_has_all_of_stay_finite(folder: Path) -> None:
    prepare(9, 8, torch.float32, folder)
    qkv, gradient = draws((9, 2, 8), torch.float32)
    results: list[tuple[Tensor, Tensor]] = []
    for attention in (native_attention, plain):
        tokens = (20 * qkv).requires_grad_()
        out = attention(tokens, 2)
        results.append((out.detach(), torch.autograd.grad(out, tokens, gradient)[0]))
    (out, found), (wanted_out, wanted) = results
    torch.testing.assert_close(out, wanted_out, rtol=1e-3, atol=1e-2)
    assert found.isfinite().all()
    # Scores are some thousands, of which float32 keeps four digits behind the point.
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=2e-2)


@needs_compiler
@pytest.mark.parametrize("part", ["queries", "keys", "values"])
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_what_is_no_number_or_too_large_is_not_hidden(
    folder: Path, dtype: torch.dtype, value: float, part: str
) -> None:
    """Where plain products of these have no number the kernel has none either, and the same numbers elsewhere."""
    prepare(9, 8, dtype, folder)
    (qkv, gradient), at = draws((9, 2, 8), dtype), 16 * ["queries", "keys", "values"].index(part)
    qkv[0, 4, at + 3] = value  # of the first of three images, the first of two heads
    if value == 1e30:
        qkv[0, :, :32] = qkv[0, :, :32] * 1e20  # so that scores overflow
    results: list[list[Tensor]] = []
    for attention in (native_attention, plain):
        tokens = qkv.clone().requires_grad_()
        out = attention(tokens, 2)
        results.append([out.detach(), *torch.autograd.grad(out, tokens, gradient)])
    for found, wanted in zip(*results, strict=True):
        assert torch.equal(found[0].isfinite().all(), wanted[0].isfinite().all())
        torch.testing.assert_close(found[1:], wanted[1:], rtol=5e-2, atol=2e-2)
    assert not results[0][0].isfinite().all()


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_scores_that_are_all_minus_infinity_are_not_hidden(folder: Path, dtype: torch.dtype) -> None:
    prepare(9, 8, dtype, folder)
    qkv, _ = draws((9, 2, 8), dtype)
    qkv[0, :, :16], qkv[0, :, 16:32] = 1e25, -1e25
    for attention in (native_attention, plain):
        out = attention(qkv, 2)
        assert out[0].isnan().all()
        assert out[1:].isfinite().all()


@needs_compiler
def test_what_would_be_read_beyond_its_end_is_refused(folder: Path) -> None:
    """By the operators themselves: `native_attention` makes of its tokens what they take."""
    prepare(9, 8, torch.float32, folder)
    qkv, gradient = draws((9, 2, 8), torch.float32)
    out, softmax = _attention(qkv, 2)
    for wrong in (gradient[:1], gradient.bfloat16(), gradient[:1].expand(3, 9, 16)):
        with pytest.raises(UnavailableError, match="it takes gradients of its outputs' shape and type"):
            _attention_backward(qkv, out, softmax, wrong, 2)
    with pytest.raises(UnavailableError, match="it takes tokens that lie one after another"):
        _attention(qkv[:1].expand(3, 9, 48), 2)


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_sharp_attention_is_as_fast_as_any(folder: Path, dtype: torch.dtype) -> None:
    """The smallest weights, times what they are multiplied with, are not among the numbers that processors are slow
    with.
    """
    prepare(65, 16, dtype, folder)
    qkv, gradient = draws((65, 12, 16), dtype, images=8)
    seconds: dict[float, list[float]] = {10.0: [], 1.0: []}
    for _ in range(10):
        for factor, taken in seconds.items():
            tokens = torch.cat([factor * qkv[..., :384], qkv[..., 384:]], dim=-1).requires_grad_()
            start = time.process_time()  # other work slows it down less
            torch.autograd.grad(native_attention(tokens, 12), tokens, gradient)
            taken.append(time.process_time() - start)
    assert min(seconds[10.0]) < 3 * min(seconds[1.0])


@needs_compiler
def test_bits_are_the_same_on_any_number_of_threads_and_in_any_batch(folder: Path) -> None:
    prepare(9, 8, torch.bfloat16, folder)
    qkv, gradient = draws((9, 3, 8), torch.bfloat16, images=5)

    def results(images: slice) -> tuple[Tensor, Tensor]:
        tokens = qkv[images].clone().requires_grad_()
        out = native_attention(tokens, 3)
        return out.detach(), torch.autograd.grad(out, tokens, gradient[images])[0]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = results(slice(None))
        torch.set_num_threads(1)
        for found, wanted in zip(results(slice(1, 4)), together, strict=True):
            assert torch.equal(found, wanted[1:4])
    finally:
        torch.set_num_threads(threads)


@needs_compiler
def test_it_takes_as_many_threads_as_torch_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(9, 8, torch.float32, folder)
    qkv, _ = draws((9, 3, 8), torch.float32, images=6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def running() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    def begun() -> int:
        before = running()
        native_attention(qkv, 3)
        return running() - before

    with ThreadPoolExecutor(1) as fresh:  # OpenMP's threads belong to the one that begins them
        assert fresh.submit(begun).result() == 3


@needs_compiler
def test_the_largest_shape_needs_no_large_stack(folder: Path) -> None:
    """As threads have it where the stack is unlimited: 2 MB. A crash would be this process's."""
    shape = (300, 2, 128)
    prepare(shape[0], shape[2], torch.float32, folder)
    qkv, gradient = draws(shape, torch.float32, images=1)
    qkv.requires_grad_(True)
    found: list[Tensor] = []

    def attended() -> None:
        out = native_attention(qkv, shape[1])
        found.extend((out, *torch.autograd.grad(out, qkv, gradient)))

    threads, usual = torch.get_num_threads(), threading.stack_size(2**20)
    torch.set_num_threads(1)
    try:
        thread = threading.Thread(target=attended)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(usual)
        torch.set_num_threads(threads)
    out = plain(qkv, shape[1])
    torch.testing.assert_close(found[0], out, rtol=0, atol=2e-5)
    torch.testing.assert_close(found[1], torch.autograd.grad(out, qkv, gradient)[0], rtol=0, atol=2e-5)


@needs_compiler
def test_values_that_are_no_whole_heads_are_refused(folder: Path) -> None:
    prepare(17, 4, torch.float32, folder)
    with pytest.raises(UnavailableError, match="29 values are no queries, keys and values of 2 heads"):
        native_attention(torch.zeros(1, 17, 29), 2)


def test_memory_of_another_device_is_refused() -> None:
    for name in ("smallvit::native_attention", "smallvit::native_attention_backward"):
        known = {
            key
            for key in ("CPU", "CUDA", "XPU", "MPS")
            if torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, key)
        }
        assert known == {"CPU"}


@needs_compiler
def test_attend_takes_parts_that_lie_apart(folder: Path) -> None:
    prepare(9, 8, torch.float32, folder)
    q, k, v = torch.randn(3, 2, 3, 9, 8, generator=torch.Generator().manual_seed(0)).transpose(-2, -1).mT
    torch.testing.assert_close(attend(q, k, v, "native"), attend(q, k, v, "bmm"), rtol=1e-5, atol=1e-6)


MODELS = {
    "plain": {},
    "class attention": {"num_cls_tokens": 3, "num_class_attention_blocks": 2},
    "low rank": {"latent_dim_q": 5, "latent_dim_v": 8},
    "norms and rotation": {"qk_norm": "rms", "position": "rotary", "num_registers": 1},
}


@needs_compiler
@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_a_model_has_the_logits_and_gradients_of_plain_products(
    folder: Path, rough_model: Callable[..., VisionTransformer], images: Tensor, fields: dict[str, Any]
) -> None:
    config = ModelConfig(**BASE | fields)
    prepare(config.num_tokens, 8, torch.float32, folder)
    results: list[tuple[Tensor, Tensor]] = []
    for attention, kind in (("native", torch.float32), ("bmm", torch.float64)):
        model = rough_model(config, attention=attention).to(kind)
        used = {block.attn.implementation for block in model.blocks}
        assert used == {attention}
        logits = model(images.to(kind))
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        results.append((logits.detach().double(), torch.cat([p.grad.flatten().double() for p in model.parameters()])))
    for found, wanted in zip(*results, strict=True):
        assert (found - wanted).norm() < 2e-5 * wanted.norm()


@needs_compiler
def test_it_is_compiled_once_for_a_shape_and_again_for_another_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> set[str]:
        monkeypatch.setattr(module, "_libraries", {})
        prepare(5, 4, torch.float32, tmp_path)
        return {path.name for path in tmp_path.iterdir()}

    first = files()
    assert len(first) == 1
    monkeypatch.setenv("CXX", "env c++")  # as people name a cache of compilations
    assert files() == first
    monkeypatch.setattr(native, "LIBRARY_FLAGS", (*native.LIBRARY_FLAGS, "-g"))
    assert len(files() - first) == 1


def compiler(path: Path, script: str) -> str:
    """Return what CXX is to be for a shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for 5 tokens and heads of 4."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_libraries", {})
        prepare(5, 4, torch.float32, folder)
    return next(folder.iterdir())


@pytest.fixture
def copier(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each compilation give a copy of that library."""
    script = f"for last; do :; done\n[ $last = /dev/null ] || cp {compiled} $last"
    monkeypatch.setenv("CXX", compiler(tmp_path / "cc", script))


@needs_compiler
@pytest.mark.usefixtures("copier")
@pytest.mark.parametrize("kept", [100, 12_288, None])
def test_a_damaged_library_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int | None) -> None:
    """One that was cut short would end the process, one with another bit compute something else."""
    monkeypatch.setattr(module, "_libraries", {})
    prepare(5, 4, torch.float32, tmp_path / "whole")
    (made,) = (tmp_path / "whole").iterdir()
    (tmp_path / "damaged").mkdir()
    damaged = tmp_path / "damaged" / made.name
    content = bytearray(made.read_bytes()[:kept])
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    monkeypatch.setattr(module, "_libraries", {})
    prepare(5, 4, torch.float32, tmp_path / "damaged")
    assert max(distances((5, 1, 4), torch.float32)) < TOLERANCE[torch.float32]
    (anew,) = (tmp_path / "damaged").iterdir()
    assert hashlib.sha256(anew.read_bytes()).hexdigest()[:16] in anew.name


@needs_compiler
@pytest.mark.usefixtures("copier")
def test_a_library_that_others_may_write_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    monkeypatch.setattr(module, "_libraries", {})
    prepare(5, 4, torch.float32, folder)
    (made,) = folder.iterdir()
    for mode, anew in ((0o600, False), (0o606, True), (0o660, True)):
        made.chmod(mode)
        before = made.stat().st_ino
        monkeypatch.setattr(module, "_libraries", {})
        prepare(5, 4, torch.float32, folder)
        assert (made.stat().st_ino != before) == anew
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
    monkeypatch.setattr(os, "getuid", lambda: made.stat().st_uid + 1)
    assert not native._is_ours(made)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("In file included from x.cpp:1:\nx.cpp:3:4: error: expected ;\n  3 |\n    ^", "x.cpp:3:4: error: expected ;"),
        ("ld: cannot find -lgomp\ncollect2: error: ld returned 1", "ld: cannot find -lgomp"),
        ("x.cpp:\nx.cpp:3:4: \\344rger", "x.cpp:3:4: \N{REPLACEMENT CHARACTER}rger"),
    ],
)
def test_what_a_compiler_complains_of_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, why: str
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path / "cc", f"printf '{said}' >&2\nexit 1"))
    with pytest.raises(UnavailableError) as caught:
        native.load(module.SOURCE, (), tmp_path)
    assert str(caught.value) == f"cc cannot compile it: {why}"


def test_nothing_lies_in_the_folder_while_it_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stay there where the process is killed."""
    folder = tmp_path / "folder"
    script = f"for last; do :; done\nls {folder} >> {tmp_path}/seen\n[ $last = /dev/null ] || echo made > $last"
    monkeypatch.setenv("CXX", compiler(tmp_path / "cc", script))
    made = native._compiled(module.SOURCE, (), folder)
    assert made.read_text() == "made\n"
    assert (tmp_path / "seen").read_text() == ""
    assert list(folder.iterdir()) == [made]


@pytest.mark.parametrize("vanishes_at", ["stat", "read_bytes"])
def test_a_library_that_another_process_deletes_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vanishes_at: str
) -> None:
    script = "for last; do :; done\n[ $last = /dev/null ] || echo made > $last"
    monkeypatch.setenv("CXX", compiler(tmp_path / "cc", script))
    made = native._compiled(module.SOURCE, (), tmp_path / "folder")
    own = getattr(Path, vanishes_at)

    def vanished(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == made:
            made.unlink(missing_ok=True)
        return own(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, vanishes_at, vanished)
        name = native._compiled(module.SOURCE, (), tmp_path / "folder").name
    assert name == made.name


def test_why_it_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_libraries", {})
    refused = ((301, 8, torch.float32), (65, 6, torch.float32), (65, 132, torch.float32), (65, 8, torch.float64))
    for shape in refused:
        with pytest.raises(UnavailableError, match=r"up to 300 tokens and heads of 4 to 128, a multiple of 4$"):
            prepare(*shape, tmp_path)
    for name in ("no-such-compiler", "no-such-cache c++", "'", " "):
        monkeypatch.setenv("CXX", name)
        with pytest.raises(UnavailableError, match=re.escape("no C++ compiler was found (c++, or what $CXX names)")):
            prepare(65, 8, torch.float32, tmp_path)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UnavailableError, match="false cannot compile it: it says nothing"):
        prepare(65, 8, torch.float32, tmp_path)
    with pytest.raises(UnavailableError, match="was not prepared for 2 tokens and heads of 4"):
        native_attention(torch.zeros(1, 2, 12), 1)
    assert not list(tmp_path.iterdir())
