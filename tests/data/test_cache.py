"""The cache holds whole entries or none, whoever spoils a file or takes the source away."""

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smallvit.data import cache as cached
from smallvit.data.cache import cache_folder
from smallvit.data.config import DataConfig
from smallvit.data.split import digest
from smallvit.data.store import load_dataset
from smallvit.errors import SmallvitError


def test_an_entry_is_memory_mapped_and_serves_without_its_source(runner, small_load) -> None:
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


def test_another_size_is_made_from_the_cache_alone(runner, small_load) -> None:
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


@pytest.mark.parametrize(
    ("file", "how"),
    [
        *[
            (file, how)
            for file in ("train_images.npy", "test_labels.npy")
            for how in ("cut", "one bit", "empty", "gone")
        ],
        *[("manifest.json", how) for how in ("cut", "empty", "gone")],
    ],
)
def test_a_spoilt_entry_is_rebuilt_and_this_is_told_once(runner, small_load, how: str, file: str) -> None:
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


def test_an_entry_of_another_version_is_rebuilt(runner, small_load, monkeypatch: pytest.MonkeyPatch) -> None:
    small_load(runner.root)
    monkeypatch.setattr(cached, "SCHEMA", 2)
    (note,) = small_load(runner.root).notes
    assert "written by another version (schema 1, expected 2)" in note


def test_a_spoilt_entry_without_any_source_is_named(runner, small_load) -> None:
    small_load(runner.root)
    (entry,) = runner.entries()
    spoil(entry / "train_images.npy", "cut")
    done = runner.start(root="-")
    _, error = done.communicate(timeout=60)
    assert done.returncode != 0
    assert "train_images.npy is cut short" in error.splitlines()[-1]
    assert "three ways" in error.splitlines()[-1]


def test_official_pixels_in_the_cache_are_preferred(runner, small, small_load) -> None:
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
    small_load(other, spec=spec, size=16)
    found = small_load(None, spec=spec, size=16)
    assert found.notes == ()
    assert digest(found.test) == digest(small_load(runner.root, spec=spec, size=16).test)


def test_a_cache_that_cannot_be_written_is_told_and_the_data_still_come(runner, small_load) -> None:
    expected = digest(small_load(runner.root).train)
    blocked = runner.folder / "file"
    blocked.write_bytes(b"")
    (note,) = small_load(runner.root, cache=blocked / "cache").notes
    assert "cannot be written (Not a directory); every start decodes again" in note
    (note,) = small_load(runner.root, cache=Path("/proc/smallvit")).notes
    assert "/proc/smallvit cannot be written" in note
    assert digest(small_load(runner.root, cache=Path("/proc/smallvit")).train) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_cache_that_may_not_be_looked_into_is_told_and_the_data_still_come(
    runner, small_load, request: pytest.FixtureRequest
) -> None:
    """As root's own home is to another user in a container."""
    place = Path(tempfile.mkdtemp(prefix="smallvit-test-"))  # pytest's own folder lets no other user in
    request.addfinalizer(lambda: shutil.rmtree(place))
    place.chmod(0o755)
    shutil.copytree(runner.root, place / "root")
    (place / "home").mkdir(mode=0o700)
    request.addfinalizer(lambda: os.seteuid(0))
    os.seteuid(65534)
    (note,) = small_load(place / "root", cache=place / "home" / "smallvit").notes
    assert note == f"cache: {place}/home/smallvit cannot be written (Permission denied); every start decodes again"


def test_unchanged_files_are_not_read_again_and_changed_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for path in files:
        path.write_bytes(b"12345678")
    now = max(path.stat().st_mtime for path in files) + 1.0
    monkeypatch.setattr("smallvit.data.cache.time.time", lambda: now)
    hashed: list[str] = []

    def key() -> str:
        hashed.append((files[0].read_bytes() + files[1].read_bytes()).decode())
        return hashed[-1]

    def ask(where: Path = tmp_path) -> str:
        return cached.remembered(tmp_path / "cache", where, cached.file_states(files), key)

    assert ask() == ask()
    assert len(hashed) == 2, "files written this very moment are not trusted"
    now += 2.0
    assert [ask(), ask(), ask()] == ["1234567812345678"] * 3
    assert len(hashed) == 3
    for note in (tmp_path / "cache" / ".seen").iterdir():
        note.write_text("cut")
    assert [ask(), ask()] == ["1234567812345678"] * 2
    assert len(hashed) == 4, "a note that was not written to its end is none"
    assert ask(tmp_path.parent) == "1234567812345678"
    assert len(hashed) == 5, "of the same files in another root, whose names within it are others"
    times = files[0].stat()
    while files[0].stat().st_ctime_ns == times.st_ctime_ns:  # in a later tick of the clock that dates files
        files[0].write_bytes(b"abcdefgh")
        os.utime(files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert ask() == "abcdefgh12345678", "of the same size and date, and still seen"


def test_a_file_that_was_read_in_the_tick_of_its_last_change_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files are dated by a clock of a few milliseconds, or seconds, and the others take long to read."""
    path, now = tmp_path / "a", 1e9
    monkeypatch.setattr("smallvit.data.cache.time.time", lambda: now)
    state = cached.FileState(size=3, modified_ns=10**18, changed_ns=10**18, inode=1)

    def key() -> str:
        nonlocal now
        content = path.read_text()
        path.write_text("new")
        now += 100.0
        return f"{content:>16}"

    path.write_text("old")
    for content in ("old", "new", "new"):
        assert cached.remembered(tmp_path / "cache", tmp_path, {path: state}, key).strip() == content


@pytest.mark.parametrize(
    ("modified", "changed", "times"), [(9e9, 1e9, 1), (9e9, 9e9, 2), (-1e9, 1e9, 1), (1e9, 9e9, 2)]
)
def test_a_date_in_the_future_that_was_set_lets_files_be_remembered(
    tmp_path: Path, modified: float, changed: float, times: int
) -> None:
    state = cached.FileState(size=3, modified_ns=int(modified * 1e9), changed_ns=int(changed * 1e9), inode=1)
    asked: list[str] = []

    def key() -> str:
        asked.append("0123456789abcdef")
        return asked[-1]

    for _ in range(2):
        assert cached.remembered(tmp_path / "cache", tmp_path, {tmp_path / "a": state}, key) == "0123456789abcdef"
    assert len(asked) == times


def test_an_unreadable_source_is_one_line(runner, monkeypatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

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
    with pytest.raises(SmallvitError, match=r"data\.cache: ~nosuchuser/x: no home folder ~nosuchuser is known"):
        cache_folder(Path("~nosuchuser/x"))
    monkeypatch.setenv("SMALLVIT_CACHE", "~nosuchuser")
    with pytest.raises(SmallvitError, match="SMALLVIT_CACHE: ~nosuchuser: no home folder"):
        cache_folder(None)
