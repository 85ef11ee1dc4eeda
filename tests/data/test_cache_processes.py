"""Processes that are killed, run side by side, or may not write leave whole entries in the cache or none."""

import contextlib
import errno
import os
import pty
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from disks import small_disk
from smallvit.data import cache as cached
from smallvit.data.source import Source


def test_killed_at_any_moment_nothing_that_looks_whole_is_left(runner) -> None:
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


def test_leftovers_of_dead_builders_of_other_sets_go_and_those_of_live_ones_stay(runner) -> None:
    dead, live = runner.cache / ".other-32-0.7-0000aaaa", runner.cache / ".alive-32-0.7-0000bbbb"
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
    (other := runner.cache / ".work.7-0000cccc").mkdir()  # another program's
    with cached.building(runner.cache, "x-32-0"):
        assert other.is_dir()
    assert not (runner.cache / ".work.lock").exists()


def test_leftovers_of_another_user_are_passed_over(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared cache, where their locks are not for everybody to open."""
    theirs = runner.cache / ".theirs-32-0.7-0000aaaa"
    theirs.mkdir(parents=True)
    real = cached.FileLock.acquire

    def acquire(lock: FileLock, **options: object) -> object:
        if ".theirs" in str(lock.lock_file):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(lock.lock_file))
        return real(lock, **options)

    monkeypatch.setattr(cached.FileLock, "acquire", acquire)
    with cached.building(runner.cache, "mine-32-0"):
        assert theirs.is_dir()


def test_builders_side_by_side_agree_and_leave_one_entry(runner) -> None:
    processes = [runner.start() for _ in range(5)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 5
    assert len(set(outputs)) == 1
    (entry,) = runner.entries()
    cached.open_entry(entry)
    assert runner.leftovers() == []


def test_a_builder_waits_for_another_of_the_same(runner) -> None:
    runner.run()
    (entry,) = runner.entries()
    shutil.rmtree(entry)
    with cached.building(runner.cache, entry.name):
        process = runner.start()
        assert process.stderr is not None
        assert process.stderr.readline() == f"Waiting for another process that is decoding {entry.name} ...\n"
        assert runner.entries() == []
        assert process.poll() is None
    process.communicate(timeout=60)
    assert (process.returncode, runner.entries()) == (0, [entry])


def test_without_locks_of_the_file_system_every_start_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is a file would be left by a process that was killed, for good."""

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    with pytest.raises(cached.UnwritableError, match=r"cannot be written \("), cached.building(tmp_path, "k"):
        pass


def test_a_full_cache_is_called_full(tmp_path: Path) -> None:
    entry = cached.Entry(arrays={"train_images": np.zeros(2**20, np.uint8)}, facts={})
    with small_disk(tmp_path / "small", "size=256k") as disk:
        with pytest.raises(cached.UnwritableError, match=r"cannot be written \(No space left on device\)$"):
            cached.write_entry(disk, "other-32-0", entry)
        assert list(disk.iterdir()) == []


def test_an_interrupt_waits_for_no_file_that_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, ended: threading.Event) -> str:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return cached.file_sha256(path, ended)

    monkeypatch.setattr("smallvit.data.source.file_sha256", interrupted)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**36)  # of zeros, which take no room on the disk, and minutes to be hashed
    source = Source(where=tmp_path, files=(tmp_path / "large",), read=lambda: None)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        source.key()
    assert time.monotonic() - began < 10


def test_a_read_only_cache_is_read_and_its_absence_of_an_entry_told(runner_in) -> None:
    # The administrator may write anywhere, so the child becomes nobody, whom pytest's own folders do not let through.
    administrator = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        runner = runner_in(Path(folder))
        runner.cache.mkdir()
        runner.cache.chmod(0o555)
        digests, note = runner.run(nobody=administrator)
        assert note == f"cache: {runner.cache} cannot be written (Permission denied); every start decodes again"
        runner.cache.chmod(0o755)
        assert runner.run() == [digests]
        runner.cache.chmod(0o555)
        assert runner.run(nobody=administrator) == [digests]
        runner.cache.chmod(0o755)


def test_progress_is_drawn_on_a_terminal_alone(runner) -> None:
    assert len(runner.run()) == 1  # which also finds nothing on stderr, no terminal there
    for entry in runner.entries():
        shutil.rmtree(entry)
    ours, theirs = pty.openpty()
    process = runner.start(stderr=theirs)
    os.close(theirs)
    assert process.stdout is not None
    assert len(process.stdout.read().splitlines()) == 1
    drawn = b""
    with contextlib.suppress(OSError):  # the kernel's way of saying that the other end has closed
        while piece := os.read(ours, 4096):
            drawn += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    assert b"Decoding small train" in drawn
    assert b"30/30" in drawn
