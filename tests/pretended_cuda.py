"""A CUDA device that is not there: its tensors are in the CPU's memory, but mix with the CPU's no more than CUDA's do.

It shows what a CPU alone cannot: tensors that were made or left on the wrong device, and what a CUDA graph would not
hold: a value that is read or sent while it is recorded, or one that changes by step and is no tensor. It computes by
the CPU's kernels, so its results are the CPU's. It shows nothing of kernels, compilers, streams, memory or time.

    python tests/pretended_cuda.py train quickstart --device.attention bmm    # as smallvit, where there is a GPU
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
COPIES = (aten.copy_.default, aten._to_copy.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""What takes indices of the CPU as well."""
READS = (aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default)
"""What waits for the card to tell a value, or how many there are."""


class OnCard(Tensor):
    """A tensor of the card, to Python; torch's C++ takes it for one of the CPU, without values of its own."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCard":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return Tensor._make_wrapper_subclass(cls, held.size(), **layout, device=CPU)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise AssertionError(f"{func}: the card is another thread's")

    def __repr__(self, **_: Any) -> str:
        return f"OnCard({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy: Tensor = OnCard(self.held.clone())
        memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copy
        return memo[id(self)]

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def cpu(self) -> Tensor:
        return self.to(CPU)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy


class Card(TorchDispatchMode):
    """Runs every operation where its tensors are, and keeps those of the graph that is being recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.recording: list[Callable[[], None]] | None = None
        self.written: dict[int, tuple[Any, Any]] = {}
        """By address, what a recording has written to, and what was there before."""
        self.on_card = True
        """Whether what torch makes of itself, inside a call, belongs on the card; in a backward pass it does."""
        self.to_cpu = False
        """Whether the call names the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        there = [isinstance(each, OnCard) for each in tensors]
        asked = kwargs.get("device")
        if asked is not None and asked.type == "cuda":
            kwargs["device"], result_there = CPU, True
        else:
            result_there = (any(there) or (not tensors and self.on_card)) and not self.to_cpu
        kwargs.pop("pin_memory", None)
        refuse_mixed(func, args, tensors, there)
        held_args, held_kwargs = tree_map_only(OnCard, lambda each: each.held, (args, kwargs))
        if self.recording is not None:
            refuse_unrecordable(func, args, {*there, result_there})
            self._keep_written(func, args)
        found = func(*held_args, **held_kwargs)
        given = {id(each.held if isinstance(each, OnCard) else each): each for each in tensors}
        if self.recording is not None and result_there:
            self.recording.append(lambda: repeat(func, held_args, held_kwargs, found, {*given}))

        def placed(tensor: Tensor) -> Tensor:
            return given[id(tensor)] if id(tensor) in given else OnCard(tensor) if result_there else tensor

        return tree_map_only(Tensor, placed, found)

    @contextmanager
    def record(self, graph: "Graph", **_: Any) -> Iterator[None]:
        """As torch.cuda.graph: what is done within is kept, and not done."""
        assert self.recording is None, "another graph is being recorded"
        self.recording = graph.operations
        try:
            yield
        finally:
            self.recording = None
            for storage, before in self.written.values():
                storage.copy_(before)
            self.written.clear()

    def _keep_written(self, func: Any, args: Any) -> None:
        for argument, given in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for each in tree_leaves(given):
                    storage = each.held.untyped_storage()
                    self.written.setdefault(storage.data_ptr(), (storage, storage.clone()))


class Calls(TorchFunctionMode):
    """Tells the card of each call from Python whether it is about tensors of the card, and whether it names the CPU."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = self.card.on_card, self.card.to_cpu
        self.card.on_card = any(isinstance(each, OnCard) for each in tree_leaves((args, kwargs)))
        self.card.to_cpu = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
        try:
            return func(*args, **kwargs)
        finally:
            self.card.on_card, self.card.to_cpu = before


class Graph:
    """As torch.cuda.CUDAGraph: the operations of a recording, done again by each `replay`."""

    def __init__(self) -> None:
        self.operations: list[Callable[[], None]] = []

    def replay(self) -> None:
        for operation in self.operations:
            operation()


class Event:
    """As torch.cuda.Event, of a card that has always done its work."""

    def record(self) -> None: ...
    def synchronize(self) -> None: ...


class Autocast(torch.autocast):
    """As torch.autocast; for the card it is the CPU's."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def refuse_mixed(func: Any, args: Any, tensors: list[Tensor], there: list[bool]) -> None:
    """Raise, as CUDA does, where tensors of both devices meet in anything but a copy, an index, or a single value."""
    if not any(there) or all(there) or func in COPIES:
        return
    if func in INDEXED:
        tensors = [args[0], *args[2:3]]
    if not all(isinstance(each, OnCard) or each.dim() == 0 for each in tensors):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cpu and cuda:0")


def refuse_unrecordable(func: Any, args: Any, devices: set[bool]) -> None:
    """Raise, as CUDA does, where the CPU would wait for the card, or send it something."""
    masked = func in INDEXED and any(each is not None and each.dtype == torch.bool for each in args[1])
    if True in devices and (func in READS or masked or False in devices):
        raise RuntimeError(f"{func}: operation not permitted when stream is capturing")


def repeat(func: Any, args: Any, kwargs: Any, results: Any, given: set[int]) -> None:
    """Do an operation again, with what its arguments hold now, and put what it makes where its results lie."""
    for old, new in zip(tree_leaves(results), tree_leaves(func(*args, **kwargs)), strict=True):
        if isinstance(old, Tensor) and id(old) not in given and old.data_ptr() != new.data_ptr():
            old.copy_(new)


def pretend() -> None:
    """Put a card into this process, for good; before smallvit is imported, which takes parts of torch by name."""
    card = Card()
    answers = {"is_available": True, "is_initialized": True, "device_count": 1, "get_device_name": "pretended"}
    answers |= {"mem_get_info": (2**34, 2**34), "memory_reserved": 0, "memory_allocated": 0, "max_memory_allocated": 0}
    nothing = ("_lazy_init", "synchronize", "manual_seed", "get_rng_state", "set_rng_state", "reset_peak_memory_stats")
    for name, answer in {**answers, **dict.fromkeys(nothing)}.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    torch.cuda.Event, torch.cuda.CUDAGraph, torch.cuda.graph = Event, Graph, card.record
    torch.autocast = Autocast
    torch.inference_mode = torch.no_grad  # a wrapper of what was made in it can have no views
    torch.compile, torch.nn.Module.compile = lambda function, **_: function, lambda self, **_: None
    torch.__future__.set_swap_module_params_on_conversion(True)  # what is moved is the same parameter then, as for CUDA
    made, grouped = torch.tensor, torch._C._group_tensors_by_device_and_dtype

    def to(self: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype = device or self.device, dtype or self.dtype
        if device.type == self.device.type and dtype == self.dtype and not copy:
            return self
        return aten._to_copy(self, dtype=dtype, device=CARD if device.type == "cuda" else device)

    def by_device(lists: Any, with_indices: bool = False) -> Any:
        groups = grouped(lists, with_indices).items()
        return {(found[0][0][0].device, dtype): found for (_, dtype), found in groups}

    # These ask for CUDA in C++.
    Tensor.to, Tensor.cuda = to, lambda self, *_, **__: self.to(CARD)
    torch.tensor = lambda data, *, device=CPU, **options: made(data, **options).to(device)
    torch._C._group_tensors_by_device_and_dtype = by_device
    card.__enter__()
    Calls(card).__enter__()


if __name__ == "__main__":
    pretend()
    from smallvit.cli import main

    sys.exit(main())
