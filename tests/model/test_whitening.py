"""Whitening initialisation, on real patches (scikit-learn's digits) and on correlated coloured ones."""

from typing import Literal

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from smallvit.model.config import ModelConfig
from smallvit.model.embed import PatchEmbed, image_patches
from smallvit.model.init import WHITENING_EPS, init_whitening, init_whitening_paper
from smallvit.model.vit import VisionTransformer

P, E = 4, 48


@pytest.fixture(scope="module")
def coloured() -> Tensor:
    """300 smooth coloured images with a little noise: as in photographs, patches vary most in their mean and tilt."""
    generator = torch.Generator().manual_seed(0)
    fields = avg_pool2d(torch.randn(300, 3, 40, 40, generator=generator), 9, stride=1) * 9
    mixing = torch.tensor([[1.0, 0.7, 0.6], [0.1, 0.5, 0.2], [0.3, 0.1, 0.4]])
    images = torch.einsum("oc,bchw->bohw", mixing, fields) + torch.tensor([0.4, -0.2, 0.1])[:, None, None]
    return images + 0.3 * torch.randn(images.shape, generator=generator)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """Real digits enlarged to 32 x 32 and made grey RGB: a patch varies in 9 directions of 48 at most."""
    images = torch.from_numpy(load_digits().images).float()[:300, None] / 16
    images = interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    return (images - images.mean()) / images.std()


def outputs(embed: PatchEmbed, images: Tensor) -> np.ndarray:
    """What every filter gives on every patch of the images, in float64."""
    return embed.double()(images.double()).flatten(0, 1).detach().numpy()


def whitened(images: Tensor, width: int, seed: int = 0) -> PatchEmbed:
    embed = PatchEmbed(P, width)
    init_whitening(embed.proj, image_patches(images, embed.proj), torch.Generator().manual_seed(seed))
    return embed


@pytest.mark.parametrize("width", [16, 48, 72, 192])
def test_filters_whiten_the_patches_they_come_from(coloured: Tensor, width: int) -> None:
    found = outputs(whitened(coloured, width), coloured)
    assert np.abs(found.mean(0)).max() < 1e-4
    # The noise gives every direction a variance v of 0.09 at least, and v / (v + 0.001) is 0.989.
    np.testing.assert_allclose(found.var(0, ddof=1), 1, atol=0.0115)
    for start in range(0, width, E):
        group = found[:, start : start + E]
        np.testing.assert_allclose(np.cov(group.T), np.eye(group.shape[1]), atol=0.0115)


def test_groups_are_different_rotations_of_the_first(coloured: Tensor) -> None:
    groups = np.split(whitened(coloured, 192).proj.weight.detach().flatten(1).double().numpy(), 4)
    for other in groups[1:]:
        rotation = np.linalg.solve(groups[0].T, other.T).T
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(E), atol=1e-4)
    cosines = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for i, a in enumerate(groups) for b in groups[:i]]
    assert np.abs(cosines).max() < 0.2


def test_the_first_group_is_scikit_learns_whitening_pca(coloured: Tensor) -> None:
    patches = image_patches(coloured, PatchEmbed(P, 1).proj).double().numpy()
    oracle = PCA(whiten=True, svd_solver="full").fit(patches)
    damping = np.sqrt(oracle.explained_variance_ / (oracle.explained_variance_ + WHITENING_EPS))
    wanted, found = oracle.transform(patches) * damping, outputs(whitened(coloured, E), coloured)
    signs = np.sign((wanted * found).sum(0))
    np.testing.assert_allclose(found * signs, wanted, atol=2e-3)


@pytest.mark.parametrize("width", [16, 48, 192])
def test_real_digits_are_whitened_where_they_vary_and_not_blown_up_elsewhere(digits: Tensor, width: int) -> None:
    patches = image_patches(digits, PatchEmbed(P, 1).proj).double().numpy()
    variances = np.linalg.eigvalsh(np.cov(patches.T))[::-1].clip(0)
    assert variances[8] > WHITENING_EPS > 1e-6 > variances[9], "the data set is as its fixture says"
    embed = whitened(digits, width)
    found = outputs(embed, digits)
    assert np.abs(found.mean(0)).max() < 2e-4
    first = found[:, :E]
    expected = np.diag(variances / (variances + WHITENING_EPS))[: first.shape[1], : first.shape[1]]
    np.testing.assert_allclose(np.cov(first.T), expected, atol=1e-3)
    for start in range(E, width, E):
        # A rotation keeps the eigenvalues.
        spectrum = np.linalg.eigvalsh(np.cov(found[:, start : start + E].T))[::-1]
        np.testing.assert_allclose(spectrum, np.diag(expected), atol=1e-3)
    assert embed.proj.weight.flatten(1).norm(dim=1).max() <= WHITENING_EPS**-0.5 * 1.0001


@pytest.mark.parametrize("width", [16, 48, 192])
def test_the_papers_variant_sets_the_first_filters_and_leaves_the_rest(coloured: Tensor, width: int) -> None:
    embed = PatchEmbed(P, width)
    weight, bias = embed.proj.weight.detach().clone(), embed.proj.get_parameter("bias").detach().clone()
    init_whitening_paper(embed.proj, image_patches(coloured, embed.proj))
    full = whitened(coloured, width)
    assert torch.equal(embed.proj.weight[:E], full.proj.weight[:E])
    assert torch.equal(embed.proj.get_parameter("bias")[:E], full.proj.get_parameter("bias")[:E])
    assert torch.equal(embed.proj.weight[E:], weight[E:])
    assert torch.equal(embed.proj.get_parameter("bias")[E:], bias[E:])
    assert not torch.equal(embed.proj.weight[:E], weight[:E])


@pytest.mark.parametrize(("tokenizer", "patch_size", "width"), [("conv", 2, 20), ("conv", 4, 128), ("conv-pool", 4, 8)])
def test_a_convolutional_tokenizers_first_layer_whitens_what_it_sees(
    coloured: Tensor, tokenizer: Literal["conv", "conv-pool"], patch_size: int, width: int
) -> None:
    model = VisionTransformer(
        ModelConfig(tokenizer=tokenizer, patch_size=patch_size, embed_dim=width, num_heads=1, num_classes=10, depth=1)
    )
    layer = model.patch_embed.first_convolution
    assert layer is not None
    init_whitening(layer, image_patches(coloured, layer), torch.Generator().manual_seed(0))
    found = layer.double()(coloured.double()).permute(0, 2, 3, 1).flatten(0, 2).detach().numpy()
    assert np.abs(found.mean(0)).max() < 1e-4
    for start in range(0, found.shape[1], 27):
        group = found[:, start : start + 27]
        # Borders of 0 are a part of what it sees, and vary less.
        np.testing.assert_allclose(np.cov(group.T), np.eye(group.shape[1]), atol=0.013)


def test_the_generator_alone_decides_the_rotations(coloured: Tensor) -> None:
    torch.manual_seed(1)
    one = whitened(coloured, 192, seed=4).proj.weight
    torch.manual_seed(2)
    assert torch.equal(whitened(coloured, 192, seed=4).proj.weight, one)
    other = whitened(coloured, 192, seed=5).proj.weight
    assert torch.equal(other[:E], one[:E])
    assert not torch.isclose(other[E:], one[E:]).all(dim=(1, 2, 3)).any()


def test_more_patches_than_one_slice_and_float64_patches_give_the_same_filters() -> None:
    generator = torch.Generator().manual_seed(0)
    # Variances far apart, so that each direction is determined.
    patches = torch.randn(150_000, 12, generator=generator) * torch.arange(1.0, 13.0).sqrt()
    found = []
    for rows in (patches, patches.double()):
        embed = PatchEmbed(2, 24).to(rows.dtype)
        init_whitening(embed.proj, rows, torch.Generator().manual_seed(0))
        found.append(embed.proj.weight.detach().double().flatten(1))
    torch.testing.assert_close(found[0][:12].abs(), found[1][:12].abs(), rtol=0, atol=1e-4)
    for weight in found:
        values = np.cov((patches.double() @ weight.T).numpy().T)
        np.testing.assert_allclose(values[:12, :12], np.eye(12), atol=1e-3)
        np.testing.assert_allclose(values[12:, 12:], np.eye(12), atol=1e-3)
