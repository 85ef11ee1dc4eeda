"""What `auto` becomes, and what is said where it cannot be had."""

from functools import partial
from typing import Any

import pytest
import torch

from smallvit.device import choose as module
from smallvit.device.choose import choose, device_of, hardware, num_threads, torch_kept
from smallvit.device.config import DeviceConfig
from smallvit.errors import UsageError

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def quicker(device: str, precision: str, compiled: bool) -> tuple[Any, str]:
    return "sdpa", f"sdpa quicker on {device} in {precision}, {compiled}"


def nothing_to_choose(device: str, precision: str) -> tuple[Any, None]:
    return "torch", None


decided = partial(choose, rows=64, embed_dim=16, attention=quicker, convolution=nothing_to_choose)


def not_asked(*arguments: object) -> Any:
    pytest.fail("measured what was told")


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("cpu_only")
def test_auto_on_a_cpu() -> None:
    choices = choose(
        DeviceConfig(precision="float32", num_threads=1),
        rows=64,
        embed_dim=16,
        attention=quicker,
        convolution=nothing_to_choose,
    )
    assert (choices.device, choices.attention, choices.compile, choices.num_threads) == ("cpu", "sdpa", False, 1)
    reason = "as asked; sdpa quicker on cpu in float32, False"
    assert (choices.precision, choices.reason) == ("float32", reason)
    assert str(choices) == f"cpu with 1 thread, float32 ({reason}), sdpa attention, not compiled"


@pytest.mark.usefixtures("cpu_only")
def test_a_convolution_that_is_our_own_is_told_with_its_reason() -> None:
    def native(device: str, precision: str) -> tuple[Any, str]:
        return "native", f"native quicker on {device} in {precision}"

    config = DeviceConfig(precision="float32", num_threads=1)
    choices = choose(config, rows=64, embed_dim=16, attention=quicker, convolution=native)
    reason = "as asked; sdpa quicker on cpu in float32, False; native quicker on cpu in float32"
    assert (choices.convolution, choices.reason) == ("native", reason)
    assert str(choices) == f"cpu with 1 thread, float32 ({reason}), sdpa attention, native convolution, not compiled"


def test_a_gpu_of_cuda_is_compiled_for_and_mps_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    choices = choose(
        DeviceConfig(device="mps", precision="bfloat16"),
        rows=64,
        embed_dim=16,
        attention=quicker,
        convolution=nothing_to_choose,
    )
    assert (choices.device, choices.attention, choices.compile) == ("mps", "sdpa", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choices = decided(DeviceConfig(precision="bfloat16"))
    assert (choices.device, choices.attention, choices.compile) == ("cuda", "sdpa", True)


@pytest.mark.usefixtures("cpu_only")
def test_a_card_that_was_not_begun_begins_by_the_callers_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    before = torch.initial_seed()
    try:
        torch.manual_seed(7)
        monkeypatch.setattr("torch.cuda.manual_seed_all", seeds.append)
        with torch_kept():
            torch.default_generator.manual_seed(11)
        assert seeds == [], "no card was opened"
        with torch_kept():
            torch.default_generator.manual_seed(11)
            monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
        assert seeds == [7]
        assert torch.initial_seed() == 7
    finally:
        torch.manual_seed(before)


@pytest.mark.usefixtures("cpu_only")
def test_cards_that_had_begun_get_back_the_states_that_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    states, seeds = {0: "first", 1: "second"}, list[int]()
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_rng_state", states.__getitem__)
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, card: states.update({card: state}))
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeds.append)
    with torch_kept():
        states.update({0: "drawn", 1: "drawn"})
    assert (states, seeds) == ({0: "first", 1: "second"}, [])


def test_gradients_are_found_whatever_the_caller_has_set() -> None:
    with torch.no_grad():
        with torch_kept():
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()


def test_what_is_asked_for_is_taken() -> None:
    config = DeviceConfig(precision="bfloat16", attention="bmm", convolution="torch", compile="on", num_threads=2)
    choices = choose(config, rows=64, embed_dim=16, attention=not_asked, convolution=not_asked)
    assert (choices.precision, choices.attention, choices.compile, choices.num_threads) == ("bfloat16", "bmm", True, 2)
    assert choices.reason == "as asked"
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_bad_usage(device: Any) -> None:
    with pytest.raises(UsageError) as caught:
        decided(DeviceConfig(device=device))
    assert str(caught.value) == f"device.device is {device}: torch sees none here; available: cpu, or auto"


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize(("half", "expected"), [(0.5, "bfloat16"), (4.0, "float32")])
def test_the_precision_is_the_faster_one(monkeypatch: pytest.MonkeyPatch, half: float, expected: str) -> None:
    monkeypatch.setattr(module, "_matmul_seconds", lambda device, rows, embed_dim: (1.0, half))
    choices = decided(DeviceConfig())
    assert choices.precision == expected
    assert choices.reason.startswith(f"bfloat16 products measured {1 / half:.2g} times as fast; sdpa quicker")


def test_where_a_gpus_products_take_alike_the_precision_is_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for half, expected in ((1.05, "bfloat16"), (1.2, "float32")):
        monkeypatch.setattr(module, "_matmul_seconds", lambda device, rows, embed_dim, half=half: (1.0, half))
        assert decided(DeviceConfig()).precision == expected
    assert not torch.backends.cudnn.allow_tf32


def clocked(monkeypatch: pytest.MonkeyPatch, turns: list[tuple[float, float]]) -> list[float]:
    """Let the products of float32 and bfloat16 take these seconds in turns, and return those not taken yet."""
    clock, left, started = [0.0], [seconds for turn in turns for seconds in turn], [False]

    def perf_counter() -> float:
        started[0] = not started[0]
        clock[0] += 0.0 if started[0] else left.pop(0)
        return clock[0]

    monkeypatch.setattr(module.time, "perf_counter", perf_counter)
    return left


@pytest.mark.usefixtures("cpu_only")
def test_other_work_in_some_turns_does_not_change_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 takes 1 s and bfloat16 2 s, but all turns of float32 but one are ten times slower."""
    left = clocked(monkeypatch, [(10.0, 2.0)] * 6 + [(1.0, 2.0)] + [(10.0, 2.0)] * 3)
    choices = decided(DeviceConfig())
    assert choices.precision == "float32"
    assert choices.reason.startswith("bfloat16 products measured 0.5 times as fast")
    assert not left


@pytest.mark.usefixtures("cpu_only")
def test_a_processor_without_bfloat16_is_not_asked_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    left = clocked(monkeypatch, [(1.0, 30.0), (2.0, 20.0), (1.0, 20.0)])
    choices = decided(DeviceConfig())
    assert choices.precision == "float32"
    assert choices.reason.startswith("bfloat16 products measured 0.05 times as fast")
    assert left == [1.0, 20.0]


@pytest.mark.usefixtures("cpu_only")
def test_the_measurement_runs() -> None:
    assert decided(DeviceConfig()).precision in DTYPES.values()


def test_auto_takes_no_device_that_is_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    for cuda, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        assert device_of(DeviceConfig()) == device
        assert device_of(DeviceConfig(device="mps")) == "mps"


@pytest.mark.parametrize(
    ("asked", "environment", "cores", "threads"),
    [(5, None, 2, 5), (None, None, 2, 2), (None, None, 64, 4), (None, "4", 2, 4)],
)
def test_torchs_own_threads_are_no_more_than_the_cores(
    asked: int | None, environment: str | None, cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    monkeypatch.setattr("smallvit.device.choose.usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert num_threads(DeviceConfig(num_threads=asked)) == threads


def test_hardware_is_what_a_reader_needs() -> None:
    info, always = hardware(), {"processor", "cores", "platform"}
    assert always <= info.keys() <= {*always, "processor_model", "memory_gib", "gpu"}
    assert isinstance(info["cores"], int)
    assert info["cores"] >= 1
    assert info["processor"]


def test_memory_is_told_in_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 3 * 2**19, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert hardware()["memory_gib"] == 6


@pytest.mark.parametrize(
    ("told", "model"),
    [
        ({"model name": "AMD EPYC", "cpu family": "25", "model": "1"}, "family 25, model 1"),
        ({"model name": "AMD EPYC", "model": "1"}, None),
        ({}, None),
    ],
)
def test_two_processors_of_one_name_are_told_apart(
    told: dict[str, str], model: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "proc", lambda file, key: told.get(key))
    assert hardware().get("processor_model") == model
