"""The kernel for convolutions on a CPU against torch's in float64."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smallvit.model import native
from smallvit.model import native_conv as module
from smallvit.model.config import ModelConfig
from smallvit.model.native import UnavailableError
from smallvit.model.native_conv import native_conv, prepare, takes
from smallvit.model.tokenizer import MatrixConv, conv_calls
from smallvit.model.vit import VisionTransformer, largest_convolution

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="the kernel needs a C++ compiler")
TOLERANCE = 1e-5
"""Of a result's norm. With 256 channels the kernel was 4e-6 away, torch's float32 1e-6."""
Conv = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    prepare(folder)
    return folder


def plain(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    taps = weight.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
    return torch.nn.functional.conv2d(images, taps, bias, padding=1)


def draws(count: int, size: int, channels: int, width: int) -> tuple[list[Tensor], Tensor]:
    """Return images, weight and bias, and a gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(count, channels, size, size), (width, 9 * channels), (width,), (count, width, size, size)]
    images, weight, bias, gradient = (torch.randn(shape, generator=generator) for shape in shapes)
    return [images.to(memory_format=torch.channels_last), weight / (9 * channels) ** 0.5, bias], gradient


def results(conv: Conv, inputs: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of images, weight and bias."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = conv(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient)]


def distances(shape: tuple[int, int, int, int]) -> list[float]:
    inputs, gradient = draws(*shape)
    found = results(native_conv, inputs, gradient)
    wanted = results(plain, [x.double() for x in inputs], gradient.double())
    assert all(each.dtype == torch.float32 for each in found)
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]


SHAPES = {
    "laptop's first": (3, 32, 24, 64),
    "laptop's widest, in several chunks": (9, 16, 64, 256),
    "laptop's last, one chunk": (5, 4, 256, 256),
    "more tiles in an image than in a chunk": (2, 50, 8, 16),
    "one pixel": (4, 1, 8, 8),
    "channels that fill no panel": (3, 10, 56, 40),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_plain_sums(shape: tuple[int, int, int, int]) -> None:
    assert max(distances(shape)) < TOLERANCE


@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=60)
def test_so_they_are_of_any_shape(count: int, size: int, channels: int, width: int) -> None:
    assert max(distances((count, size, 8 * channels, 8 * width))) < TOLERANCE


def halved(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return native_conv(images, weight, bias, halved=True)


def halved_by_torch(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.max_pool2d(native_conv(images, weight, bias), 2)


def assert_halved_is_torchs(inputs: list[Tensor], gradient: Tensor) -> None:
    found, wanted = (results(conv, inputs, gradient[..., ::2, ::2]) for conv in (halved, halved_by_torch))
    for a, b in zip(found[:3], wanted[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found[3], wanted[3], rtol=1e-4, atol=1e-4)  # which torch sums in another order


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=60)
def test_halved_it_has_the_bits_of_torchs_maxima(count: int, size: int, channels: int, width: int) -> None:
    assert_halved_is_torchs(*draws(count, 2 * size, 8 * channels, 8 * width))


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_halved_it_has_torchs_bits_where_many_are_the_largest_or_no_numbers(value: float) -> None:
    inputs, gradient = draws(3, 12, 8, 16)
    inputs[0][:2, :, 3:7] = value
    inputs[0][0] = 0
    assert_halved_is_torchs(inputs, gradient)


def test_an_image_of_odd_size_is_not_halved() -> None:
    inputs, _ = draws(2, 5, 8, 8)
    with pytest.raises(UnavailableError, match=r"^the kernel for convolutions halves no images of 5 x 5$"):
        halved(*inputs)


@pytest.mark.skipif("flags" not in Path("/proc/cpuinfo").read_text(), reason="the processors named are of x86")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_lesser_processors_have_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str
) -> None:
    if processor == "x86-64-v4" and "avx512vl" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX-512")
    monkeypatch.setattr(native, "FLAGS", tuple(flag.replace("native", processor) for flag in native.FLAGS))
    monkeypatch.setattr(module, "_libraries", [])
    prepare(tmp_path)
    for shape in ((3, 9, 24, 72), (9, 16, 64, 8)):
        assert max(distances(shape)) < TOLERANCE
    assert_halved_is_torchs(*draws(9, 14, 24, 72))


@pytest.mark.parametrize(
    ("count", "size", "chunk"), [(256, 32, 2), (256, 16, 8), (256, 8, 32), (256, 4, 128), (9, 4, 9), (256, 33, 1)]
)
def test_as_many_images_at_a_time_as_caches_hold(count: int, size: int, chunk: int) -> None:
    """One at a time, which the kernel took at first, it was three times as slow and had every value right."""
    _, _, found = module._library(torch.empty(count, size, size, 8), torch.empty(8, 72), torch.empty(8), (8,), False)
    assert found.value == chunk


@pytest.mark.parametrize("conv", [native_conv, halved])
def test_bits_are_the_same_on_any_number_of_threads(conv: Conv) -> None:
    inputs, _ = draws(7, 20, 24, 40)  # 5 images, then 2
    gradient = torch.randn_like(conv(*inputs))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(results(conv, inputs, gradient)[:3])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e38])
def test_what_is_no_number_or_too_large_is_not_hidden_and_stays_in_its_image(value: float) -> None:
    inputs, gradient = draws(3, 8, 8, 8)
    images, weight, bias = inputs
    ruined = images.clone()
    ruined[1, 2, 3, 3] = value
    found, whole = (results(native_conv, [x, 1e3 * weight, bias], gradient) for x in (ruined, images))
    assert not found[0][1].isfinite().all()
    assert not found[2].isfinite().all()
    for each in (found[0], found[1]):
        assert each[[0, 2]].isfinite().all()
    assert torch.equal(found[0][[0, 2]], whole[0][[0, 2]])


def test_no_images_have_no_gradients() -> None:
    inputs, _ = draws(0, 4, 8, 16)
    for conv, size in ((native_conv, 4), (halved, 2)):
        out, *gradients = results(conv, inputs, torch.empty(0, 16, size, size))
        assert out.shape == (0, 16, size, size)
        assert [float(each.abs().sum()) for each in gradients] == [0, 0, 0]


def test_parts_that_lie_apart_are_taken() -> None:
    (images, weight, bias), gradient = draws(3, 8, 16, 24)
    apart = [images.contiguous(), weight.T.contiguous().T, bias]
    found = results(native_conv, apart, gradient.mT.contiguous().mT)
    wanted = results(native_conv, [images, weight, bias], gradient)
    assert all(torch.equal(a, b) for a, b in zip(found[:3], wanted[:3], strict=True))
    torch.testing.assert_close(found[3], wanted[3])  # which torch sums in another order


def test_memory_of_another_device_is_refused() -> None:
    for name in ("smallvit::native_conv", "smallvit::native_conv_backward"):
        known = {
            key
            for key in ("CPU", "CUDA", "XPU", "MPS")
            if torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, key)
        }
        assert known == {"CPU"}


def test_a_layer_that_it_is_not_for_is_torchs() -> None:
    assert [takes(*channels) for channels in ((8, 24), (12, 8), (8, 12))] == [True, False, False]
    assert MatrixConv(12, 24, "native").implementation == "torch"
    calls = conv_calls(MatrixConv(8, 16), torch.randn(2, 8, 5, 5))
    assert list(calls) == ["torch", "native"]
    for found, wanted in zip(calls["native"](), calls["torch"](), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


MODELS = {
    "conv-pool": ({"tokenizer": "conv-pool", "patch_size": 8}, (16, 24, 8)),
    "conv": ({"tokenizer": "conv", "patch_size": 4, "tokenizer_depth": 2}, (8, 16, 16)),
}


@pytest.mark.parametrize(("fields", "largest"), MODELS.values(), ids=MODELS)
def test_a_model_has_the_logits_and_gradients_of_plain_sums(
    rough_model: Callable[..., VisionTransformer],
    images: Tensor,
    fields: dict[str, object],
    largest: tuple[int, int, int],
) -> None:
    config = ModelConfig(image_size=16, num_classes=7, embed_dim=32, depth=1, num_heads=2, **fields)  # type: ignore[arg-type]
    assert largest_convolution(config) == largest
    found: list[tuple[Tensor, Tensor]] = []
    for convolution, kind in (("native", torch.float32), ("torch", torch.float64)):
        model = rough_model(config, convolution=convolution).to(kind)
        used = {layer.implementation for layer in model.modules() if isinstance(layer, MatrixConv)}
        assert convolution in used
        logits = model(images.to(kind))
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        found.append((logits.detach().double(), torch.cat([p.grad.flatten().double() for p in model.parameters()])))
    for ours, wanted in zip(*found, strict=True):
        assert (ours - wanted).norm() < 2e-5 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_memory_is_not_read_as_another_type(dtype: torch.dtype, place: int) -> None:
    inputs, _ = draws(2, 4, 8, 16)
    inputs[place] = inputs[place].to(dtype)
    with pytest.raises(UnavailableError, match=rf"not for \(2, 4, 4, 8\) in .*{dtype}"):
        native_conv(*inputs)


def test_memory_is_not_read_in_another_shape() -> None:
    images, weight, bias = draws(2, 4, 8, 16)[0]
    wrong = (images, weight[:, :71], bias), (images, weight[:12], bias[:12]), (images[..., :0, :0], weight, bias)
    for inputs in wrong:
        with pytest.raises(UnavailableError, match=r"for square float32 images, .* multiples of 8, not for"):
            native_conv(*inputs)
    channels_last = images.permute(0, 2, 3, 1).contiguous()
    with_gaps = channels_last[:1].expand(2, 4, 4, 8)
    for inputs in (
        (channels_last[:, :3], weight, bias),
        (with_gaps, weight, bias),
        (channels_last, weight, bias[:8]),
    ):
        with pytest.raises(UnavailableError, match=r"multiples of 8, not for"):
            torch.ops.smallvit.native_conv(*inputs, False)
    halves = torch.zeros(2, 2, 2, 16)
    for gradient, where in ((bias, torch.empty(0)), (halves, halves), (halves, halves[:1].byte())):
        with pytest.raises(UnavailableError, match=r"multiples of 8, not for|one for each of them"):
            torch.ops.smallvit.native_conv_backward(channels_last, weight, gradient, where)


def test_an_output_that_nothing_depends_on_has_no_gradients() -> None:
    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> None:
            return None

    inputs = [x.requires_grad_() for x in draws(2, 4, 8, 16)[0]]
    for conv in (native_conv, halved):
        Stop.apply(conv(*inputs)).sum().backward()
    assert [x.grad for x in inputs] == [None, None, None]


def test_a_bias_whose_values_lie_apart_or_are_one_is_read_as_it_is() -> None:
    (images, weight, bias), gradient = draws(2, 4, 8, 16)
    for odd in (bias.repeat_interleave(2)[::2], torch.ones(1).expand(16)):
        found, wanted = (results(native_conv, [images, weight, each], gradient) for each in (odd, odd.clone()))
        assert torch.equal(native_conv(images, weight, odd), native_conv(images, weight, odd.contiguous()))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_why_it_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_libraries", [])
    with pytest.raises(UnavailableError, match=r"^the kernel for convolutions was not prepared$"):
        native_conv(torch.zeros(1, 8, 4, 4), torch.zeros(8, 72), torch.zeros(8))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UnavailableError, match=r"^false cannot compile it: it says nothing$"):
        prepare(tmp_path)
    assert not list(tmp_path.iterdir())
