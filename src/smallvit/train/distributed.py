"""Several processes that train one model, a device each: who is there, and what they say to each other.

The processes ("ranks") are started by torchrun and average their gradients with torch's DistributedDataParallel. All
else that they tell each other goes through a second, small group on the CPUs (gloo), so that it neither waits for a GPU
nor holds it up. A rank that dies or hangs is noticed by the others' next message, and becomes one line on each.
In a world of one, torch.distributed is never set up.

Shapes: n rows of one rank, N rows of all, C columns.
"""

import json
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

from smallvit.errors import SmallvitError
from smallvit.train.checkpoint_format import tensor_bytes


class RankLostError(SmallvitError):
    """Another rank died, did not answer in time, or is not to be reached."""

    ends_at_once = True  # gloo's threads still wait for that rank, and at the interpreter's end may abort the process


@dataclass(frozen=True)
class World:
    """All ranks of a run as one of them sees them; `ALONE` is the world of one.

    Every method but `share` and `most`, which only compute, and `wait_for` and `guarded`, which watch, must be called
    by all ranks, in the same order, and raises `RankLostError` where one of them is gone.
    """

    rank: int = 0
    """This rank, counted from 0 over all machines."""
    size: int = 1
    """How many ranks there are."""
    local_rank: int = 0
    """This rank, counted from 0 on its machine; the GPU that it takes."""
    timeout_seconds: float = float("inf")
    """How long a rank waits for the others."""
    control: dist.ProcessGroup | None = None
    """Carries all messages but gradients."""
    patient: dist.ProcessGroup | None = None
    """Carries the barriers."""

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this rank's part of `count` things; the ranks' parts follow each other and differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def most(self, count: int) -> int:
        """Return the largest rank's part of `count` things."""
        return -(-count // self.size)

    def barrier(self) -> None:
        """Wait until every rank is here, for up to `PREPARE_SECONDS`, since the others may have more to do."""
        if self.size > 1:
            with self.guarded():
                dist.barrier(self.patient)

    def any(self, flag: bool) -> bool:
        """Return on every rank whether the flag is set on one of them; no GPU is waited for."""
        if self.size == 1:
            return flag
        found = torch.tensor([int(flag)])
        with self.guarded():
            dist.all_reduce(found, dist.ReduceOp.MAX, self.control)
        return bool(found)

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's value, of JSON types, on every rank; what the others pass does not matter."""
        return json.loads(self._broadcast_bytes(json.dumps(value).encode()))

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return rank 0's tensors on every rank, on the CPU where there are several; the others may pass none."""
        if self.size == 1:
            return dict(tensors)
        return safetensors.torch.load(self._broadcast_bytes(tensor_bytes(tensors) if self.is_main else b""))

    def mean(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return the mean over the ranks of a floating-point tensor of one shape; the same bits on every rank."""
        if self.size == 1:
            return tensor
        total = tensor.detach().cpu().clone()
        with self.guarded():
            dist.all_reduce(total, dist.ReduceOp.SUM, self.control)
        return (total / self.size).to(tensor.device)

    def wait_for(self, event: Any) -> None:
        """Wait until this rank's GPU has come so far as a `torch.cuda.Event` tells, which, where another rank is gone,
        it never will: the sum of the gradients waits for that rank, and nccl ends its own waiting by an abort.
        """
        if self.size == 1:
            event.synchronize()
            return
        deadline = time.monotonic() + self.timeout_seconds
        while not event.query():  # returns to Python, so that a signal is heard
            if time.monotonic() > deadline:
                what = f"got no gradients from the other ranks within {self.timeout_seconds:g} s"
                raise RankLostError(f"rank {self.rank} {what} (one of them died or hangs)")
            time.sleep(1e-4)

    def gather_rows(self, rows: Shaped[Tensor, "n *C"]) -> Shaped[Tensor, "N *C"]:
        """Return on every rank the rows of all, in the order of the ranks, on the CPU; n may differ, and may be 0."""
        if self.size == 1:
            return rows
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        with self.guarded():
            dist.all_reduce(counts, dist.ReduceOp.SUM, self.control)
        parts: list[Tensor] = []
        for rank, count in enumerate(counts.tolist()):
            own = rank == self.rank
            part = rows.detach().cpu().contiguous() if own else torch.empty(count, *rows.shape[1:], dtype=rows.dtype)
            if part.numel():
                self._broadcast(part, rank)
            parts.append(part)
        return torch.cat(parts)

    def parallel(self, loss: nn.Module, example: Callable[[], tuple[Any, ...]]) -> nn.Module:
        """Return the loss such that its gradients are the mean over the ranks; its weights become rank 0's.

        `example` returns arguments to try it with: compilation takes place here.
        """
        if self.size == 1:
            return loss
        arguments = example()
        self.barrier()  # patient, where a rank compiles longer than the others
        with self.guarded():
            group = self.control
            if next(loss.parameters()).is_cuda:
                # The group on the CPUs is to notice first that a rank is gone: nccl's own end of waiting is an abort.
                group = dist.new_group(backend="nccl", timeout=timedelta(seconds=2 * self.timeout_seconds))
            parallel = nn.parallel.DistributedDataParallel(loss, process_group=group)
            parallel.broadcast_buffers = False  # again at every step: rank 0's are here, and constant
            with parallel.no_sync():
                parallel(*arguments).backward()
            self.barrier()
            # After the first gradients that are summed, the buffers that hold them are ordered anew, and with them the
            # sums over more than two ranks. So a run and its continuation both begin with the final order.
            parallel(*arguments).backward()
            parallel.zero_grad()
        return parallel

    @contextmanager
    def guarded(self, doing: Callable[[], str] | None = None) -> Generator[None]:
        """Turn what torch raises when another rank is gone into one `RankLostError`, which says where: "in step 37"."""
        try:
            yield
        except RankLostError as error:
            raise RankLostError(f"{error}{_place(doing)}") from None
        except RuntimeError as error:
            reason = self._lost(error)
            if reason is None:
                raise
            raise RankLostError(f"rank {self.rank} {reason}{_place(doing)}") from None

    def _broadcast_bytes(self, own: bytes) -> bytes:
        """Return rank 0's bytes, one at least, on every rank."""
        if self.size == 1:
            return own
        length = torch.tensor([len(own)])
        self._broadcast(length)
        content = bytearray(own if self.is_main else int(length))
        self._broadcast(torch.frombuffer(content, dtype=torch.uint8))
        return bytes(content)

    def _broadcast(self, tensor: Tensor, source: int = 0) -> None:
        with self.guarded():
            dist.broadcast(tensor, source, self.control)

    def _lost(self, error: RuntimeError) -> str | None:
        """Say what happened, if another rank is the cause: torch has no type for most of these errors."""
        text = str(error)
        if not isinstance(error, dist.DistError) and not re.search(r"/gloo/|\bgloo::|\bNCCL\b", text):
            return None
        if re.search(r"time(d )?out", text, re.IGNORECASE):
            waited = re.search(r"waiting (\d+)ms", text)
            seconds = int(waited[1]) / 1000 if waited else self.timeout_seconds
            return f"got no answer from the other ranks within {seconds:g} s (one of them hangs)"
        last = re.search(r"Last error:\s*(\S.*)", text)  # nccl's own
        if last is not None and "ncclRemoteError" not in text:
            return f"cannot exchange gradients with the other ranks ({last[1]})"
        peer = re.search(r"\[([0-9a-fA-F.:]+)\]:\d+", text)
        where = f" at {peer[1]}" if peer else ""
        return f"lost the connection to another rank{where} (it died, or ended with an error of its own)"


ALONE = World()


def _place(doing: Callable[[], str] | None) -> str:
    return "" if doing is None else f", {doing()}"
