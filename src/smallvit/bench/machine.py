"""The machine's own rates: matrix products in each precision, and a copy."""

from collections.abc import Callable, Mapping

import torch

from smallvit.bench.clock import Timing
from smallvit.bench.record import Machine
from smallvit.device.choose import DTYPES, timed

GEMM_SIDE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "mps": 2**29, "cuda": 2**30}
MOST_SECONDS = 2.0
"""Of a product: a processor without arithmetic for bfloat16 would take half a minute for the whole one."""
PROBE_SIDE, PROBES = 256, 5


class MachineRates:
    """What is called to find a device's rates; a product that would take too long is of a smaller side."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._sides = {name: self._side(dtype) for name, dtype in DTYPES.items()}

    def calls(self) -> dict[str, Callable[[], object]]:
        """Return the calls, to be timed: a product in each precision, by its name, and "copy"."""
        source = torch.rand(COPY_BYTES[self._device] // 4, device=self._device)
        target = torch.empty_like(source)
        products = {name: self._product(self._sides[name], dtype) for name, dtype in DTYPES.items()}
        return {**products, "copy": lambda: target.copy_(source)}

    def machine(self, timings: Mapping[str, Timing]) -> Machine:
        """Return the rates, from the times of `calls`."""
        cubes = {name: " x ".join([str(side)] * 3) for name, side in self._sides.items()}
        fast, slow = cubes["float32"], cubes["bfloat16"]
        return Machine(
            gemm=fast if slow == fast else f"{fast}, in bfloat16 of {slow}",
            peak_flop_per_second={name: 2 * side**3 / timings[name].seconds for name, side in self._sides.items()},
            copy_bytes_per_second=2 * COPY_BYTES[self._device] / timings["copy"].seconds,
        )

    def _side(self, dtype: torch.dtype) -> int:
        side = GEMM_SIDE[self._device]
        if side > PROBE_SIDE:
            probe = self._product(PROBE_SIDE, dtype)
            seconds = min(timed(probe, self._device) for _ in range(PROBES))
            while side > PROBE_SIDE and seconds * (side / PROBE_SIDE) ** 3 > MOST_SECONDS:
                side //= 2
        return side

    def _product(self, side: int, dtype: torch.dtype) -> Callable[[], object]:
        left = torch.randn(side, side, device=self._device, dtype=dtype)
        right = torch.randn(side, side, device=self._device, dtype=dtype)
        return lambda: left @ right
