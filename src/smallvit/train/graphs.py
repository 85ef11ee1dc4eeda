"""CUDA graphs: what a step launches, hundreds of kernels of some microseconds, recorded once and launched as one."""

from collections.abc import Callable

import torch
from torch import Tensor

PLAIN_CALLS = 2
"""Calls before the one that is recorded: they compile, choose kernels, and make what an optimiser keeps."""


class Recorded:
    """A function of tensors on a GPU, of the same shapes at every call, that is recorded at its third call.

    From then on a call copies its arguments to where the recorded ones lie, and launches the graph; what it returns
    lies where it lay the call before. A graph reads and writes the same memory at every launch: whatever else the
    function works with must stay in place, and its Python runs no more.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._held: list[Tensor | None] = []
        self._results: tuple[Tensor, ...] = ()

    def __call__(self, *arguments: Tensor | None) -> tuple[Tensor, ...]:
        """Return the function's results."""
        self._calls += 1
        if self._calls <= PLAIN_CALLS:
            return self._function(*arguments)
        if self._graph is None:
            self._graph = self._record(arguments)
        else:
            for held, given in zip(self._held, arguments, strict=True):
                if held is not None and given is not None:
                    held.copy_(given)
        self._graph.replay()
        return self._results

    def _record(self, arguments: tuple[Tensor | None, ...]) -> torch.cuda.CUDAGraph:
        self._held = [None if given is None else given.clone() for given in arguments]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._results = self._function(*self._held)
        return graph
