"""The two floors under a training step, arithmetic and bytes, and the memory that it needs and finds.

Legend: D embed_dim, F hidden width of the MLP, H heads, N tokens, L blocks.
"""

import torch

from smallvit.cores import free_memory
from smallvit.device.choose import DTYPES, Precision
from smallvit.model.config import ModelConfig

PASSES_OF_A_TENSOR = 5
PASSES_OF_A_WEIGHT = 10
MEMORY_SHARE = 0.5


def step_bytes(config: ModelConfig, *, num_parameters: int, batch_size: int, precision: Precision) -> int:
    """Return the bytes of a step through memory, with no two matrix products fused.

    They are those of the 8 D + F values a token and block that stand between two matrix products or are kept for
    the backward pass (two residuals, two normed inputs, q, k and v, the attended tokens, the MLP's hidden layer). Each
    is written once and read twice (by the next operation and by the backward pass), and its gradient is written and
    read once. Attention weights stay on the chip. A weight, in float32, is read by both passes, its gradient is written
    once, and AdamW reads four values and writes three.
    """
    tokens = config.num_tokens
    between = 8 * config.embed_dim + round(config.mlp_ratio * config.embed_dim)
    activations = batch_size * config.depth * tokens * between * DTYPES[precision].itemsize
    return PASSES_OF_A_TENSOR * activations + PASSES_OF_A_WEIGHT * 4 * num_parameters


def step_flop(num_macs: int, batch_size: int) -> int:
    """Return the floating-point operations of a step's matrix products: 3 x 2 x MACs an image."""
    return 3 * 2 * num_macs * batch_size


def utilisation(num_macs: int, images_per_second: float, peak: float) -> float:
    """Return model-FLOP utilisation: the share of `peak` (FLOP/s) that training at this speed takes."""
    return step_flop(num_macs, 1) * images_per_second / peak


def memory_needed(config: ModelConfig, batch_size: int, attention: str) -> int:
    """Return about the bytes that a step keeps in float32, in bfloat16 less: attention by plain products (`bmm`) keeps
    its N x N weights besides.
    """
    tokens = config.num_tokens
    hidden = config.mlp_ratio * config.embed_dim
    weights = 3 * config.num_heads * tokens if attention == "bmm" else 0
    kept = 12 * config.embed_dim + 2 * hidden + weights
    blocks = config.depth + config.num_class_attention_blocks
    return round(4 * batch_size * (blocks * tokens * kept + _tokenizer_values(config)))


def _tokenizer_values(config: ModelConfig) -> int:
    """Return about the values of an image that its way to tokens keeps: with its norm and GELU, three a value that a
    convolution gives (fewer where the CPU's kernel keeps of 2 x 2 pixels the largest alone).
    """
    width, pixels = config.embed_dim, config.image_size**2
    halvings = config.patch_size.bit_length() - 1
    if config.tokenizer == "conv":
        return 3 * config.tokenizer_depth * config.num_patches * sum((width >> i) * 4**i for i in range(halvings))
    if config.tokenizer == "conv-pool":
        first = width // 4 if halvings > 1 else width
        return pixels * (2 * 24 + 3 * first) + sum(3 * width * pixels // 4**i for i in range(1, halvings))
    return pixels * {"patch": 3, "shifted": 2 * 15}[config.tokenizer]


def memory_lacking(config: ModelConfig, batch_size: int, attention: str, device: str) -> str | None:
    """Return, where a step may need more than half of the free memory, how much it may need and how much there is."""
    needed, free = memory_needed(config, batch_size, attention), memory_available(device)
    if needed <= MEMORY_SHARE * free:
        return None
    return f"it may need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"


def memory_available(device: str) -> float:
    """Return the bytes that are free on the device, or that torch keeps there for tensors to come; infinity where that
    is not known.
    """
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    return free_memory()
