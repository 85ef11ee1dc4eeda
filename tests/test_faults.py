"""The faults that a run is to survive, each done to real `smallvit` processes; docs/reliability.md is the table.

Most command lines are forked by faults_driver.py, which has torch imported already, and can do something to them at an
exact place; some are started as a user starts them.
"""

import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from disks import small_disk
from outcomes import outcome
from smallvit.record import RunRecord
from smallvit.train.checkpoint import load_newest

DRIVER = Path(__file__).with_name("faults_driver.py")
PATIENCE = 120.0
STEPS_PER_EPOCH = 6
STEPS = 3 * STEPS_PER_EPOCH
TOY = (
    *("train", "quickstart", "--seed", "3", "--data.val-fraction", "0.7", "--augment.mixup-alpha", "1"),
    *("--model.patch-size", "16", "--model.embed-dim", "16", "--model.depth", "2", "--model.num-heads", "2"),
    *("--optim.optimizer", "adamw", "--optim.lr", "0.01", "--optim.warmup-epochs", "1.5", "--train.epochs", "3"),
    *("--evaluate.every-epochs", "2", "--evaluate.batch-size", "200", "--device.device", "cpu"),
    *("--device.precision", "float32", "--device.attention", "sdpa", "--device.num-threads", "1"),
    *("--checkpoint.every-seconds", "0"),
)
"""18 steps of 64, 9 of them warm-up; val, in 6 forward passes, after steps 12 and 18, and then test, in 2."""
Moment = tuple[str, int | str, str, Any]


class Job:
    """A command line that the driver forked."""

    def __init__(self, order: Callable[..., Any], cwd: Path, words: Sequence[str], moments: Any, faults: Any) -> None:
        self.cwd, self._order = cwd, order
        self.pid: int = order(do="start", cwd=str(cwd), words=list(words), moments=list(moments), faults=faults)
        self.status: int | None = None

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Return the exit status, of a killed one minus the signal; None if it did not end in time."""
        if self.status is None:
            self.status = self._order(do="wait", pid=self.pid, seconds=seconds)
        return self.status

    @property
    def out(self) -> str:
        return (self.cwd / "out").read_text()

    @property
    def err(self) -> str:
        return (self.cwd / "err").read_text()


Start = Callable[..., Job]


@pytest.fixture(scope="module")
def order() -> Iterator[Callable[..., Any]]:
    """Give an order to the driver; return its answer."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def give(**what: Any) -> Any:
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield give
        process.stdin.close()


@pytest.fixture
def start(order: Callable[..., Any], tmp_path: Path) -> Iterator[Start]:
    """Start a command line; whatever of it lives at the end is killed."""
    started: list[Job] = []

    def begin(words: Sequence[str], moments: Sequence[Moment] = (), *, cwd: Path = tmp_path, **faults: Any) -> Job:
        started.append(Job(order, cwd, words, moments, faults))
        return started[-1]

    yield begin
    for job in started:
        if job.status is None and job.wait(0) is None:
            os.kill(job.pid, signal.SIGKILL)
            job.wait()


Smallvit = Callable[..., Job]


@pytest.fixture
def smallvit(start: Start) -> Smallvit:
    """Run a command line to its end."""

    def run(words: Sequence[str], moments: Sequence[Moment] = (), **options: Any) -> Job:
        job = start(words, moments, **options)
        assert job.wait() is not None, "it did not end"
        return job

    return run


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that a user starts, and nothing happens to."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(
        [sys.executable, "-m", "smallvit", *TOY, "--out", "run"],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (cwd / "run" / "index.html").exists()
    return cwd / "run"


@pytest.fixture(scope="module")
def undisturbed(whole_run: Path) -> dict[str, Any]:
    return outcome(whole_run)


def one_line(job: Job, status: int) -> str:
    """Return the one line of a command line that ended so, without the program's name."""
    assert job.status == status, job.err
    assert job.err.startswith("smallvit: "), job.err
    assert job.err.count("\n") == 1, job.err
    assert job.err.endswith("\n")
    return job.err[len("smallvit: ") : -1]


def command_to_go_on(line: str) -> list[str]:
    """Return the arguments of the command that a line ends with."""
    program, *words = shlex.split(line.split("to go on: ")[1])
    assert program == "smallvit"
    return words


def newest_step(run: Path) -> int:
    """Return the step of the newest checkpoint, 0 if there is none; whatever bears the name is whole."""
    checkpoint, passed_over = load_newest(run / "checkpoints")
    assert passed_over == []
    return 0 if checkpoint is None else checkpoint.step


def listed_step(run: Path) -> int:
    """Return the same while the run goes on."""
    return max((int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")), default=0)


def assert_unfinished_and_whole(run: Path) -> None:
    """Promised after every fault: nothing partial that looks whole, and whole lines only."""
    assert not (run / "record.json").exists()
    newest_step(run)
    text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
    assert text == "" or text.endswith("\n")
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_killed_at_six_random_moments_and_started_again_with_the_same_command(
    start: Start, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    draw, run, words = random.Random(), tmp_path / "run", [*TOY, "--out", "run"]
    resumed: list[int] = []
    for number in range(6):
        job = start(words)
        found = newest_step(run)
        if number in (2, 4):  # anywhere, so perhaps before its first step
            time.sleep(draw.uniform(0.0, 0.3))
        else:
            target = found + draw.choice((1, 2))
            wait_for(lambda target=target: listed_step(run) >= target, job)
            time.sleep(draw.uniform(0.0, 0.03))
        os.kill(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
        assert job.err == ""
        assert_unfinished_and_whole(run)
        resumed.append(newest_step(run))
    job = smallvit(words)
    assert (job.status, job.err) == (0, "")
    assert f"note: run was last written to by process {job.pid}" not in job.out
    assert re.search(r"^note: run was last written to by process \d+ on \S+, since \S+, which died$", job.out, re.M)
    assert f"going on after step {resumed[-1]} of {STEPS}" in job.out
    assert RunRecord.load(run / "record.json").resumed_at_steps == sorted(set(resumed) - {0})
    assert outcome(run) == undisturbed


def wait_for(reached: Callable[[], Any], job: Job) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert job.wait(0) is None, job.err
        assert time.monotonic() < deadline
        time.sleep(0.002)


WRITES = 6
"""Files of a checkpoint."""
PLACES: dict[str, tuple[str, int, int]] = {
    "warm-up": ("step", 3, 4),
    "step": ("step", 14, 15),
    "evaluation": ("pass", 3, 12),
    "save": ("write", 7 * WRITES + 2, 9),  # in the 8th; the run ends after one more step
}
"""Where a signal comes, and the steps that are done when the run ends."""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_the_run_after_its_step_with_the_command_to_go_on(
    place: str, name: str, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    where, number, steps = PLACES[place]
    folder = "run" if name == "SIGINT" else "it's my run"  # the command is quoted as a shell wants it
    job = smallvit([*TOY, "--out", folder], [(where, number, "signal", name)])
    line = one_line(job, 128 + signal.Signals[name])
    assert line.startswith(f"{name}: saved after step {steps} of {STEPS}; to go on: smallvit train --resume ")
    assert newest_step(tmp_path / folder) == steps
    assert_unfinished_and_whole(tmp_path / folder)
    job = smallvit(command_to_go_on(line))
    assert (job.status, job.err) == (0, "")
    assert RunRecord.load(tmp_path / folder / "record.json").resumed_at_steps == [steps]
    assert outcome(tmp_path / folder) == undisturbed


SECOND: dict[str, tuple[list[tuple[str, int, str, str]], int]] = {
    "in the step": ([("step", 14, "signal", "{0} {1}")], 14),
    "in the save": ([("step", 14, "signal", "{0}"), ("write", 3, "signal", "{1}")], 14),
    "in the evaluation": ([("step", 11, "touch", "here"), ("pass", 2, "signal", "{0} {1}")], 12),
    "after the last step": ([("finish", 1, "signal", "{0} {1}")], 17),
}
"""Where the second signal comes, and the newest checkpoint then."""


@pytest.mark.parametrize(
    ("place", "names"),
    [
        *((place, "SIGINT SIGINT") for place in SECOND),
        ("in the save", "SIGTERM SIGINT"),
        ("in the save", "SIGTERM SIGTERM"),
    ],
)
def test_a_second_signal_ends_the_run_at_once(
    place: str, names: str, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    moments, steps = SECOND[place]
    words, last = [*TOY, "--out", "run"], names.split()[1]
    job = smallvit(words, [(where, number, do, value.format(*names.split())) for where, number, do, value in moments])
    line = one_line(job, 128 + signal.Signals[last])
    assert line.startswith(f"{last} again: ended at once, nothing more was saved")
    assert_unfinished_and_whole(tmp_path / "run")
    assert newest_step(tmp_path / "run") == steps
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    assert smallvit(words).status == 0
    assert outcome(tmp_path / "run") == undisturbed


def test_out_of_time_in_time(start: Start, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    began = time.monotonic()
    job = start([*TOY, "--out", "run", "--max-seconds", "3"], [("step", "*", "sleep", 0.5)])
    job.wait()
    elapsed, line = time.monotonic() - began, one_line(job, 75)
    steps = newest_step(tmp_path / "run")
    assert 1 <= steps <= 5  # of 9 s in all
    assert elapsed < 3 + 1 or steps == 1  # a second to end; one step is always taken, however long it is to the first
    assert line.startswith(f"out of time (--max-seconds): saved after step {steps} of {STEPS}; to go on: ")
    # As often as a scheduler likes: with no time at all it still gains a step each time.
    job = smallvit([*command_to_go_on(line), "--max-seconds", "0"])
    assert one_line(job, 75).startswith(f"out of time (--max-seconds): saved after step {steps + 1} of {STEPS}")
    assert smallvit(command_to_go_on(line)).status == 0
    assert RunRecord.load(tmp_path / "run" / "record.json").resumed_at_steps == [steps, steps + 1]
    assert outcome(tmp_path / "run") == undisturbed


# A full disk


def test_a_checkpoint_that_has_no_room(smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """A limit on the size of files stands for a quota; it comes after 8 steps."""
    words, run = [*TOY, "--out", "run"], tmp_path / "run"
    line = one_line(smallvit(words, [("step", 8, "limit", 20_000)]), 1)
    assert line == (
        "checkpoint run/checkpoints/step-00000009 cannot be saved: File too large; "
        "the newest whole one is step-00000008"
    )
    assert_unfinished_and_whole(run)
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000007", "step-00000008"]
    before = contents(run / "checkpoints")
    # Again without room: the same, and what was whole stays so.
    line = one_line(smallvit(words, limit=20_000), 1)
    assert line.endswith("step-00000009 cannot be saved: File too large; the newest whole one is step-00000008")
    assert contents(run / "checkpoints") == before
    assert smallvit(words).status == 0
    assert outcome(run) == undisturbed


def test_a_first_checkpoint_that_has_no_room(smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    words = [*TOY, "--out", "run"]
    line = one_line(smallvit(words, limit=20_000), 1)
    assert line.endswith("step-00000001 cannot be saved: File too large; there is no whole one")
    assert_unfinished_and_whole(tmp_path / "run")
    job = smallvit(words)
    assert "note: run holds an unfinished run without a whole checkpoint, which is started over" in job.out
    assert outcome(tmp_path / "run") == undisturbed


def test_metrics_that_have_no_room(smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """After 6 steps a line is cut short by the disk, and taken back."""
    words, run = [*TOY, "--out", "run"], tmp_path / "run"
    seldom = [*words, "--checkpoint.every-seconds", "60"]
    line = one_line(smallvit(seldom, [("step", 5, "limit beyond", ["run/metrics.jsonl", 20])]), 1)
    assert line.startswith("run/metrics.jsonl: No space left on device; ")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    assert_unfinished_and_whole(run)
    assert smallvit(words).status == 0
    assert outcome(run) == undisturbed


def test_a_config_that_has_no_room_starts_nothing(smallvit: Smallvit, tmp_path: Path) -> None:
    line = one_line(smallvit([*TOY, "--out", "run"], limit=1000), 1)
    assert line.startswith("run/config.json: File too large")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    with small_disk(tmp_path / "disk", "size=3m") as place:
        yield place


def test_a_disk_that_fills_up(smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path, disk: Path) -> None:
    words, run = [*TOY, "--out", "disk/run"], disk / "run"
    line = one_line(smallvit(words, [("step", 10, "fill", ["disk", 60_000])]), 1)
    assert re.search(
        r"step-000000\d\d cannot be saved: No space left on device; the newest whole one is step-000000\d\d$", line
    )
    assert newest_step(run) >= 10
    assert_unfinished_and_whole(run)
    (disk / "filler").unlink()
    assert smallvit(words).status == 0
    assert outcome(run) == undisturbed
    # And one that nothing may be written to any more.
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    line = one_line(smallvit([*TOY, "--out", "disk/other"]), 1)
    assert line == "disk/other cannot be made a run folder: Read-only file system"
    assert one_line(smallvit(words), 1) == "disk/run cannot be locked: Read-only file system"


@pytest.mark.parametrize("file", ["model.safetensors", "test.safetensors", "record.json"])
def test_a_disk_that_is_full_at_the_end(
    file: str, smallvit: Smallvit, whole_run: Path, tmp_path: Path, disk: Path
) -> None:
    """With room for what comes before a file, and not for all of it."""
    words, run, page = [*TOY, "--out", "disk/run", "--checkpoint.every-seconds", "60"], disk / "run", 4096
    names = ["model.safetensors", "test.safetensors", "record.json"]
    sizes = [(whole_run / name).stat().st_size for name in names[: names.index(file)]]
    room = sum(-(-size // page) * page for size in sizes)
    line = one_line(smallvit(words, [("finish", 1, "fill", ["disk", room + page])]), 1)
    assert line.startswith(f"disk/run/{file}: No space left on device; ")
    assert [path.name for path in run.iterdir() if path.name.startswith(f".{file}")] == []
    assert_unfinished_and_whole(run)
    (disk / "filler").unlink()
    assert smallvit(command_to_go_on(line)).status == 0
    found, expected = outcome(run), outcome(whole_run)
    for config in (found["config"], found["record"]["config"]):
        config["checkpoint"]["every_seconds"] = 0.0
    assert found == expected


# Loss and gradients that are no numbers


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_no_number_ends_the_run_before_the_weights(
    what: str, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    words, run = [*TOY, "--out", "run"], tmp_path / "run"
    line = one_line(smallvit(words, **{what: [7]}), 1)
    found = "the loss is nan" if what == "loss" else "the gradient's norm is nan"
    assert line.startswith(f"{found} at step 7 (rate 0.00889): try a lower optim.lr; ")
    assert line.endswith("; the batch is in run/nonfinite-step-00000007.json")
    assert newest_step(run) == 7
    report = json.loads((run / "nonfinite-step-00000007.json").read_text())
    assert (report["step"], report["loss"] == "nan", report["gradient_norm"]) == (7, what == "loss", "nan")
    assert len(set(report["batch_indices"])) == 64
    assert_unfinished_and_whole(run)
    assert smallvit(words).status == 0
    assert outcome(run) == undisturbed


def test_no_numbers_are_left_out_and_counted_up_to_a_number_in_a_row(smallvit: Smallvit, tmp_path: Path) -> None:
    skip = [*TOY, "--train.on-nonfinite", "skip", "--train.max-skips", "2"]
    job = smallvit([*skip, "--out", "run"], gradient=[3, 4, 8])
    assert (job.status, job.err) == (0, "")
    assert job.out.count(" is left out: its loss or gradient is no finite number") == 3
    assert RunRecord.load(tmp_path / "run" / "record.json").skipped_steps == [3, 4, 8]
    # Interrupted between two that are left out: they are in a row nevertheless.
    words = [*skip, "--out", "parts"]
    job = smallvit(words, [("step", 4, "signal", "SIGTERM")], loss=[3, 4])
    one_line(job, 143)
    line = one_line(smallvit(words, loss=[5]), 1)
    assert line.startswith("the loss is nan at step 5 ")


# Two writers


def test_a_second_writer_is_refused_and_a_dead_ones_run_taken_over(
    start: Start, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Both as users start them."""
    words, second = [*TOY, "--out", "run"], tmp_path / "second"
    second.mkdir()
    first = start(words, [("step", 9, "sleep", 600)])
    wait_for(lambda: listed_step(tmp_path / "run") == 9, first)
    job = start([*TOY, "--out", "../run"], cwd=second)
    job.wait()
    line = one_line(job, 1)
    who = rf"process {first.pid} on {re.escape(socket.gethostname())}, since \S+"
    assert re.fullmatch(rf"\.\./run is being written to by {who}: wait for it, or end it first", line)
    assert first.wait(0) is None
    assert newest_step(tmp_path / "run") == 9
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    job = start(words)
    assert job.wait() == 0
    assert re.search(rf"^note: run was last written to by {who}, which died$", job.out, re.M)
    assert "going on after step 9 of 18" in job.out
    assert outcome(tmp_path / "run") == undisturbed


# What is asked for does not fit what is there


@pytest.fixture
def half(smallvit: Smallvit, tmp_path: Path) -> Path:
    """The folder of a run that was interrupted after 9 steps."""
    assert smallvit([*TOY, "--out", "half"], [("step", 8, "signal", "SIGTERM")]).status == 143
    return tmp_path / "half"


def test_what_does_not_fit_an_unfinished_run_is_refused_and_changes_nothing(half: Path, smallvit: Smallvit) -> None:
    def refused(*words: str) -> str:
        before = contents(half.parent)
        line = one_line(smallvit(words), 2)
        after = contents(half.parent)
        for folder in (before, after):
            for name in ("out", "err"):
                del folder[half.parent / name]
        assert after == before
        return line

    other = "name another folder with --out, or start from its weights with --fork half"
    assert refused(*TOY, "--out", "half", "--seed", "4") == f"half holds another run (seed is 3, not 4): {other}"
    line = refused("train", "--resume", "half", "--train.epochs", "9")
    assert line == f"half holds another run (train.epochs is 3, not 9): {other}"
    line = refused("train", "quickstart", "--out", "half")
    assert "half holds another run (seed is 3, not 0; data.val_fraction is 0.7, not 0.1; " in line
    path = half / "config.json"
    whole = path.read_text()
    path.write_text(whole.replace('"lr": 0.01', '"lr": 0.02'))
    assert refused("train", "--resume", "half") == f"half holds another run (optim.lr is 0.01, not 0.02): {other}"
    path.write_text(whole)
    both = "--resume goes on in its own folder, from its own weights: leave out --out and --fork"
    assert refused("train", "--resume", "half", "--out", "else") == both
    assert refused("train", "--resume", "half", "--fork", "half") == both
    missing = "--resume is {!r}: it must be the folder of a run, with its config.json"
    (half.parent / "empty").mkdir()
    for name in ("empty", "nowhere"):
        assert refused("train", "--resume", name) == missing.format(name)
    assert refused(*TOY, "--fork", "nowhere") == "--fork is 'nowhere': it must be a run folder"
    line = refused(*TOY, "--fork", "empty", "--out", "forked")
    assert line == "empty holds neither model.safetensors nor a whole checkpoint to start from"
    line = refused(*TOY, "--out", "half", "--max-seconds", "-1")
    assert line.startswith("--max-seconds is -1.0: it must be at least 0")


def test_a_finished_run_and_a_damaged_config_are_refused(
    half: Path, smallvit: Smallvit, undisturbed: dict[str, Any]
) -> None:
    path = half / "config.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    before = contents(half)
    for words in (("train", "--resume", "half"), (*TOY, "--out", "half")):
        assert one_line(smallvit(words), 1).startswith("half/config.json is not a readable config: ")
        assert contents(half) == before
    path.write_text(whole)
    job = smallvit(("train", "--resume", "half"))
    assert (job.status, job.err) == (0, "")
    assert outcome(half) == undisturbed
    before = contents(half)
    for words in (("train", "--resume", "half"), (*TOY, "--out", "half")):
        line = one_line(smallvit(words), 2)
        assert line == "half already holds a finished run: name another folder with --out, or delete it"
        assert contents(half) == before


# Several processes

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
SECONDS = 4.0
"""How long a process waits for the other here."""


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `smallvit` in two processes, perhaps with moments in some of their lives."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(words: Sequence[str], lives: Any = None, *options: str) -> subprocess.Popen[bytes]:
        driven = [str(DRIVER), "alone", json.dumps(lives), json.dumps({"timeout": SECONDS})]
        program = ["-m", "smallvit"] if lives is None else driven
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            job = subprocess.Popen(
                [*TORCHRUN, *options, *program, *words],
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=err,
            )
        started.append(job)
        return job

    yield begin
    for job in started:
        if job.poll() is None:
            job.terminate()
            job.wait()


def assert_close(run: Path, undisturbed: dict[str, Any]) -> None:
    """Sums over a batch round otherwise in two processes, and Adam makes that larger: close is what can be promised."""
    record = RunRecord.load(run / "record.json").to_json()
    alone = undisturbed["record"]
    assert record["config_digest"] == alone["config_digest"]
    assert record["choices"]["reason"] == alone["choices"]["reason"]
    for point, expected in zip(record["curve"], alone["curve"], strict=True):
        assert point["images_seen"] == expected["images_seen"]
        assert point["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-3)
        assert point["val"]["count"] == expected["val"]["count"]
        assert point["val"]["correct"] == pytest.approx(expected["val"]["correct"], abs=10)
    assert record["test"]["count"] == alone["test"]["count"] == 359
    assert record["test"]["correct"] == pytest.approx(alone["test"]["correct"], abs=4)


def test_two_processes_train_as_one_does(torchrun: Any, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    assert torchrun([*TOY, "--out", "run"]).wait(2 * PATIENCE) == 0, (tmp_path / "err").read_text()
    said = (tmp_path / "out").read_text()
    assert said.count("test accuracy") == 1
    assert said.count("page    run/index.html") == 1
    assert RunRecord.load(tmp_path / "run" / "record.json").world_size == 2
    assert_close(tmp_path / "run", undisturbed)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".") and path.name != ".lock"]


def test_two_processes_then_one_then_two(
    torchrun: Any, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    run, words = tmp_path / "run", [*TOY, "--out", "run"]
    slow = [[{}, [["step", "*", "sleep", 0.1]]]]
    job = torchrun(words, slow)
    wait_for_step(run, 4, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(PATIENCE) != 0
    steps, err = newest_step(run), (tmp_path / "err").read_text()
    lines = [line for line in err.splitlines() if line.startswith("smallvit")]
    assert lines == [f"smallvit: SIGTERM: saved after step {steps} of 18; to go on: smallvit train --resume run"]
    assert 4 <= steps < 10
    job = smallvit(command_to_go_on(lines[0]), [("step", 11, "signal", "SIGTERM")])
    one_line(job, 143)
    assert f"going on after step {steps} of 18" in job.out
    assert "note: devices: 1, was 2: the same batches, but sums round otherwise" in job.out
    assert torchrun(command_to_go_on(lines[0]), []).wait(PATIENCE) == 0, (tmp_path / "err").read_text()
    assert "note: devices: 2, was 1: the same batches, but sums round otherwise" in (tmp_path / "out").read_text()
    assert RunRecord.load(run / "record.json").resumed_at_steps == [steps, 12]
    assert_close(run, undisturbed)


def wait_for_step(run: Path, step: int, job: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while listed_step(run) < step:
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_process_is_started_again_and_a_hanging_one_ends_the_job_in_time(
    torchrun: Any, smallvit: Smallvit, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Rank 1 is killed in step 7 of its first life, and stopped in step 12 of its second, which is the last allowed."""
    run, words = tmp_path / "run", [*TOY, "--out", "run"]
    first, second = ({"RANK": "1", "TORCHELASTIC_RESTART_COUNT": count} for count in "01")
    lives = [
        [{}, []],
        [first, [["step", 7, "signal", "SIGKILL"]]],
        [second, [["step", 12, "stop", "stopped"]]],
    ]
    job = torchrun(words, lives, "--max-restarts=1")
    deadline = time.monotonic() + 2 * PATIENCE
    while "one of them hangs" not in (tmp_path / "err").read_text():
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stopped = tmp_path / "stopped"
    assert SECONDS - 1 <= time.time() - stopped.stat().st_mtime < SECONDS + 10
    os.kill(int(stopped.read_text()), signal.SIGKILL)  # as torchrun itself does, 30 s later
    assert job.wait(PATIENCE) == 1
    err, out = (tmp_path / "err").read_text(), (tmp_path / "out").read_text()
    lines = [line for line in err.splitlines() if line.startswith("smallvit")]
    lost = "lost the connection to another rank at 127.0.0.1 (it died, or ended with an error of its own), in step 7"
    silent = f"got no answer from the other ranks within {SECONDS:g} s (one of them hangs), in step 12"
    assert lines == [f"smallvit: rank 0 {lost}", f"smallvit: rank 0 {silent}"]
    assert "going on after step 7 of 18" in out
    assert newest_step(run) == 12
    assert_unfinished_and_whole(run)
    assert smallvit(words).status == 0
    assert RunRecord.load(run / "record.json").resumed_at_steps == [7, 12]
    assert_close(run, undisturbed)
