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

    return torch.Generator().manual_seed(_bits(seed, stream, 0))


def seed_torch(seed: int, stream: str, step: int = 0) -> None:
    """Seed torch's own generators, for layers that draw by them, as `nn.Dropout` does."""
    import torch

    bits = _bits(seed, stream, step)
    torch.default_generator.manual_seed(bits)  # torch.manual_seed formats the stack for a CUDA that is not yet there
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(bits)


def _bits(seed: int, stream: str, step: int) -> int:
    return int.from_bytes(_key(seed, stream, step)[:7], "little")
