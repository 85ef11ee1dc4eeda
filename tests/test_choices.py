"""Attention and convolution by measuring: what decides, what is remembered and where, and what a later run keeps."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smallvit import choices as module
from smallvit.choices import decide
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.device.choose import TIE, Choices
from smallvit.device.config import DeviceConfig
from smallvit.errors import UsageError
from smallvit.model import native_attention, native_conv
from smallvit.model.config import ModelConfig
from smallvit.train.config import TrainConfig
from smallvit.train.distributed import ALONE, World

TINY = RunConfig(
    model=ModelConfig(patch_size=16, embed_dim=16, depth=2, num_heads=2, num_cls_tokens=3),
    train=TrainConfig(batch_size=20),
    device=DeviceConfig(device="cpu", precision="float32", num_threads=1),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLVIT_CACHE", str(tmp_path))


def test_nothing_is_taken_from_or_put_into_a_cache_that_the_config_names(tmp_path: Path) -> None:
    """It may be of a run of somebody else's, and a kernel is code."""
    decide(replace(TINY, data=DataConfig(cache=tmp_path / "theirs")), ALONE, None)
    assert not (tmp_path / "theirs").exists()
    assert {path.name for path in tmp_path.iterdir()} >= {"attention.json"}


def test_it_is_measured_once_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = decide(TINY, ALONE, None)
    (key, seconds), *rest = json.loads((tmp_path / "attention.json").read_text())["seconds"].items()
    assert not rest
    assert re.search(r"; torch .*; cpu, float32, not compiled; 20 x 7 tokens, 2 heads of 8$", key)
    assert seconds.keys() == {"sdpa", "native", "bmm"}
    assert seconds[first.attention] <= TIE * min(seconds.values())
    assert f"; {first.attention} attention measured" in first.reason
    monkeypatch.setattr("smallvit.device.fastest.measured", lambda *_: pytest.fail("measured again"))
    assert decide(TINY, ALONE, None) == first


@pytest.mark.parametrize("fast", ["sdpa", "native", "bmm"])
def test_the_fastest_one_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: str) -> None:
    times = {"sdpa": 2.0, "native": 2.5, "bmm": 3.0, fast: 1.0}
    monkeypatch.setattr("smallvit.device.fastest.measured", lambda *_: (times, None))
    found = decide(TINY, ALONE, None)
    assert found.attention == fast
    others = ", ".join(f"{times[name]:.2g} times {name}'s speed" for name in times if name != fast)
    assert found.reason == f"as asked; {fast} attention measured {others}"


@pytest.mark.parametrize(
    "change", [{"precision": "bfloat16"}, {"compile": "on"}, {"precision": "bfloat16", "compile": "on"}]
)
def test_what_times_depend_on_is_measured_apart(tmp_path: Path, change: dict[str, Any]) -> None:
    decide(TINY, ALONE, None)
    decide(replace(TINY, device=replace(TINY.device, **change)), ALONE, None)
    decide(replace(TINY, model=replace(TINY.model, patch_size=8)), ALONE, None)
    assert len(json.loads((tmp_path / "attention.json").read_text())["seconds"]) == 3


def test_another_version_of_a_kernel_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for versions in (("a", "b"), ("a", "b"), ("c", "b"), ("c", "d")):
        of_attention, of_convolution = versions
        given = {native_attention.SOURCE: of_attention, native_conv.SOURCE: of_convolution}
        monkeypatch.setattr(module, "version", given.__getitem__)
        decide(CONVOLVES, ALONE, None)
    for what in ("attention", "convolution"):
        assert len(json.loads((tmp_path / f"{what}.json").read_text())["seconds"]) == 2


def test_on_a_cpu_a_part_of_a_large_batch_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTENTION_WEIGHTS", 5 * 2 * 7 * 7)
    decide(TINY, ALONE, None)
    assert "; 5 x 7 tokens" in (tmp_path / "attention.json").read_text()


def earlier(**changes: Any) -> Choices:
    kept = Choices(
        device="cpu",
        precision="bfloat16",
        attention="bmm",
        convolution="torch",
        compile=False,
        num_threads=1,
        reason="of before",
    )
    return replace(kept, **changes)


def test_a_run_that_goes_on_keeps_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fastest", lambda *_: pytest.fail("measured anew"))
    config = replace(TINY, device=DeviceConfig(device="cpu", num_threads=1))
    assert decide(config, ALONE, earlier()) == earlier()
    on_a_gpu = earlier(device="cuda", attention="cudnn", compile=True)
    assert decide(config, ALONE, on_a_gpu) == earlier(attention="sdpa")


def test_a_run_that_goes_on_has_what_is_asked_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fastest", lambda *_: pytest.fail("measured anew"))
    for what, kept, asked in (("attention", "bmm", "sdpa"), ("convolution", "native", "torch")):
        config = replace(TINY, device=replace(DeviceConfig(device="cpu", num_threads=1), **{what: asked}))
        assert decide(config, ALONE, earlier(**{what: kept})) == earlier(**{what: asked})


def test_what_the_device_does_not_have_is_refused_in_one_line() -> None:
    for name in ("flash", "efficient", "cudnn", "flex"):
        config = replace(TINY, device=replace(TINY.device, attention=name))
        with pytest.raises(UsageError) as caught:
            decide(config, ALONE, None)
        expected = f"device.attention is {name}: for cpu, not compiled, allowed are sdpa, native, bmm, or auto"
        assert str(caught.value) == expected


def test_without_a_compiler_the_native_kernel_is_no_contestant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallvit.model.native_attention._libraries", {})
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = decide(TINY, ALONE, None)
    assert found.attention in ("sdpa", "bmm")
    reason = "no C++ compiler was found (c++, or what $CXX names)"
    assert found.reason.endswith(f"; native left out: {reason}")
    ((_, seconds),) = json.loads((tmp_path / "attention.json").read_text())["seconds"].items()
    assert seconds.keys() == {"sdpa", "bmm"}
    with pytest.raises(UsageError) as caught:
        decide(replace(TINY, device=replace(TINY.device, attention="native")), ALONE, None)
    assert str(caught.value) == f"device.attention is native: {reason}; allowed are sdpa, bmm, or auto"
    went_on = decide(TINY, ALONE, earlier(attention="native"))
    assert went_on == earlier(attention="sdpa"), "a run that began where there was one"


def test_what_the_native_kernel_is_not_made_for_has_the_others(tmp_path: Path) -> None:
    local = replace(TINY, model=replace(TINY.model, locality="lsa"))
    assert decide(local, ALONE, None).attention in ("sdpa", "bmm")
    odd = replace(TINY, model=replace(TINY.model, embed_dim=12))
    assert decide(odd, ALONE, None).attention in ("sdpa", "bmm")


NO_LAYER = "the model has no 3 x 3 convolution of stride 1 whose channels are multiples of 8"
CONVOLVES = replace(TINY, model=replace(TINY.model, embed_dim=32, tokenizer="conv-pool"))


@pytest.mark.parametrize("fast", ["torch", "native"])
def test_the_faster_convolution_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: str) -> None:
    monkeypatch.setattr(
        "smallvit.device.fastest.measured", lambda given, _: ({**dict.fromkeys(given, 2.0), fast: 1.0}, None)
    )
    found = decide(CONVOLVES, ALONE, None)
    assert found.convolution == fast
    other = {"torch": "native", "native": "torch"}[fast]
    assert found.reason.endswith(f"; {fast} convolution measured 2 times {other}'s speed")
    ((key, seconds),) = json.loads((tmp_path / "convolution.json").read_text())["seconds"].items()
    assert re.search(r"; torch .*; 20 x 32 x 32, 24 to 8$", key)
    assert seconds.keys() == {"torch", "native"}


def test_a_convolution_is_measured_on_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONVOLUTION_MACS", 3 * 9 * 32 * 32 * 24 * 8)
    assert "convolution measured" in decide(CONVOLVES, ALONE, None).reason
    assert "; 3 x 32 x 32, " in (tmp_path / "convolution.json").read_text()


@pytest.mark.parametrize(
    ("model", "device", "why"),
    [
        ({}, {"precision": "bfloat16"}, "it is for cpu and float32, and this is cpu and bfloat16"),
        ({"tokenizer": "patch"}, {}, NO_LAYER),
        ({"tokenizer": "conv"}, {}, NO_LAYER),
        ({"embed_dim": 20}, {}, NO_LAYER),
    ],
)
def test_where_it_is_not_for_a_model_there_is_nothing_to_choose(
    tmp_path: Path, model: dict[str, Any], device: dict[str, Any], why: str
) -> None:
    config = replace(CONVOLVES, model=replace(CONVOLVES.model, **model), device=replace(CONVOLVES.device, **device))
    found = decide(config, ALONE, None)
    assert found.convolution == "torch"
    assert "convolution" not in found.reason
    assert not (tmp_path / "convolution.json").exists()
    with pytest.raises(UsageError) as caught:
        decide(replace(config, device=replace(config.device, convolution="native")), ALONE, None)
    assert str(caught.value) == f"device.convolution is native: {why}; allowed are torch, or auto"
    kept = earlier(precision=config.device.precision, convolution="native")
    assert decide(config, ALONE, kept) == replace(kept, convolution="torch")


def test_without_a_compiler_convolutions_are_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallvit.model.native_conv._libraries", [])
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = decide(CONVOLVES, ALONE, None)
    assert found.convolution == "torch"
    reason = "no C++ compiler was found (c++, or what $CXX names)"
    assert found.reason.endswith(f"; native convolution left out: {reason}")


def test_rank_0_decides_and_the_others_do_not_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fastest", lambda *_: pytest.fail("a rank measured"))
    monkeypatch.setattr(World, "barrier", lambda self: None)
    monkeypatch.setattr(World, "any", lambda self, flag: flag)
    monkeypatch.setattr(World, "broadcast_object", lambda self, value: vars(earlier()))
    config = replace(TINY, device=DeviceConfig(device="cpu", num_threads=1))
    assert decide(config, World(rank=1, size=2), None) == earlier()


@pytest.mark.parametrize(("what", "instead"), module.INSTEAD.items())
@pytest.mark.parametrize("here", [True, False])
def test_a_kernel_that_one_of_the_ranks_lacks_is_no_ranks(
    monkeypatch: pytest.MonkeyPatch, what: str, instead: str, here: bool
) -> None:
    """Refused in a new run; one that began with it goes on without, on every rank."""
    theirs = earlier(**{"precision": "float32", "attention": "sdpa", what: "native"})
    asked: list[bool] = []
    waited: list[int] = []

    def reported(world: World, flag: bool) -> bool:
        asked.append(flag)
        return flag or len(asked) == 1 + list(module.INSTEAD).index(what) + 1  # after that of the devices

    monkeypatch.setattr(World, "barrier", lambda self: waited.append(len(asked)))
    monkeypatch.setattr(World, "any", reported)
    monkeypatch.setattr(World, "broadcast_object", lambda self, value: vars(theirs))
    if here:
        monkeypatch.setattr("smallvit.model.native_attention._libraries", {})
        monkeypatch.setattr("smallvit.model.native_conv._libraries", [])
        monkeypatch.setenv("CXX", "no-such-compiler")
    why = "no C++ compiler was found (c++, or what $CXX names)" if here else "it works here, but not on every rank"
    config = replace(CONVOLVES, device=replace(CONVOLVES.device, attention="auto"))
    with pytest.raises(UsageError) as caught:
        decide(config, World(rank=1, size=2), None)
    assert str(caught.value) == f"device.{what} is native, on rank 1: {why}; give {instead}"
    assert waited == [0, 1], "patiently, for rank 0 to measure and for all to compile"
    asked.clear()
    went_on = decide(config, World(rank=1, size=2), theirs)
    assert went_on == replace(theirs, **{what: instead})
    assert len(asked) == 3, "as often as every other rank"


def test_it_measures_on_one_thread_and_gives_the_others_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def measured(*_: object) -> tuple[dict[str, float], None]:
        seen.append(torch.get_num_threads())
        return {"sdpa": 1.0, "native": 2.0, "bmm": 2.0}, None

    monkeypatch.setattr("smallvit.device.fastest.measured", measured)
    before = torch.get_num_threads()
    try:
        device = replace(TINY.device, num_threads=2, precision="auto")
        found = decide(replace(TINY, device=device), ALONE, None)
        assert (seen, found.num_threads, torch.get_num_threads()) == ([1], 2, 2)
    finally:
        torch.set_num_threads(before)
