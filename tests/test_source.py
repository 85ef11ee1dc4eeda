"""The hash of the source by which records and `--version` name it."""

from pathlib import Path

import pytest

from smallvit import source
from smallvit.source import source_digest


def test_the_source_in_a_record_is_that_of_what_can_change_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "__file__", str(tmp_path / "source.py"))

    def written(name: str, content: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return source_digest.__wrapped__()

    before = written("train/muon.py", "a")
    for name in ("report/stats.py", "bench/clock.py", "commands/train.py", "study/rows.py", "train/muon.txt"):
        assert written(name, "b") == before, name
    (tmp_path / ".#run.py").symlink_to("of-an-editor")
    assert source_digest.__wrapped__() == before
    found = [before, written("train/muon.py", "b"), written("train/more.py", ""), written("model/native.cpp", "a")]
    assert len(set(found)) == 4
    assert written("train/muon.py", "a") not in found
