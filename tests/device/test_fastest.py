"""What is fastest is measured once, and a damaged memory costs a measurement, never an error."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._inductor.exc import InductorError

from smallvit.device.choose import times
from smallvit.device.fastest import fastest
from smallvit.errors import SmallvitError


class Clock:
    """Contestants that take fixed seconds of a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 0.0, 0
        monkeypatch.setattr("smallvit.device.choose.time.perf_counter", lambda: self.now)

    def contestant(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.calls += 1
            self.now += seconds

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def broken() -> None:
    raise RuntimeError("no kernel")


def test_the_fastest_is_said_and_remembered(clock: Clock, tmp_path: Path) -> None:
    memory = tmp_path / "new" / "attention.json"
    contestants = {"slow": clock.contestant(3.0), "quick": clock.contestant(1.5), "none": broken}
    found = fastest("attention", contestants, "cpu", memory, "a machine")
    assert found == ("quick", "quick attention measured 2 times slow's speed")
    assert [times(ratio) for ratio in (1.0, 1.44, 162.3)] == ["1 times", "1.4 times", "160 times"]
    assert clock.calls == 2 * 6  # a warm round and five that count
    assert fastest("attention", contestants, "cpu", memory, "a machine") == found
    assert clock.calls == 12
    assert json.loads(memory.read_text())["seconds"] == {"a machine": {"slow": 3.0, "quick": 1.5, "none": None}}
    assert [path.name for path in memory.parent.iterdir()] == ["attention.json"]


def test_another_key_or_contestant_is_measured_and_nothing_else_is_forgotten(clock: Clock, tmp_path: Path) -> None:
    memory, one = tmp_path / "x.json", {"a": clock.contestant(1.0)}
    fastest("attention", one, "cpu", memory, "first")
    fastest("attention", one, "cpu", memory, "second")
    assert clock.calls == 12
    assert fastest("attention", {**one, "b": clock.contestant(0.5)}, "cpu", memory, "first")[0] == "b"
    assert clock.calls == 24
    # Of what is known only those count that are asked for.
    assert fastest("attention", one, "cpu", memory, "first") == ("a", "a attention measured alone")
    assert clock.calls == 24
    assert json.loads(memory.read_text())["seconds"].keys() == {"first", "second"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b'{"schema": 2, "seconds": {"k": {"a": 9.0}}}',
        b'{"schema": 1}',
        b'{"schema": 1, "seconds": []}',
        b'{"schema": 1, "seconds": {"k": {"a": "9"}}}',
        b'{"schema": 1, "seconds": {"k": {"a": -1.0}}}',
        b'{"schema": 1, "seconds": {"k": 3}}',
        b'{"schema": 1, "seconds": {"k": {}}}',
        b'{"schema": 1, "seconds": {"k": {"a": null}}}',
    ],
)
def test_a_damaged_memory_is_measured_over(clock: Clock, tmp_path: Path, content: bytes) -> None:
    memory = tmp_path / "x.json"
    memory.write_bytes(content)
    assert fastest("attention", {"a": clock.contestant(1.0)}, "cpu", memory, "k")[0] == "a"
    assert clock.calls == 6
    assert json.loads(memory.read_text()) == {"schema": 1, "seconds": {"k": {"a": 1.0}}}


def test_a_memory_that_cannot_be_written_is_done_without(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fastest("attention", {"a": clock.contestant(1.0)}, "cpu", tmp_path / "file" / "x.json", "k")[0] == "a"


def test_other_work_in_some_turns_does_not_decide(clock: Clock, tmp_path: Path) -> None:
    seconds = iter([1.0, 30.0, 30.0, 1.0, 30.0, 30.0])

    def disturbed() -> None:
        clock.now += next(seconds)

    assert fastest("attention", {"a": disturbed, "b": clock.contestant(2.0)}, "cpu", tmp_path / "x.json", "k")[0] == "a"


@pytest.mark.parametrize(("second", "best"), [(0.95, "a"), (1.08, "a"), (0.85, "b")])
def test_of_equals_the_first_is_taken(clock: Clock, tmp_path: Path, second: float, best: str) -> None:
    contestants = {"a": clock.contestant(1.0), "b": clock.contestant(second)}
    found, reason = fastest("attention", contestants, "cpu", tmp_path / "x.json", "k")
    assert found == best
    ratio = 1 / second if best == "b" else second
    assert reason.startswith(f"{best} attention measured {ratio:.2g} times")


def test_where_nothing_works_it_says_so_and_forgets_it(clock: Clock, tmp_path: Path) -> None:
    said = "^device.attention is auto: none of a, b works on cpu: no kernel$"
    with pytest.raises(SmallvitError, match=said):
        fastest("attention", {"a": broken, "b": broken}, "cpu", tmp_path / "x.json", "k")
    assert not (tmp_path / "x.json").exists()
    assert fastest("attention", {"a": broken, "b": clock.contestant(1.0)}, "cpu", tmp_path / "x.json", "k")[0] == "b"
    with pytest.raises(SmallvitError, match=r"none of a works on cpu; name one to see why$"):
        fastest("attention", {"a": broken}, "cpu", tmp_path / "x.json", "k")


def test_where_nothing_can_be_compiled_it_says_what_does_without(tmp_path: Path) -> None:
    def uncompiled() -> None:
        raise InductorError(RuntimeError("Failed to find C compiler."), None)

    with pytest.raises(SmallvitError, match=r"none of a works on cpu: torch\.compile .*; --device\.compile off does"):
        fastest("attention", {"a": uncompiled}, "cpu", tmp_path / "x.json", "k")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        None,
    ],
)
def test_what_ran_out_of_memory_is_measured_again(clock: Clock, tmp_path: Path, error: Exception | None) -> None:
    memory, full = tmp_path / "x.json", True

    def large() -> None:
        if full and error is None:
            torch.empty(2**60, dtype=torch.uint8)  # whatever torch says of that on a CPU
        if full and error is not None:
            raise error
        clock.now += 1.0

    contestants = {"large": large, "small": clock.contestant(2.0), "none": broken}
    assert fastest("attention", contestants, "cpu", memory, "k") == ("small", "small attention measured alone")
    with pytest.raises(SmallvitError, match="none of large works on cpu"):
        fastest("attention", {"large": large}, "cpu", memory, "k")
    assert not memory.exists()
    full = False
    assert fastest("attention", contestants, "cpu", memory, "k") == (
        "large",
        "large attention measured 2 times small's speed",
    )
    assert json.loads(memory.read_text())["seconds"] == {"k": {"large": 1.0, "small": 2.0, "none": None}}
