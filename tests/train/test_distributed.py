"""Real processes: one rank, two and four train on the same batches to the same weights, and a rank that is killed or
stopped ends the others in one line, in time.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from smallvit.errors import SmallvitError, UsageError
from smallvit.train.distributed import RankLostError, World
from smallvit.train.rendezvous import PREPARE_SECONDS, join

DRIVER = Path(__file__).with_name("distributed_driver.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=0")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SIZES = (1, 2, 4)
SLOWEST_SECONDS = 300.0
"""What a machine that is busy with other things may need for what takes some seconds."""
BUSY_SECONDS = 40.0
"""And for the end of some processes."""
WHAT = "train,variants,go_on,talk,not_finite"


class _Event:
    """Of a GPU that is through after so many questions."""

    def __init__(self, questions: float) -> None:
        self.left, self.waited = questions, False

    def query(self) -> bool:
        self.left -= 1
        return self.left < 0

    def synchronize(self) -> None:
        self.waited = True


def test_a_gpu_that_waits_for_a_lost_rank_is_not_waited_for() -> None:
    alone, soon, never = _Event(0), _Event(5), _Event(float("inf"))
    World().wait_for(alone)
    assert alone.waited
    several = World(1, 2, timeout_seconds=0.2)
    several.wait_for(soon)
    assert soon.left == -1
    with pytest.raises(RankLostError, match=r"^rank 1 got no gradients from the other ranks within 0\.2 s"):
        several.wait_for(never)
    assert not soon.waited
    assert not never.waited


def test_a_barrier_is_carried_by_the_patient_group(monkeypatch: pytest.MonkeyPatch) -> None:
    control, patient, carried_by = dist.ProcessGroup(0, 2), dist.ProcessGroup(0, 2), list[dist.ProcessGroup]()
    monkeypatch.setattr(dist, "barrier", carried_by.append)
    World(0, 2, control=control, patient=patient).barrier()
    assert carried_by == [patient]


def start(
    launcher: tuple[str, ...], what: str, folder: Path | str, timeout: float, **variables: Any
) -> subprocess.Popen[str]:
    """Start the driver, by torchrun, as one rank of the given variables, or as all ranks of some jobs."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    own = {name: str(value) for name, value in variables.items()}
    return subprocess.Popen(
        [*launcher, str(DRIVER), what, str(folder), str(timeout)],
        env={**environment, **own, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def free_port() -> Generator[int]:
    """A port that no other program is given, and on which ranks may listen: it is bound, and nothing listens on it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def port() -> Generator[int]:
    with free_port() as free:
        yield free


def whole(rank: int, size: int, port: int) -> dict[str, Any]:
    """What torchrun tells a rank."""
    return dict(zip(VARIABLES, (rank, size, rank, "127.0.0.1", port), strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[dict[str, Any]]]]:
    """Of one, two and four ranks: the folder, and what each rank found."""
    folders = {size: tmp_path_factory.mktemp(f"ranks{size}") for size in SIZES}
    with ExitStack() as held:
        jobs = {size: (held.enter_context(free_port()), str(folder)) for size, folder in folders.items()}
        job = start((sys.executable,), WHAT, json.dumps(jobs), 60.0)
        said, _ = job.communicate(timeout=SLOWEST_SECONDS)
    assert job.returncode == 0, said
    assert "Warning" not in said, said
    found = {s: [json.loads((f / f"rank{rank}.json").read_text()) for rank in range(s)] for s, f in folders.items()}
    return {size: (folders[size], found[size]) for size in SIZES}


def test_the_same_images_in_the_same_steps(trained: dict[int, tuple[Path, list[dict[str, Any]]]]) -> None:
    alone = trained[1][1][0]["train"]["batches"]
    assert len(set(alone)) == len(alone)
    for size in SIZES:
        assert all(rank["train"]["batches"] == alone for rank in trained[size][1])


def test_the_weights_are_close_to_those_of_one_rank(trained: dict[int, tuple[Path, list[dict[str, Any]]]]) -> None:
    """Sums over a batch round otherwise. A bias of the keys has no gradient but rounding, which Adam makes large."""
    alone = load_file(trained[1][0] / "weights.safetensors")
    losses = trained[1][1][0]["train"]["losses"]
    for size in (2, 4):
        folder, ranks = trained[size]
        for name, weight in load_file(folder / "weights.safetensors").items():
            tolerance = 1e-3 if name.endswith("qkv.bias") else 2e-6
            torch.testing.assert_close(weight, alone[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
        assert ranks[0]["train"]["losses"] == pytest.approx(losses, abs=2e-6)


def test_all_ranks_agree_to_the_bit(trained: dict[int, tuple[Path, list[dict[str, Any]]]]) -> None:
    """Weights, losses, logits, metrics, what `auto` chose, and how often they were asked whether to end."""
    for size in SIZES:
        first, *others = trained[size][1]
        assert all(other == first for other in others)
        assert first["train"]["checks"] == -(-8 // size)
        assert first["initialized"] == (size > 1)


def test_every_variant_trains_on_several_ranks(trained: dict[int, tuple[Path, list[dict[str, Any]]]]) -> None:
    alone = trained[1][1][0]["variants"]
    assert len(set(alone["weights"].values())) == 2, "the average is another model"
    for size in (2, 4):
        first, *others = (rank["variants"] for rank in trained[size][1])
        assert all(other == first for other in others)
        assert first["losses"] == pytest.approx(alone["losses"], abs=1e-3)


def test_a_measurement_does_not_depend_on_the_ranks(trained: dict[int, tuple[Path, list[dict[str, Any]]]]) -> None:
    """359 images in passes of 50, or in one: with the same weights the same bits, and no image counted twice."""
    alone = trained[1][1][0]["train"]
    for size in SIZES:
        found = trained[size][1][0]["train"]
        assert (found["start"], found["one_pass"]) == (alone["start"], alone["one_pass"])
        assert found["metrics"]["count"] == 359
        assert found["metrics"]["correct"] == alone["metrics"]["correct"]


def test_a_continued_run_adds_in_the_order_of_the_uninterrupted_one(
    trained: dict[int, tuple[Path, list[dict[str, Any]]]],
) -> None:
    for size in SIZES:
        before, after = trained[size][1][0]["go_on"]["gradients"]
        assert before == after


def test_messages_arrive_whole(trained: dict[int, tuple[Path, list[dict[str, Any]]]]) -> None:
    for size in SIZES:
        for said in (rank["talk"] for rank in trained[size][1]):
            assert said["patience"] == ([60.0, PREPARE_SECONDS] if size > 1 else [])
            assert said["any"] == [False, True, True, True]
            assert said["object"] == {"step": 3, "names": ["é", None], "nested": {"x": 0.1}}
            assert said["long"] == 300_000
            assert said["tensors"] == {
                "half": ["torch.bfloat16", [2, 3], [[0.0] * 3] * 2],
                "flag": ["torch.bool", [], 1.0],
                "none": ["torch.float32", [0, 4], []],
                "turned": ["torch.int64", [3, 2], [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]],
                "float": ["torch.float64", [], 0.0],
            }
            assert said["mean"] == [(size - 1) / 2, 1.0]
            assert said["rows"] == [[rank, rank] for rank in range(size) for _ in range(rank)]
            assert said["no_rows"] == [0, 5]


def test_outputs_that_are_no_numbers_end_every_rank(trained: dict[int, tuple[Path, list[dict[str, Any]]]]) -> None:
    for size in SIZES:
        for rank in trained[size][1]:
            assert rank["not_finite"]["error"].startswith("the model's outputs on test are not finite numbers")
            assert rank["not_finite"]["trains"]


def wait_until_they_train(folder: Path, size: int) -> list[int]:
    """Return the process numbers of ranks that have taken some steps."""
    ready = [folder / f"ready{rank}" for rank in range(size)]
    deadline = time.monotonic() + SLOWEST_SECONDS
    while not all(path.exists() and path.read_text() for path in ready):
        assert time.monotonic() < deadline, "the ranks did not start"
        time.sleep(0.05)
    return [int(path.read_text()) for path in ready]


LOST = r"rank {} lost the connection to another rank at 127\.0\.0\.1 \(it died, or ended with an error of its own\)"
SILENT = r"rank {} got no answer from the other ranks within 6 s \(one of them hangs\)"
WHERE = r", in step \d+"


def test_a_silent_rank_ends_the_others_in_one_line_in_time(tmp_path: Path, port: int) -> None:
    """Of the two that wait for it, one may end first, and be the other's lost connection."""
    jobs = [start((sys.executable,), "endless", tmp_path, 6.0, **whole(rank, 3, port)) for rank in range(3)]
    try:
        wait_until_they_train(tmp_path, 3)
        began = time.monotonic()
        jobs[1].send_signal(signal.SIGSTOP)
        said = {rank: jobs[rank].communicate(timeout=SLOWEST_SECONDS)[0] for rank in (0, 2)}
        elapsed = time.monotonic() - began
    finally:
        for job in jobs:
            job.kill()
            job.communicate()
    assert elapsed < 6 + BUSY_SECONDS
    for rank, text in said.items():
        assert jobs[rank].returncode == 1
        assert any(re.fullmatch(line.format(rank) + WHERE, text.rstrip("\n")) for line in (SILENT, LOST)), text
    assert any(text.startswith(f"rank {rank} got no answer") for rank, text in said.items())


def test_a_killed_rank_ends_torchrun_with_one_line_of_the_other(tmp_path: Path) -> None:
    """It sends SIGTERM to the other at once; its line is there nevertheless."""
    job = start((*TORCHRUN, "--nproc-per-node=2"), "endless", tmp_path, 60.0)
    try:
        pids = wait_until_they_train(tmp_path, 2)
        began = time.monotonic()
        os.kill(pids[0], signal.SIGKILL)
        said, _ = job.communicate(timeout=SLOWEST_SECONDS)
        assert time.monotonic() - began < BUSY_SECONDS  # and not the 60 that they would wait
    finally:
        job.terminate()
        job.communicate()
    assert job.returncode == 1
    lines = [line for line in said.splitlines() if re.match(r"rank \d", line)]
    assert len(lines) == 1, said
    assert re.fullmatch(LOST.format(1) + WHERE, lines[0])
    assert f'{DRIVER.name}", line' not in said  # no traceback of ours


def set_environment(monkeypatch: pytest.MonkeyPatch, **values: str | int) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


WHOLE: dict[str, str | int] = {
    "RANK": 1,
    "WORLD_SIZE": 2,
    "LOCAL_RANK": 1,
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": 1,
}


@pytest.mark.parametrize("values", [{}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}, {**WHOLE, "RANK": 0}])
def test_the_world_of_one_sets_nothing_up(values: dict[str, str | int], monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"WORLD_SIZE": 1, "LOCAL_RANK": 0} if "RANK" in values else {}
    set_environment(monkeypatch, **{**values, **one})
    with join(timeout_seconds=1.0) as world:
        assert (world.rank, world.size, world.local_rank, world.is_main) == (0, 1, 0, True)
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: None}, f"but no {name}: ") for name in VARIABLES),
        *(({name: ""}, f"but no {name}: ") for name in VARIABLES),
        ({"RANK": "first"}, "RANK is 'first', expected a whole number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', expected a whole number"),
        ({"MASTER_PORT": "٣"}, "MASTER_PORT is '٣', expected a whole number"),
        ({"MASTER_PORT": 70000}, "MASTER_PORT is 70000, expected at most 65535"),
        ({"RANK": 2}, "RANK is 2, expected less than WORLD_SIZE, 2"),
        ({"LOCAL_RANK": 5}, "LOCAL_RANK is 5, expected less than WORLD_SIZE, 2"),
        ({"WORLD_SIZE": 0}, "RANK is 1, expected less than WORLD_SIZE, 0"),
    ],
)
def test_a_half_set_environment_is_one_line(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {name: value for name, value in {**WHOLE, **changes}.items() if value is not None}
    set_environment(monkeypatch, **values)
    with pytest.raises(UsageError) as caught, join(timeout_seconds=1.0):
        pass
    assert message in str(caught.value)
    assert "torchrun" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_never_come_are_one_line(rank: int, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **whole(rank, 2, port))
    began = time.monotonic()
    with pytest.raises(RankLostError) as caught, join(timeout_seconds=1.0, start_seconds=1.0):
        pass
    assert time.monotonic() - began < 10
    expected = f"rank {rank} of 2 did not meet the others at 127.0.0.1:{port} within 1 s: "
    assert str(caught.value).startswith(expected)
    assert len(str(caught.value).splitlines()) == 1
    assert not torch.distributed.is_initialized()


def test_only_errors_of_the_connection_are_a_lost_rank() -> None:
    world = World(rank=2, size=4, timeout_seconds=60.0)
    for mine in (RuntimeError("shapes [2] and [3] differ"), ValueError("gloo"), SmallvitError("disk full")):
        with pytest.raises(type(mine)) as same, world.guarded(lambda: "in step 3"):
            raise mine
        assert same.value is mine
    timeout = "[/w/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 60000ms for recv operation"
    with pytest.raises(RankLostError) as lost, world.guarded(lambda: "in step 3"), world.guarded():
        raise RuntimeError(timeout)
    assert str(lost.value) == "rank 2 got no answer from the other ranks within 60 s (one of them hangs), in step 3"
    nccl = "NCCL error: remote process exited or there was a network error"
    for text in (nccl, f"{nccl}\nncclRemoteError: A call failed\nLast error:\nsocketProgress: Connection closed"):
        with pytest.raises(RankLostError, match="rank 2 lost the connection to another rank"), world.guarded():
            raise torch.distributed.DistBackendError(text)


def test_what_nccl_says_of_this_rank_is_kept() -> None:
    text = (
        "NCCL error in: /w/ProcessGroupNCCL.cpp:3690, unhandled cuda error, NCCL version 2.27.5\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'\n"
    )
    with pytest.raises(RankLostError) as lost, World(rank=2, size=4).guarded():
        raise torch.distributed.DistBackendError(text)
    assert str(lost.value) == "rank 2 cannot exchange gradients with the other ranks (Cuda failure 2 'out of memory')"


class _Parallel(torch.nn.Module):
    """Stands in for torch's DistributedDataParallel."""

    def __init__(self, module: torch.nn.Module, process_group: None) -> None:
        super().__init__()
        self.module = module
        self.broadcast_buffers = True

    def no_sync(self) -> AbstractContextManager[None]:
        return nullcontext()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)


def test_ranks_wait_for_the_slowest_compilation_and_do_not_send_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def made(*arguments: Any, **options: Any) -> _Parallel:
        said.append("made")
        return _Parallel(*arguments, **options)

    def example() -> tuple[torch.Tensor]:
        said.append("example")
        return (torch.ones(1),)

    monkeypatch.setattr(World, "barrier", lambda self: said.append("barrier"))
    monkeypatch.setattr("torch.nn.parallel.DistributedDataParallel", made)
    found = World(rank=1, size=2).parallel(torch.nn.Linear(1, 1), example)
    assert said == ["example", "barrier", "made", "barrier"]
    assert isinstance(found, _Parallel)
    assert not found.broadcast_buffers
