"""Real processes that are killed while they save, and real disks that are full or read-only."""

import errno
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import checkpoint_driver
from checkpoint_driver import example
from disks import small_disk
from smallvit.train.checkpoint import Checkpoint, load_newest, remove_leftovers, save_checkpoint

DRIVER = Path(checkpoint_driver.__file__)
KILLED = -9
Order = Callable[..., Any]


@pytest.fixture(scope="module")
def order() -> Iterator[Order]:
    """Give an order to the driver; return its answer."""
    command = [sys.executable, str(DRIVER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def give(do: str, folder: Path, **options: Any) -> Any:
            process.stdin.write(json.dumps({"do": do, "folder": str(folder), **options}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield give
        process.stdin.close()


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder that is quick to flush; to a killed process all disks are alike."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def is_that_of(checkpoint: Checkpoint | None, step: int, size: int = 300) -> bool:
    expected = example(step, size)
    return (
        checkpoint is not None
        and (checkpoint.step, checkpoint.state, checkpoint.texts) == (step, expected.state, expected.texts)
        and all(
            torch.equal(checkpoint.tensors[group][name], tensor)
            for group, tensors in expected.tensors.items()
            for name, tensor in tensors.items()
        )
    )


def empty(folder: Path) -> None:
    """The first save of a run, whose folder is not there yet."""


def two_whole(folder: Path) -> None:
    """The save that deletes the oldest."""
    save_checkpoint(folder, example(10))
    save_checkpoint(folder, example(20))


def damaged_in_the_way(folder: Path) -> None:
    """The save that replaces a damaged checkpoint of its step, and deletes a damaged later one."""
    two_whole(folder)
    for later in ("step-00000030", "step-00000040"):
        shutil.copytree(folder / "step-00000020", folder / later)
    (folder / "step-00000030" / "model.safetensors").write_bytes(b"")
    (folder / "step-00000040" / "state.json").unlink()


@pytest.mark.parametrize(
    ("before", "when"),
    [
        (two_whole, "before"),
        (two_whole, "after"),
        (two_whole, "halfway"),
        (damaged_in_the_way, "before"),  # and so after the one that comes before it
        (empty, "before"),
        (empty, "halfway"),
    ],
)
def test_killed_at_each_file_operation_of_a_save(
    in_memory: Path, order: Order, before: Callable[[Path], None], when: str
) -> None:
    """Promised: the newest is whole, at most one save behind; the next start cleans up, and the next save is whole."""
    start, folder = in_memory / "start" / "run", in_memory / "work" / "run"
    start.parent.mkdir()
    before(start)
    for number in range(1, 200):
        shutil.rmtree(in_memory / "work", ignore_errors=True)
        shutil.copytree(in_memory / "start", in_memory / "work")
        answer = order("save", folder, step=30, number=number, when=when)
        if answer["status"] == 0:
            break
        assert answer["status"] == KILLED, answer
        check_after_kill(folder, before)
    operations = json.loads(answer["said"])["seen"]
    assert len(operations) == number - 1  # there was a kill at each, and the last save was not killed
    if when == "halfway":
        assert operations == ["write"] * 5
        return
    assert operations.count("fsync") == 7 + (before is empty)  # five files, their folder, its folder, a new one's
    assert operations.count("rename") == {empty: 1, two_whole: 2, damaged_in_the_way: 4}[before]
    assert operations.count("rmdir") == {empty: 0, two_whole: 1, damaged_in_the_way: 3}[before]


def check_after_kill(folder: Path, before: Callable[[Path], None]) -> None:
    newest, passed_over = load_newest(folder)
    renamed = newest is not None and newest.step == 30
    if before is empty:
        assert renamed or newest is None
        assert passed_over == []
    else:
        assert newest is not None
        assert newest.step in (20, 30)
    assert newest is None or is_that_of(newest, newest.step)
    if before is two_whole:
        assert passed_over == []
        for path in folder.glob("step-*"):  # not only the newest: whatever bears the name is whole
            assert names(path) == names(folder / "step-00000020")
    remove_leftovers(folder)
    assert [name for name in names(folder) if not re.fullmatch("step-000000[1-4]0", name)] == []
    save_checkpoint(folder, example(30))
    assert is_that_of(load_newest(folder)[0], 30)
    assert load_newest(folder)[1] == []
    assert names(folder) == ["step-00000030"] if before is empty else ["step-00000020", "step-00000030"]


def test_killed_at_fifty_random_moments(in_memory: Path, order: Order) -> None:
    """Promised: every save that was reported is there or outdone, at most the one under way is lost."""
    behind, leftovers, last = 0, 0, 0
    for _ in range(50):
        answer = order("saves", in_memory)
        assert answer["status"] == KILLED
        reported = [int(step) for step in answer["said"].split("\n")[1:-1]]
        newest, passed_over = load_newest(in_memory)
        assert passed_over == []
        last = max([last, *reported])
        found = newest.step if newest else 0
        assert found in (last, last + 1)  # renamed, but not yet reported
        assert newest is None or is_that_of(newest, found, 30_000)
        leftovers += any(name.startswith(".") for name in names(in_memory))
        behind += found == last
        last = found
    assert last >= 20
    assert leftovers >= 3  # the kills did hit saves
    assert behind >= 3


def test_a_limit_on_the_size_of_files(tmp_path: Path, order: Order) -> None:
    two_whole(tmp_path)
    largest = max(path.stat().st_size for path in (tmp_path / "step-00000020").iterdir())
    for limit in (0, 1, 600, largest - 1):
        answer = json.loads(order("save", tmp_path, step=30, max_bytes=limit)["said"])
        assert_refused(answer, tmp_path, "File too large")
    assert "error" not in json.loads(order("save", tmp_path, step=30, max_bytes=largest + 100)["said"])
    assert is_that_of(load_newest(tmp_path)[0], 30)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="system calls are made to fail on Linux, x86-64"
)
@pytest.mark.parametrize(
    ("call", "error"),
    [("fsync", "EDQUOT"), ("fsync", "EIO"), ("mkdir", "EDQUOT"), ("rename", "EIO"), ("fsync", "ENOSPC")],
)
def test_what_fails_late(tmp_path: Path, order: Order, call: str, error: str) -> None:
    """A quota, a full disk or a broken one may show only when what was written is flushed, or at the rename."""
    two_whole(tmp_path)
    answer = json.loads(order("save", tmp_path, step=30, fail=[call, error])["said"])
    assert_refused(answer, tmp_path, os.strerror(getattr(errno, error)))


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="system calls are made to fail on Linux, x86-64"
)
def test_a_file_system_that_cannot_flush(tmp_path: Path, order: Order) -> None:
    """EINVAL is for folders, which some file systems do not flush; for a file it is an error as any other."""
    answer = json.loads(order("save", tmp_path, step=30, fail=["fsync", "EINVAL"])["said"])
    assert answer["error"].endswith("cannot be saved: Invalid argument; there is no whole one")


def test_without_any_checkpoint_the_message_says_so(tmp_path: Path, order: Order) -> None:
    answer = json.loads(order("save", tmp_path / "run", step=30, max_bytes=100)["said"])
    path = tmp_path / "run" / "step-00000030"
    assert answer["error"] == f"checkpoint {path} cannot be saved: File too large; there is no whole one"
    (tmp_path / "file").write_text("")
    answer = json.loads(order("save", tmp_path / "file", step=30)["said"])
    assert answer["error"].endswith("cannot be saved: File exists; there is no whole one")


def test_the_message_names_the_newest_whole_one(tmp_path: Path, order: Order) -> None:
    two_whole(tmp_path)
    (tmp_path / "step-00000020" / "state.json").unlink()
    answer = json.loads(order("save", tmp_path, step=30, max_bytes=100)["said"])
    assert answer["error"].endswith("; the newest whole one is step-00000010")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, with checkpoints of steps 10 and 20."""
    with small_disk(tmp_path / "disk", "size=256k,nr_inodes=64") as place:
        two_whole(place / "run")
        yield place


def test_a_full_disk(disk: Path, order: Order) -> None:
    """Every number of free pages, from none to enough: the save fails at every file in turn."""
    folder, filler, page = disk / "run", disk / "filler", 4096
    refused = 0
    for free in range(40):
        filler.write_bytes(b"")
        left = os.statvfs(disk).f_bavail
        filler.write_bytes(b"x" * page * (left - free))
        answer = json.loads(order("save", folder, step=30)["said"])
        if "error" not in answer:
            break
        refused += 1
        assert_refused(answer, folder, "No space left on device")
    assert refused >= 5
    assert is_that_of(load_newest(folder)[0], 30)
    assert names(folder) == ["step-00000020", "step-00000030"]


def test_a_disk_without_room_for_another_file(disk: Path, order: Order) -> None:
    folder, inodes = disk / "run", os.statvfs(disk).f_ffree
    for number in range(inodes):
        (disk / f"filler{number}").touch()
    for free in range(7):  # a folder and five files, and one more to begin with
        answer = json.loads(order("save", folder, step=30)["said"])
        if "error" not in answer:
            break
        assert_refused(answer, folder, "No space left on device")
        (disk / f"filler{free}").unlink()
    assert free == 6
    assert is_that_of(load_newest(folder)[0], 30)


def test_a_read_only_disk(disk: Path, order: Order) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    answer = json.loads(order("save", disk / "run", step=30)["said"])
    assert_refused(answer, disk / "run", "Read-only file system")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user(tmp_path: Path, order: Order, request: pytest.FixtureRequest) -> None:
    place = Path("/tmp") / f"smallvit-test-{os.getpid()}"  # pytest's own folder lets no other user in
    request.addfinalizer(lambda: shutil.rmtree(place))
    two_whole(place)
    place.chmod(0o755)
    answer = json.loads(order("save", place, step=30, user=65534)["said"])
    assert_refused(answer, place, "Permission denied")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_a_read_only_folder(tmp_path: Path, order: Order) -> None:
    two_whole(tmp_path)
    tmp_path.chmod(0o555)
    answer = json.loads(order("save", tmp_path, step=30)["said"])
    tmp_path.chmod(0o755)
    assert_refused(answer, tmp_path, "Permission denied")


def test_an_immutable_folder(tmp_path: Path, order: Order, request: pytest.FixtureRequest) -> None:
    two_whole(tmp_path)
    done = subprocess.run(["chattr", "+i", str(tmp_path)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"chattr cannot make a folder immutable here: {done.stderr.strip()}")
    request.addfinalizer(lambda: subprocess.run(["chattr", "-i", str(tmp_path)], check=True))
    assert_refused(json.loads(order("save", tmp_path, step=30)["said"]), tmp_path, "Operation not permitted")


def test_the_umask_is_respected(tmp_path: Path, order: Order) -> None:
    order("save", tmp_path, step=30, umask=0o027)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "step-00000030").iterdir()} == {0o640}


def assert_refused(answer: Any, folder: Path, reason: str) -> None:
    """One line with the path, the reason and what remains; the folder as it was."""
    path = folder / "step-00000030"
    assert answer["error"] == f"checkpoint {path} cannot be saved: {reason}; the newest whole one is step-00000020"
    assert names(folder) == ["step-00000010", "step-00000020"]
    loaded, passed_over = load_newest(folder)
    assert is_that_of(loaded, 20)
    assert passed_over == []


def test_an_old_checkpoint_that_cannot_be_deleted_does_not_make_the_new_one_unsaved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another user's, in a folder where only owners delete."""

    def refused(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("smallvit.train.checkpoint.retire", refused)
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, example(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000020", "step-00000030"]
