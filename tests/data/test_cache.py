"""The cache holds whole entries or none, whoever is killed, runs beside, or spoils a file."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smallvit.data import cache as cached
from smallvit.data.cache import cache_folder
from smallvit.data.split import digest
from smallvit.errors import SmallvitError

# A process of its own that loads tests' small set: it reads the spec by pickle and prints digests and notes.
CHILD = """
import os, pickle, signal, sys
from pathlib import Path
from smallvit.data.config import DataConfig
from smallvit.data.split import digest
from smallvit.data.store import load_from_spec

kill_at, calls = int(os.environ.get("KILL_AT", "0")), 0

def counted(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

os.fsync, os.rename, os.mkdir = map(counted, (os.fsync, os.rename, os.mkdir))
if os.environ.get("AS_NOBODY"):  # whose reach does not extend to the interpreter's folder: import first
    import fcntl, pyarrow.parquet
    from PIL import Image
    Image.init()
    os.seteuid(65534)
spec = pickle.loads(Path(sys.argv[1]).read_bytes())
root = None if sys.argv[2] == "-" else Path(sys.argv[2])
config = DataConfig(dataset="cifar10", root=root, cache=Path(sys.argv[3]))
data = load_from_spec(spec, config, image_size=32)
print(digest(data.train), *data.notes, sep="\\n")
"""


class Runner:
    def __init__(self, small, folder: Path) -> None:
        import pickle

        self.folder = folder
        self.root = small.parquet(folder / "root")
        self.cache = folder / "cache"
        (folder / "spec").write_bytes(pickle.dumps(small.spec))
        (folder / "child.py").write_text(CHILD, encoding="utf-8")

    def start(self, *, root: str | None = None, kill_at: int = 0, nobody: bool = False) -> subprocess.Popen[str]:
        arguments = [str(self.folder / "child.py"), str(self.folder / "spec"), root or str(self.root), str(self.cache)]
        environment = {**os.environ, "KILL_AT": str(kill_at), "HF_HUB_OFFLINE": "1"}
        environment |= {"AS_NOBODY": "1"} if nobody else {}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, *arguments], env=environment, **pipes)

    def run(self, **options: object) -> list[str]:
        process = self.start(**options)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert error == ""
        return out.splitlines()

    def entries(self) -> list[Path]:
        return [path for path in self.cache.iterdir() if not path.name.startswith(".")]

    def leftovers(self) -> list[Path]:
        return list(self.cache.glob(".*.tmp"))


@pytest.fixture
def runner(small, tmp_path: Path) -> Runner:
    return Runner(small, tmp_path)


def test_an_entry_is_memory_mapped_and_serves_without_its_source(runner: Runner, small_load) -> None:
    first = small_load(runner.root)
    for path in runner.root.iterdir():
        path.unlink()
    second = small_load(None)
    assert isinstance(second.test.images, np.memmap)
    assert digest(first.train) == digest(second.train)
    assert second.notes == ()
    (entry,) = runner.entries()
    assert entry.name.startswith("small-32-")
    assert len(entry.name) == len("small-32-") + 16
    manifest = json.loads((entry / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {"train_images", "train_labels", "test_images", "test_labels"}


def test_another_size_is_made_from_the_cache_alone(runner: Runner, small_load) -> None:
    small_load(runner.root)
    direct = small_load(runner.root, size=20)
    for path in runner.cache.glob("small-20-*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    again = small_load(None, size=20)
    assert digest(again.train) == digest(direct.train)
    assert digest(small_load(None, size=20).test) == digest(direct.test)


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "one bit":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()


@pytest.mark.parametrize("how", ["cut", "one bit", "empty", "gone"])
@pytest.mark.parametrize("file", ["train_images.npy", "test_labels.npy", "manifest.json"])
def test_a_spoilt_entry_is_rebuilt_and_this_is_told_once(runner: Runner, small_load, how: str, file: str) -> None:
    if (how, file) == ("one bit", "manifest.json"):
        pytest.skip("the manifest's last bit is its closing brace, which the cut covers")
    whole = small_load(runner.root)
    (entry,) = runner.entries()
    spoil(entry / file, how)
    again = small_load(runner.root)
    assert digest(again.train) == digest(whole.train)
    (note,) = again.notes
    assert note.startswith("cache rebuilt: ")
    assert str(entry / file) in note
    assert small_load(runner.root).notes == ()
    assert runner.entries() == [entry]
    assert runner.leftovers() == []


def test_an_entry_of_another_version_is_rebuilt(runner: Runner, small_load, monkeypatch: pytest.MonkeyPatch) -> None:
    small_load(runner.root)
    monkeypatch.setattr(cached, "SCHEMA", 2)
    (note,) = small_load(runner.root).notes
    assert "written by another version (schema 1, expected 2)" in note


def test_a_spoilt_entry_without_any_source_is_named(runner: Runner, small_load, monkeypatch) -> None:
    small_load(runner.root)
    (entry,) = runner.entries()
    spoil(entry / "train_images.npy", "cut")
    done = runner.start(root="-")
    _, error = done.communicate(timeout=60)
    assert done.returncode != 0
    assert "train_images.npy is cut short" in error.splitlines()[-1]
    assert "three ways" in error.splitlines()[-1]


def test_official_pixels_in_the_cache_are_preferred(runner: Runner, small, small_load) -> None:
    from dataclasses import replace

    official = small_load(runner.root)
    spec = replace(small.spec, test_sha256=digest(official.test))
    changed = replace(small, images={**small.images, "test": 255 - small.images["test"]})
    other = changed.parquet(runner.folder / "other")
    small_load(runner.root, spec=spec)
    assert small_load(other, spec=spec).notes != ()
    assert len(runner.entries()) == 2
    found = small_load(None, spec=spec)
    assert digest(found.test) == digest(official.test)
    assert found.notes == ()


def test_killed_at_any_moment_nothing_that_looks_whole_is_left(runner: Runner) -> None:
    reference = runner.run()
    for entry in runner.entries():
        for file in entry.iterdir():
            file.unlink()
        entry.rmdir()
    kills = 0
    while True:
        process = runner.start(kill_at=kills + 1)
        process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
        for entry in runner.entries():  # only the last step, after the rename, may leave one, and it is whole
            cached.open_entry(entry)
            for file in entry.iterdir():
                file.unlink()
            entry.rmdir()
    assert kills >= 8, "mkdir, four arrays, the manifest, the folder, the rename"
    assert runner.leftovers() == []
    assert runner.run() == reference
    assert len(runner.entries()) == 1


def test_leftovers_of_dead_builders_of_other_sets_go_and_those_of_live_ones_stay(runner: Runner) -> None:
    dead, live = runner.cache / ".other-32-0.00aa.tmp", runner.cache / ".alive-32-0.00bb.tmp"
    for folder in (dead, live):
        folder.mkdir(parents=True)
        (folder / "train_images.npy").write_bytes(b"half")
    with cached.building(runner.cache, "alive-32-0"):
        live.mkdir(exist_ok=True)
        runner.run()
        assert runner.leftovers() == [live]
    runner.run()
    with cached.building(runner.cache, "x-32-0"):
        assert runner.leftovers() == []


def test_builders_side_by_side_agree_and_leave_one_entry(runner: Runner) -> None:
    processes = [runner.start() for _ in range(5)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 5
    assert len(set(outputs)) == 1
    (entry,) = runner.entries()
    cached.open_entry(entry)
    assert runner.leftovers() == []


def test_a_cache_that_cannot_be_written_is_told_and_the_data_still_come(runner: Runner, small_load) -> None:
    expected = digest(small_load(runner.root).train)
    blocked = runner.folder / "file"
    blocked.write_bytes(b"")
    (note,) = small_load(runner.root, cache=blocked / "cache").notes
    assert "cannot be written (Not a directory); every start decodes again" in note
    (note,) = small_load(runner.root, cache=Path("/proc/smallvit")).notes
    assert "/proc/smallvit cannot be written" in note
    assert digest(small_load(runner.root, cache=Path("/proc/smallvit")).train) == expected


def test_a_read_only_cache_is_read_and_its_absence_of_an_entry_told(runner: Runner) -> None:
    # The administrator may write anywhere, so the child becomes nobody; the folders above must let it through.
    administrator = os.geteuid() == 0
    above = [folder for folder in runner.folder.parents if administrator and folder.stat().st_mode & 0o777 == 0o700]
    for folder in (runner.folder, *above):
        folder.chmod(0o755)
    runner.cache.mkdir()
    runner.cache.chmod(0o555)
    digests, note = runner.run(nobody=administrator)
    assert note == f"cache: {runner.cache} cannot be written (Permission denied); every start decodes again"
    runner.cache.chmod(0o755)
    assert runner.run() == [digests]
    runner.cache.chmod(0o555)
    assert runner.run(nobody=administrator) == [digests]


def test_an_unreadable_source_is_one_line(runner: Runner, small_load, monkeypatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    from smallvit.data.config import DataConfig
    from smallvit.data.store import load_dataset

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SmallvitError, match=r"train-00000-of-00002\.parquet: Permission denied"):
        load_dataset(DataConfig(dataset="cifar10", root=runner.root, cache=runner.cache))


def test_the_cache_lies_where_the_user_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SMALLVIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder(None) == Path("/home/someone/.cache/smallvit")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_folder(None) == Path("/home/someone/.cache/smallvit")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/someone")
    assert cache_folder(None) == Path("/var/cache/someone/smallvit")
    monkeypatch.setenv("SMALLVIT_CACHE", "~/own")
    assert cache_folder(None) == Path("/home/someone/own")
    assert cache_folder(tmp_path) == tmp_path
