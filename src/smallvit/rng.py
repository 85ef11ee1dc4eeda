"""All randomness is a function of (seed, stream, step); no generator state is ever saved.

A stream is the name of one use of randomness ("order", "augment", "init", ...). The triple is hashed into the
128-bit key of a Philox counter generator (Salmon et al., SC 2011), so distinct triples give independent sequences,
and a resumed run needs only the step number. NumPy's generator is used instead of torch's because torch's CPU
generator keeps 32 bits of its seed, which tens of thousands of steps would make collide.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _key(seed: int, stream: str, step: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=16).digest()


def generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
    """Return the NumPy generator of one (seed, stream, step); equal arguments give equal draws."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_key(seed, stream, step), "little")))


def torch_generator(seed: int, stream: str) -> "torch.Generator":
    """Return a CPU torch generator of one (seed, stream), for torch's own initialisers."""
    import torch

    bits = int.from_bytes(_key(seed, stream, 0)[:7], "little")
    return torch.Generator().manual_seed(bits)
