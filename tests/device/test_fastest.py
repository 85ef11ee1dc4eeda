"""What is fastest is measured once, and a damaged memory costs a measurement, never an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smallvit.device.fastest import fastest


class Clock:
    """Contestants that take fixed seconds of a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 0.0, 0
        monkeypatch.setattr("smallvit.device.fastest.time.perf_counter", lambda: self.now)

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
    found = fastest(contestants, "cpu", memory, "a machine")
    assert found == ("quick", "quick attention measured 2 times slow's speed")
    assert clock.calls == 2 * 6  # a warm round and five that count
    assert fastest(contestants, "cpu", memory, "a machine") == found
    assert clock.calls == 12
    assert json.loads(memory.read_text())["seconds"] == {"a machine": {"slow": 3.0, "quick": 1.5, "none": None}}
    assert [path.name for path in memory.parent.iterdir()] == ["attention.json"]


def test_another_key_or_contestant_is_measured_and_nothing_else_is_forgotten(clock: Clock, tmp_path: Path) -> None:
    memory, one = tmp_path / "x.json", {"a": clock.contestant(1.0)}
    fastest(one, "cpu", memory, "first")
    fastest(one, "cpu", memory, "second")
    assert clock.calls == 12
    assert fastest({**one, "b": clock.contestant(0.5)}, "cpu", memory, "first")[0] == "b"
    assert clock.calls == 24
    # Of what is known only those count that are asked for.
    assert fastest(one, "cpu", memory, "first") == ("a", "a attention measured alone")
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
    ],
)
def test_a_damaged_memory_is_measured_over(clock: Clock, tmp_path: Path, content: bytes) -> None:
    memory = tmp_path / "x.json"
    memory.write_bytes(content)
    assert fastest({"a": clock.contestant(1.0)}, "cpu", memory, "k")[0] == "a"
    assert clock.calls == 6
    assert json.loads(memory.read_text()) == {"schema": 1, "seconds": {"k": {"a": 1.0}}}


def test_a_memory_that_cannot_be_written_is_done_without(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fastest({"a": clock.contestant(1.0)}, "cpu", tmp_path / "file" / "x.json", "k")[0] == "a"


def test_a_failed_write_leaves_the_old_memory(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "x.json"
    fastest({"a": clock.contestant(1.0)}, "cpu", memory, "k")
    before = memory.read_text()

    def full(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    fastest({"a": clock.contestant(1.0)}, "cpu", memory, "another")
    assert memory.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_other_work_in_some_turns_does_not_decide(clock: Clock, tmp_path: Path) -> None:
    seconds = iter([1.0, 30.0, 30.0, 1.0, 30.0, 30.0])

    def disturbed() -> None:
        clock.now += next(seconds)

    assert fastest({"a": disturbed, "b": clock.contestant(2.0)}, "cpu", tmp_path / "x.json", "k")[0] == "a"


def test_where_nothing_works_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="none of a works on cpu"):
        fastest({"a": broken}, "cpu", tmp_path / "x.json", "k")
