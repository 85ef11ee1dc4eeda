"""The blocks' MLP, plain or with a depthwise convolution over the patches.

Shapes: B batch, N tokens, D in_features, F hidden_features, E out_features.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        """Return the layers' output."""
        return self.fc2(self.act(self.fc1(x)))


class DepthwiseMlp(Mlp):
    """An MLP whose hidden patch tokens have their 3 x 3 neighbourhood's convolution added, channel by channel.

    So each patch sees its neighbours, as in LocalViT (Li et al., 2021), CeiT (Yuan et al., 2021) and CMT (Guo et al.,
    2022). The tokens before the patches pass by.
    """

    def __init__(
        self, in_features: int, hidden_features: int, out_features: int, *, num_prefix_tokens: int, grid_size: int
    ) -> None:
        super().__init__(in_features, hidden_features, out_features)
        self.num_prefix_tokens = num_prefix_tokens
        self.grid_size = grid_size
        self.conv = nn.Conv2d(hidden_features, hidden_features, 3, padding=1, groups=hidden_features)
        # As tokens lie: to turn them around took half as long again, and DistributedDataParallel warns of gradients
        # that lie otherwise than their weights.
        self.conv.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # not in torch's overloads

        # What a patch passes on itself, as weights: two passes over the hidden layer less, forward and backward.
        itself = torch.zeros(1, 1, 3, 3)
        itself[..., 1, 1] = 1.0
        self.register_buffer("itself", itself, persistent=False)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N E"]:
        """Return the layers' output for all tokens, the patches last and row by row."""
        hidden = self.fc1(x)
        if self.num_prefix_tokens == 0:
            hidden = self._with_neighbours(hidden)
        else:
            prefix, patches = hidden.tensor_split([self.num_prefix_tokens], dim=1)
            hidden = torch.cat([prefix, self._with_neighbours(patches)], dim=1)
        return self.fc2(self.act(hidden))

    def _with_neighbours(self, patches: Float[Tensor, "B N F"]) -> Float[Tensor, "B N F"]:
        image = patches.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))
        weight = self.conv.weight + self.get_buffer("itself")
        image = F.conv2d(image, weight, self.conv.bias, padding=1, groups=self.conv.groups)
        return image.flatten(2).transpose(1, 2)
