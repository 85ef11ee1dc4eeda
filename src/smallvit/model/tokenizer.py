"""Other ways from an image to patch tokens than one linear map of each patch.

Shapes: B batch, S image size, P patch size, G = S / P patches a side, N = G * G patches, D embed_dim.
"""

import itertools
from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from smallvit.model.native_conv import native_conv, takes

ConvolutionImplementation = Literal["torch", "native"]


class ConvTokenizer(nn.Module):
    """log2(P) convolutions of 3 x 3 and stride 2, with a norm and GELU between them; the channels double up to D.

    After Xiao et al. (2021, "Early convolutions") and Hassani et al. (2021, CCT), but with each pixel's layer norm as
    ConvNeXt has it, so that a token depends on no other image of the batch. It sees its patch and P - 1 pixels before.
    With a `depth` of more than 1 as many convolutions less one follow each of these, see `ResidualConv`.
    """

    def __init__(
        self, patch_size: int, embed_dim: int, depth: int = 1, implementation: ConvolutionImplementation = "torch"
    ) -> None:
        super().__init__()
        count = patch_size.bit_length() - 1
        widths = [3, *(embed_dim >> (count - 1 - i) for i in range(count))]
        layers: list[nn.Module] = []
        for i in range(count):
            if i > 0:
                layers += [_ChannelNorm(widths[i]), nn.GELU()]
            layers.append(nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1))
            layers += [ResidualConv(widths[i + 1], implementation) for _ in range(depth - 1)]
        # As the norm and the tokens want it: on a CPU a quarter to a third quicker, forward and backward.
        self.layers = nn.Sequential(*layers)
        self.layers.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # not in torch's overloads

    @property
    def first_convolution(self) -> nn.Conv2d:
        """The layer that sees the pixels."""
        return cast("nn.Conv2d", self.layers[0])

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B N D"]:
        """Return the patch tokens, row by row."""
        return self.layers(images).flatten(2).transpose(1, 2)


class _ChannelNorm(nn.LayerNorm):
    """A layer norm of each pixel's channels, with torch's epsilon of 1e-5 (the blocks' norms have 1e-6)."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:  # noqa: A002  # torch's name
        """Return the normed image."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MatrixConv(nn.Linear):
    """A 3 x 3 convolution, zeros around it, whose weights are one matrix: 9 values of each of the channels that go in,
    for each that comes out, as Muon wants them and linear layers are drawn.

    By the kernel for CPUs (`model.native_conv`) where `implementation` is "native" and the kernel is for its channels.
    One that is `halved` gives of every 2 x 2 pixels the maximum: h = H / 2, w = W / 2, both whole; else h, w = H, W.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        implementation: ConvolutionImplementation = "torch",
        *,
        halved: bool = False,
    ) -> None:
        super().__init__(9 * in_channels, out_channels)
        self.in_channels = in_channels
        self.halved = halved
        self.implementation = implementation if takes(in_channels, out_channels) else "torch"

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E h w"]:  # noqa: A002  # torch's name
        """Return the convolved image."""
        if self.implementation == "native":
            return native_conv(input, self.weight, self.bias, self.halved)
        weight = self.weight.view(self.out_features, 3, 3, self.in_channels).permute(0, 3, 1, 2)
        convolved = F.conv2d(input, weight, self.bias, padding=1)
        return F.max_pool2d(convolved, 2) if self.halved else convolved


def conv_calls(layer: MatrixConv, images: Float[Tensor, "B C H W"]) -> dict[str, Callable[[], object]]:
    """Return for each implementation a call that takes it forward and backward once, with a layer's weights."""

    def call(name: ConvolutionImplementation) -> Callable[[], object]:
        own = MatrixConv(layer.in_channels, layer.out_features, name)
        own.load_state_dict(layer.state_dict())
        pixels = images.to(memory_format=torch.channels_last).requires_grad_()
        return lambda: torch.autograd.grad(own(pixels).sum(), [pixels, *own.parameters()])

    return {name: call(name) for name in get_args(ConvolutionImplementation)}


class ResidualConv(nn.Module):
    """Norm, GELU and a 3 x 3 convolution, added to what comes in."""

    def __init__(self, channels: int, implementation: ConvolutionImplementation = "torch") -> None:
        super().__init__()
        self.norm = _ChannelNorm(channels)
        self.conv = MatrixConv(channels, channels, implementation)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the image, changed."""
        return x + self.conv(F.gelu(self.norm(x)))


class ConvPoolTokenizer(nn.Module):
    """A 2 x 2 convolution, then log2(P) halvings by the maximum of 2 x 2 pixels, each between two 3 x 3 convolutions;
    the first two have D / 4 channels, all others D (with one halving, D).

    Few and wide, as the networks with which CIFAR-10 is trained fastest (Jordan, 2024, "94 % on CIFAR-10 in 3.29
    seconds"), but with each pixel's layer norm where those have batch norm. The first convolution has as many filters
    as it sees values, so that it can whiten them, and both signs of what it gives go on, for GELU cuts one (CReLU,
    Shang et al., 2016).
    """

    def __init__(self, patch_size: int, embed_dim: int, implementation: ConvolutionImplementation = "torch") -> None:
        super().__init__()
        halvings = patch_size.bit_length() - 1
        widths = [embed_dim // 4, *[embed_dim] * (halvings - 1)] if halvings > 1 else [embed_dim]
        self.first = nn.Conv2d(3, 12, 2)
        layers: list[nn.Module] = []
        for before, width in itertools.pairwise([2 * self.first.out_channels, *widths]):
            # Identity: without it the layers after it would have other names than in weights that were saved.
            layers += [MatrixConv(before, width, implementation, halved=True), nn.Identity()]
            layers += [_ChannelNorm(width), nn.GELU()]
            layers += [MatrixConv(width, width, implementation), _ChannelNorm(width), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # not in torch's overloads

    @property
    def first_convolution(self) -> nn.Conv2d:
        """The layer that sees the pixels."""
        return self.first

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B N D"]:
        """Return the patch tokens, row by row."""
        whitened = self.first(F.pad(images, (0, 1, 0, 1)))
        x = F.gelu(torch.cat([whitened, -whitened], dim=1))
        return self.layers(x).flatten(2).transpose(1, 2)


class ShiftedPatchEmbed(nn.Module):
    """Shifted patch tokenization (Lee et al., 2021): each patch sees half a patch further, to all sides.

    The image and its four shifts by P // 2 pixels along the diagonals, 0 where nothing is (of normalised images that is
    the mean colour), are cut into patches; a norm and a linear map turn the five patches of each place into a token.
    """

    first_convolution = None  # its linear map sees normed values

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        values = 5 * 3 * patch_size**2
        self.norm = nn.LayerNorm(values)
        self.proj = nn.Linear(values, embed_dim)

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B N D"]:
        """Return the patch tokens, row by row."""
        patches = F.unfold(self._with_shifts(images), self.patch_size, stride=self.patch_size)
        return self.proj(self.norm(patches.transpose(1, 2)))

    def _with_shifts(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 15 S S"]:
        shift, size = self.patch_size // 2, images.shape[-1]
        padded = F.pad(images, (shift, shift, shift, shift))
        ends = (slice(0, size), slice(2 * shift, 2 * shift + size))
        return torch.cat([images, *(padded[:, :, rows, columns] for rows in ends for columns in ends)], dim=1)
