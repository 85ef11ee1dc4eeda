"""What several of the model's tests need."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smallvit.model.config import ModelConfig
from smallvit.model.vit import VisionTransformer

BuildModel = Callable[..., VisionTransformer]


@pytest.fixture
def rough_model() -> BuildModel:
    """Return `build(config, ...)`: a model in float64 with large weights everywhere.

    Freshly initialised weights are so small that attention is all but uniform, and a wrong scale or a swapped head
    would hardly show. In float64 two right computations agree to some 1e-13, so no tolerance hides a wrong one.
    """

    def build(config: ModelConfig, **options: str) -> VisionTransformer:
        model = VisionTransformer(config, **options).double().eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                is_gain = name.endswith("temperature") or ("norm" in name and name.endswith("weight"))
                parameter.copy_(1 + 0.2 * noise if is_gain else 0.25 * noise)
        return model

    return build


@pytest.fixture
def images() -> Tensor:
    """Four images of 16 x 16, float64."""
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
