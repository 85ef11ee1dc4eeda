"""First weights: the paper's truncated normals, and whitening of the first layer.

Shapes: E values of a patch that the layer sees, R patches, C filters of the layer.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

STD = 0.02
_DRAWN = ("cls_token", "reg_token", "pos_embed")
WHITENING_EPS = 1e-3
"""Added to the variances, of order 1, so that directions in which patches hardly vary are not blown up. Of CIFAR-10's
4 x 4 patches the smallest vary by some 1e-4: their filters' variance is 0.09 to 1, on average 0.79."""


@torch.no_grad()
def init_weights(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Set the parameters: linear weights, CLS tokens, registers and positions from a normal of standard deviation 0.02
    cut at +-2, biases 0, norms 1 and 0, and the patch embedding uniform in +-1/sqrt(E), all as the paper's code has
    them.

    Other convolutions are drawn as the patch embedding is, for their own number E of values that go into one. What has
    neither weights nor a draw (RMS norms, factors, temperatures) keeps the constants that it was made with.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=STD, generator=generator)
            if module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    for name, parameter in model.named_parameters(recurse=False):
        if name in _DRAWN:
            nn.init.trunc_normal_(parameter, std=STD, generator=generator)


def whitening(patches: Float[Tensor, "R E"]) -> tuple[Float[Tensor, "E E"], Float[Tensor, " E"]]:
    """Return filters whose outputs on these patches are uncorrelated with variance 1, largest variance first, and the
    mean patch.

    A direction of variance v comes out with v / (v + WHITENING_EPS) instead of 1.
    """
    mean = patches.mean(0)
    # In slices: all patches of a training set at once in float64 are some gigabytes.
    products = [part.T @ part for part in ((rows - mean).double() for rows in patches.split(2**16))]
    covariance = torch.stack(products).sum(0) / (len(patches) - 1)
    variance, direction = torch.linalg.eigh(covariance)
    filters = direction.T / (variance.clamp_min(0) + WHITENING_EPS).sqrt()[:, None]
    return filters.flip(0).to(patches.dtype), mean


@torch.no_grad()
def init_whitening(layer: nn.Conv2d, patches: Float[Tensor, "R E"], generator: torch.Generator | None = None) -> None:
    """Make every filter of the first layer whiten: unit variance, and uncorrelated within each group of E filters,
    as far as the patches vary by more than WHITENING_EPS in every direction.

    The first E filters are the principal directions; every further group of E is a random rotation of them. The biases
    centre the outputs.
    """
    filters, mean = whitening(patches)
    size, width = filters.shape[0], layer.out_channels
    groups = [filters]
    while len(groups) * size < width:
        noise = torch.empty(size, size).normal_(generator=generator)
        groups.append(torch.linalg.qr(noise).Q.to(filters) @ filters)
    _set_filters(layer, torch.cat(groups)[:width], mean)


@torch.no_grad()
def init_whitening_paper(layer: nn.Conv2d, patches: Float[Tensor, "R E"]) -> None:
    """Set only the first E filters to principal directions that whiten, and leave the rest random (the paper's code,
    which hands over augmented patches).
    """
    filters, mean = whitening(patches)
    _set_filters(layer, filters[: layer.out_channels], mean)


def _set_filters(layer: nn.Conv2d, filters: Float[Tensor, "C E"], mean: Float[Tensor, " E"]) -> None:
    bias = layer.get_parameter("bias")
    count = len(filters)
    layer.weight[:count] = filters.view(count, *layer.weight.shape[1:])
    bias[:count] = -filters @ mean
