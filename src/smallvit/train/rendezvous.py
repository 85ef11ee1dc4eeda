"""How the ranks of a run meet and part: by the environment that torchrun gives them, through its store."""

import itertools
import os
import re
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from smallvit.errors import UsageError
from smallvit.train.distributed import ALONE, RankLostError, World

START_SECONDS = 120.0
"""Ranks may start that far apart."""
PREPARE_SECONDS = 600.0
"""And be that far apart at a barrier: after reading the data, compiling, writing."""
MOST_PORT = 65535
_SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def join(*, timeout_seconds: float, start_seconds: float = START_SECONDS) -> Generator[World]:
    """Join the ranks that torchrun started, and leave them at the end; without torchrun, the world of one.

    A rank waits `timeout_seconds` for the others' messages, and `start_seconds` for them to start. With GPUs, each rank
    takes the one of its local rank. Raises `UsageError` for a half-set environment, `RankLostError` if not all come.
    """
    world = _from_environment(timeout_seconds)
    if world.size == 1:
        yield world
        return
    if torch.cuda.device_count() > world.local_rank:
        torch.cuda.set_device(world.local_rank)
    try:
        wait = timedelta(seconds=start_seconds)
        store = PrefixStore(_part(), next(rendezvous("env://", timeout=wait))[0])
        dist.init_process_group("gloo", store=store, rank=world.rank, world_size=world.size, timeout=wait)
        control, patient = (
            dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
            for seconds in (timeout_seconds, max(timeout_seconds, PREPARE_SECONDS))
        )
    except RuntimeError as error:
        where = f"at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} within {start_seconds:g} s"
        reason = textwrap.shorten(str(error).splitlines()[0], 200, placeholder=" ...")
        raise RankLostError(f"rank {world.rank} of {world.size} did not meet the others {where}: {reason}") from None
    assert isinstance(control, dist.ProcessGroup)
    assert isinstance(patient, dist.ProcessGroup)
    lost = False
    try:
        yield World(world.rank, world.size, world.local_rank, timeout_seconds, control, patient)
    except RankLostError:
        lost = True  # the process ends at once; to take leave of that rank, nccl would wait for it
        raise
    finally:
        if not lost:
            dist.destroy_process_group()


_joined = itertools.count()
"""How often this process has joined others, and so each of them."""


def are_begun_again() -> bool:
    """Return whether torchrun starts ranks again that end before the run does (--max-restarts)."""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") not in ("", "0")


def _part() -> str:
    """Return a name for this meeting: torchrun keeps its store when it starts ranks again (--max-restarts), and for
    their next run, and what was left there would be taken for the addresses of the living.
    """
    return f"smallvit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_joined)}"


def _from_environment(timeout_seconds: float) -> World:
    values = {name: os.environ.get(name) for name in _SET_BY_TORCHRUN}
    if not any(values[name] for name in _SET_BY_TORCHRUN[:3]):
        return ALONE
    advice = "start several processes with torchrun, or unset " + ", ".join(_SET_BY_TORCHRUN[:3])
    for name, value in values.items():
        if not value:
            given = next(each for each in values if values[each])
            raise UsageError(f"the environment has {given} but no {name}: {advice}")
        if name != "MASTER_ADDR" and not re.fullmatch(r"\d{1,9}", value, re.ASCII):
            raise UsageError(f"the environment's {name} is {value!r}, expected a whole number: {advice}")
    rank, size, local_rank = (int(values[name] or 0) for name in _SET_BY_TORCHRUN[:3])
    for name, value in (("RANK", rank), ("LOCAL_RANK", local_rank)):
        if value >= size:
            raise UsageError(f"the environment's {name} is {value}, expected less than WORLD_SIZE, {size}: {advice}")
    if int(values["MASTER_PORT"] or 0) > MOST_PORT:
        port = values["MASTER_PORT"]
        raise UsageError(f"the environment's MASTER_PORT is {port}, expected at most {MOST_PORT}: {advice}")
    return World(rank, size, local_rank, timeout_seconds)
