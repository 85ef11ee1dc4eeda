"""One writer for a run folder: real processes, ended in every way."""

import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smallvit.errors import SmallvitError
from smallvit.lock import OWNER, LostFolderError, require_held, run_lock

DRIVER = Path(__file__).with_name("lock_driver.py")
Start = Callable[..., subprocess.Popen[str]]


def test_the_owners_name_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run" / OWNER).symlink_to(tmp_path / "precious")
    with run_lock(tmp_path / "run"):
        assert not (tmp_path / "run" / OWNER).is_symlink()
    assert (tmp_path / "precious").read_text() == "kept"


def test_threads_that_lock_leave_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    before, interval = list(warnings.filters), sys.getswitchinterval()

    def lock_often(folder: Path) -> None:
        for _ in range(50):
            with run_lock(folder):
                pass

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lock_often, (tmp_path / str(number) for number in range(4))))
        assert warnings.filters == before
    finally:
        sys.setswitchinterval(interval)
        warnings.filters[:] = before


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a driver; whatever of it lives at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(folder: Path, what: str = "hold") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), str(folder), what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None or _group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_after_the_other(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path) as note:
            assert note is None
            owner = json.loads((tmp_path / OWNER).read_text())
            assert (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid())
            assert abs((datetime.now(UTC) - datetime.fromisoformat(owner["since"])).total_seconds()) < 5
        assert names(tmp_path) == [".lock"]
    assert (tmp_path / ".lock").read_bytes() == b""


def test_two_folders_at_once(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with run_lock(tmp_path / "a"), run_lock(tmp_path / "b"):
        assert (tmp_path / "a" / OWNER).exists()
        assert (tmp_path / "b" / OWNER).exists()


def test_twice_in_one_process_is_refused(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        with (
            pytest.raises(SmallvitError, match=f"is being written to by process {os.getpid()} on "),
            run_lock(tmp_path),
        ):
            pass
        assert (tmp_path / OWNER).exists()  # the one that was refused took nothing away
    assert names(tmp_path) == [".lock"]


def test_a_second_process_is_refused_at_once_with_the_first_ones_name(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path)
    assert said(first) == "locked None"
    owner = json.loads((tmp_path / OWNER).read_text())
    assert owner["pid"] == first.pid
    line = (
        f"{tmp_path} is being written to by process {first.pid} on {socket.gethostname()}, since {owner['since']}: "
        "wait for it, or end it first"
    )
    before = time.monotonic()
    with pytest.raises(SmallvitError) as error, run_lock(tmp_path):
        pass
    assert time.monotonic() - before < 5
    assert str(error.value) == line
    assert said(start(tmp_path)) == f"LockedError {line}"
    assert json.loads((tmp_path / OWNER).read_text()) == owner
    first.communicate("go on\n")
    assert names(tmp_path) == [".lock"]
    assert said(start(tmp_path)) == "locked None"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_holder_is_taken_over_from_and_named(tmp_path: Path, start: Start, number: int) -> None:
    first = start(tmp_path)
    assert said(first) == "locked None"
    first.send_signal(number)
    first.wait()
    with run_lock(tmp_path) as note:
        if number == signal.SIGINT:  # an exception, and so a clean end
            assert note is None
        else:
            assert note is not None
            whole = (
                rf"{re.escape(str(tmp_path))} was last written to by process {first.pid} on \S+, since \S+, which died"
            )
            assert re.fullmatch(whole, note)
        assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    assert names(tmp_path) == [".lock"]


@pytest.mark.parametrize("what", ["fork", "run"])
def test_children_that_outlive_a_killed_holder_do_not_keep_the_lock(tmp_path: Path, start: Start, what: str) -> None:
    first = start(tmp_path, what)
    assert said(first) == "locked None"
    time.sleep(0.1)
    first.kill()
    first.wait()
    assert _group_lives(first.pid)  # the child is there
    with run_lock(tmp_path) as note:
        assert note is not None


def test_a_forked_child_that_leaves_the_with_statement_takes_nothing_away(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path, "fork")
    assert said(first) == "locked None"
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    if not children.exists():
        pytest.skip("the child is found in /proc, which is not here")
    child = int(children.read_text())
    os.kill(child, signal.SIGINT)  # KeyboardInterrupt out of its sleep, and out of the with
    deadline = time.monotonic() + 60
    while "(zombie)" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline, "the child did not end"
        time.sleep(0.02)
    assert (tmp_path / OWNER).exists()
    with pytest.raises(SmallvitError, match=f"process {first.pid} on"), run_lock(tmp_path):
        pass


def test_the_error_of_the_body_comes_through(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path, "raise")
    assert said(first) == "locked None"
    assert said(first) == "OSError of the body"
    assert names(tmp_path) == [".lock"]
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    assert names(tmp_path) == [".lock"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "\x00" * 100])
def test_an_unreadable_owner_file_stops_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / OWNER).write_text(content)
    with run_lock(tmp_path) as note:
        assert note == f"{tmp_path} was last written to by a process, which died"
    assert names(tmp_path) == [".lock"]


def test_a_folder_is_held_until_another_is_there_in_its_place(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for _ in range(2):
        with run_lock(run):
            require_held(run)
            for hidden in (OWNER, ".lock"):  # as by what clears hidden files away: no other run has begun
                (run / hidden).unlink()
                require_held(run)
    with run_lock(run):
        run.rename(tmp_path / "moved")
        with pytest.raises(LostFolderError, match="it was deleted or moved"):
            require_held(run)
        shutil.copytree(tmp_path / "moved", run)
        require_held(run)
        owner = json.loads((run / OWNER).read_text())
        (run / OWNER).write_text(json.dumps({**owner, "pid": owner["pid"] + 1}))
        with pytest.raises(LostFolderError, match=f"process {owner['pid'] + 1} on .* writes to what is there now"):
            require_held(run)
    assert names(run) == names(tmp_path / "moved") == [".lock", OWNER]


def test_a_copy_of_a_folder_that_is_being_written_to_does_not_say_that_its_owner_died(
    tmp_path: Path, start: Start
) -> None:
    first = start(tmp_path / "run")
    assert said(first) == "locked None"
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with run_lock(tmp_path / "copy") as note:
        assert note is not None
        assert note.endswith(", which left no word of its end")


def test_an_owner_that_cannot_be_read_is_another_process(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path)
    assert said(first) == "locked None"
    owner = json.loads((tmp_path / OWNER).read_text())
    for content in ("", json.dumps({**owner, "pid": 2**22 + 1}), json.dumps({**owner, "host": "elsewhere"})):
        (tmp_path / OWNER).write_text(content)
        who = "another process" if not content else f"process {json.loads(content)['pid']} on"
        with pytest.raises(SmallvitError, match=f"is being written to by {who}"), run_lock(tmp_path):
            pass


def test_many_at_once_have_one_winner(tmp_path: Path, start: Start) -> None:
    answers = [said(process) for process in [start(tmp_path, "wait") for _ in range(6)]]
    assert sorted(answer.split()[0] for answer in answers) == ["LockedError"] * 5 + ["locked"]
    winner = json.loads((tmp_path / OWNER).read_text())["pid"]
    assert all(f"by process {winner} on" in answer for answer in answers if answer.startswith("LockedError"))


def test_a_folder_that_is_none_or_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SmallvitError, match="file cannot be locked: File exists"), run_lock(tmp_path / "file"):
        pass
    with run_lock(tmp_path / "new"):
        assert (tmp_path / "new" / OWNER).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_and_a_full_disk(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with pytest.raises(SmallvitError, match="cannot be locked: No space left on device"), run_lock(tmp_path):
            pass
        assert names(tmp_path) == [".lock"]  # there was one inode left for the lock and none for its owner
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        with pytest.raises(SmallvitError, match="cannot be locked: Read-only file system"), run_lock(tmp_path):
            pass
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


needs_seccomp = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="system calls are made to fail on Linux, x86-64"
)


@needs_seccomp
def test_without_flock_the_file_itself_is_the_lock(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path, "ENOSYS")
    assert said(first) == "locked None"
    assert str(first.pid) in (tmp_path / ".lock").read_text()
    second = said(start(tmp_path, "ENOSYS"))
    assert f"is being written to by process {first.pid} on" in second
    first.communicate("go on\n")
    assert names(tmp_path) == []
    third = start(tmp_path, "ENOSYS")
    assert said(third) == "locked None"
    third.kill()
    third.wait()
    fourth = said(start(tmp_path, "ENOSYS"))
    assert re.fullmatch(rf"locked .* was last written to by process {third.pid} on .*, which died", fourth)


@needs_seccomp
def test_without_flock_a_lock_of_unknown_origin_can_be_deleted(tmp_path: Path, start: Start) -> None:
    """Such as one that was copied here with the folder."""
    (tmp_path / ".lock").touch()
    remedy = f"wait for it, or end it first; if it is no more, delete {tmp_path / '.lock'}"
    assert said(start(tmp_path, "ENOSYS")) == (
        f"LockedError {tmp_path} is being written to by another process: {remedy}"
    )


@needs_seccomp
@pytest.mark.parametrize("name", ["ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_that_refuses_locks_is_named(tmp_path: Path, start: Start, name: str) -> None:
    import errno

    assert said(start(tmp_path, name)) == (
        f"SmallvitError {tmp_path} cannot be locked: {os.strerror(getattr(errno, name))}"
    )
