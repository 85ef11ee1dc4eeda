"""Tokenizers, convolution in the MLP, registers, pooling, norms, locality, layer scale: oracles and properties."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smallvit.model.block import Block, LayerScale
from smallvit.model.config import ModelConfig
from smallvit.model.mlp import DepthwiseMlp, Mlp
from smallvit.model.tokenizer import ConvPoolTokenizer, ConvTokenizer, ResidualConv, ShiftedPatchEmbed
from smallvit.model.vit import VisionTransformer

BuildModel = Callable[..., VisionTransformer]
SMALL = ModelConfig(image_size=16, patch_size=4, num_classes=7, embed_dim=24, depth=2, num_heads=3, drop_path_rate=0.0)


WORDS = [name for name, hint in get_type_hints(ModelConfig).items() if get_origin(hint) is Literal]


@pytest.mark.parametrize("field", [name for name in WORDS if name not in ("patch_init", "init")])  # of first weights
def test_each_word_makes_another_model(field: str, rough_model: BuildModel, images: Tensor) -> None:
    """One whose branch was forgotten would be another one's model."""
    words = get_args(get_type_hints(ModelConfig)[field])
    tokens = {"mean": 0}
    models = [rough_model(replace(SMALL, num_cls_tokens=tokens.get(word, 1), **{field: word})) for word in words]
    assert len({tuple(model(images).flatten().tolist()) for model in models}) == len(words)


@pytest.mark.parametrize("tokens", [0, 1])
def test_registers_are_timms(timm: ModuleType, rough_model: BuildModel, images: Tensor, tokens: int) -> None:
    config = replace(SMALL, num_cls_tokens=tokens, num_registers=3, layer_scale=0.3, qk_norm="rms")
    model = rough_model(config)
    twin = timm.models.vision_transformer.VisionTransformer(
        img_size=16,
        patch_size=4,
        num_classes=7,
        embed_dim=24,
        depth=2,
        num_heads=3,
        mlp_ratio=2.0,
        class_token=tokens > 0,
        reg_tokens=3,
        global_pool="token" if tokens else "avg",
        fc_norm=False,
        init_values=0.3,
        qk_norm=True,
    )
    for block in twin.blocks:  # timm has layer norms here; a norm of torch's instead
        block.attn.q_norm, block.attn.k_norm = nn.RMSNorm(8, eps=1e-6), nn.RMSNorm(8, eps=1e-6)
    twin = twin.double().eval()
    twin.load_state_dict({name.replace("query_key.", ""): value for name, value in model.state_dict().items()})
    torch.testing.assert_close(model(images), twin(images), rtol=0, atol=1e-11)


def test_the_head_reads_cls_tokens_mean_or_both_but_no_register(rough_model: BuildModel, images: Tensor) -> None:
    model = rough_model(replace(SMALL, num_cls_tokens=2, num_registers=3, pooling="cls+mean"))
    tokens = model.forward_features(images).detach()
    assert tokens.shape == (4, 2 + 3 + 16, 24)
    read = np.concatenate([tokens[:, 0], tokens[:, 1], tokens[:, 5:].numpy().mean(1)], axis=1)
    wanted = read @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    np.testing.assert_allclose(model.forward_head(tokens).detach().numpy(), wanted, rtol=0, atol=1e-12)
    changed = tokens.clone()
    changed[:, 2:5] += 1
    assert torch.equal(model.forward_head(changed), model.forward_head(tokens))
    mean = rough_model(replace(SMALL, num_cls_tokens=0, num_registers=3))
    torch.testing.assert_close(mean.forward_head(tokens[:, 2:]), mean.head(tokens[:, 5:].mean(1)), rtol=0, atol=1e-12)


def test_pooling_mean_without_cls_tokens_is_what_no_cls_tokens_always_were(
    rough_model: BuildModel, images: Tensor
) -> None:
    one = rough_model(replace(SMALL, num_cls_tokens=0))
    other = rough_model(replace(SMALL, num_cls_tokens=0, pooling="mean"))
    assert torch.equal(one(images), other(images))


@pytest.mark.parametrize(("patch_size", "strides"), [(2, 1), (4, 2), (8, 3)])
def test_the_conv_tokenizer_halves_the_image_for_each_power_of_two(
    images: Tensor, patch_size: int, strides: int
) -> None:
    tokenizer = ConvTokenizer(patch_size, 24).double()
    convolutions = [layer for layer in tokenizer.layers if isinstance(layer, nn.Conv2d)]
    assert [(c.stride, c.kernel_size, c.padding) for c in convolutions] == [((2, 2), (3, 3), (1, 1))] * strides
    assert [c.out_channels for c in convolutions] == [24 >> i for i in reversed(range(strides))]
    grid = 16 // patch_size
    tokens = tokenizer(images)
    assert tokens.shape == (4, grid * grid, 24)
    torch.testing.assert_close(tokens[2:3], tokenizer(images[2:3]), msg="an image's tokens are its own")
    shifted = tokenizer(images.roll(patch_size, dims=2)).unflatten(1, (grid, grid))
    torch.testing.assert_close(shifted[:, 2:], tokens.unflatten(1, (grid, grid))[:, 1:-1], msg="away from the border")


def test_a_residual_convolution_is_torchs(images: Tensor) -> None:
    torch.manual_seed(0)
    layer = ResidualConv(3).double()
    nn.init.normal_(layer.norm.weight)
    plain = nn.Conv2d(3, 3, 3, padding=1).double()
    with torch.no_grad():  # of 9 C inputs the channels come last
        plain.weight.copy_(layer.conv.weight.view(3, 3, 3, 3).permute(0, 3, 1, 2))
        plain.bias.copy_(layer.conv.bias)
    normed = nn.functional.layer_norm(images.permute(0, 2, 3, 1), (3,), layer.norm.weight, layer.norm.bias)
    expected = images + plain(nn.functional.gelu(normed.permute(0, 3, 1, 2)))
    torch.testing.assert_close(layer(images), expected)


def test_a_deeper_conv_tokenizer_has_as_many_convolutions_at_each_resolution(images: Tensor) -> None:
    tokenizer = ConvTokenizer(4, 24, depth=3).double()
    kinds = [type(layer).__name__ for layer in tokenizer.layers]
    assert kinds == ["Conv2d", "ResidualConv", "ResidualConv", "_ChannelNorm", "GELU", *kinds[:3]]
    assert tokenizer(images).shape == (4, 16, 24)


def test_a_token_of_the_conv_tokenizer_sees_a_little_more_than_its_patch(images: Tensor) -> None:
    tokenizer = ConvTokenizer(4, 24).double()
    pictures = images.clone().requires_grad_()
    tokenizer(pictures).unflatten(1, (4, 4))[0, 1, 2].sum().backward()
    rows, columns = (pictures.grad[0].abs().sum(0) > 0).nonzero().unbind(1)
    # A patch's 4 pixels, and 3 before them: from 2 * (2 * i - 1) - 1 up to 2 * (2 * i + 1) + 1.
    assert (rows.min(), rows.max()) == (4 - 3, 7)
    assert (columns.min(), columns.max()) == (8 - 3, 11)


@pytest.mark.parametrize(("patch_size", "widths"), [(2, [24]), (4, [6, 24]), (8, [6, 24, 24])])
def test_the_conv_pool_tokenizer_is_torchs_convolutions_norms_and_pools(
    images: Tensor, patch_size: int, widths: list[int]
) -> None:
    torch.manual_seed(0)
    tokenizer = ConvPoolTokenizer(patch_size, 24).double()
    for parameter in tokenizer.parameters():
        nn.init.normal_(parameter)
    values = iter(tokenizer.parameters())

    def convolved(x: Tensor) -> Tensor:
        weight, bias = next(values), next(values)
        if weight.ndim == 2:  # of 9 C inputs the channels come last
            weight = weight.unflatten(1, (3, 3, -1)).movedim(3, 1)
        more = weight.shape[-1] - 1  # rows and columns of zeros, the greater half of them after the image
        return nn.functional.conv2d(nn.functional.pad(x, (more // 2, more - more // 2) * 2), weight, bias)

    def activated(x: Tensor) -> Tensor:
        weight, bias = next(values), next(values)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        return nn.functional.gelu(x * weight[:, None, None] + bias[:, None, None])

    def halved(x: Tensor) -> Tensor:
        return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax(dim=(3, 5))

    first = convolved(images)
    x = nn.functional.gelu(torch.cat([first, -first], dim=1))
    for _ in widths:
        x = activated(convolved(activated(halved(convolved(x)))))
    assert [m.out_features for m in tokenizer.layers if isinstance(m, nn.Linear)] == [w for w in widths for _ in "ab"]
    torch.testing.assert_close(tokenizer(images), x.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_shifted_patches_are_rolls_by_hand(images: Tensor, patch_size: int) -> None:
    torch.manual_seed(0)
    embed = ShiftedPatchEmbed(patch_size, 10).double()
    nn.init.normal_(embed.norm.weight)
    nn.init.normal_(embed.norm.bias)
    half = patch_size // 2
    views = [images]
    for down, right in itertools.product((half, -half), repeat=2):
        view = images.roll((down, right), dims=(2, 3))
        view[:, :, slice(None, down) if down > 0 else slice(down, None)] = 0
        view[:, :, :, slice(None, right) if right > 0 else slice(right, None)] = 0
        views.append(view)
    stacked = torch.cat(views, dim=1)
    side = 16 // patch_size
    for row, column in itertools.product(range(side), repeat=2):
        rows, columns = (slice(i * patch_size, (i + 1) * patch_size) for i in (row, column))
        patch = stacked[:, :, rows, columns].flatten(1)
        centred = patch - patch.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + embed.norm.eps).sqrt()
        wanted = (normed * embed.norm.weight + embed.norm.bias) @ embed.proj.weight.T + embed.proj.bias
        torch.testing.assert_close(embed(images)[:, row * side + column], wanted, rtol=0, atol=1e-12)


def depthwise(prefix: int, kernel: Callable[[Tensor], None]) -> tuple[DepthwiseMlp, Mlp]:
    torch.manual_seed(0)
    convolving = DepthwiseMlp(12, 20, 8, num_prefix_tokens=prefix, grid_size=4).double()
    with torch.no_grad():
        convolving.conv.weight.zero_()
        kernel(convolving.conv.weight)
        convolving.conv.get_parameter("bias").zero_()
    plain = Mlp(12, 20, 8).double()
    plain.load_state_dict(convolving.state_dict(), strict=False)
    return convolving, plain


@pytest.mark.parametrize("prefix", [0, 3])
def test_a_delta_kernel_doubles_hidden_patches_and_leaves_the_other_tokens(prefix: int) -> None:
    convolving, plain = depthwise(prefix, lambda weight: weight[:, 0, 1, 1].fill_(1.0))
    x = torch.randn(2, prefix + 16, 12, dtype=torch.float64)
    factor = torch.tensor([1.0] * prefix + [2.0] * 16, dtype=torch.float64)[:, None]
    wanted = plain.fc2(plain.act(plain.fc1(x) * factor))
    torch.testing.assert_close(convolving(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prefix", [0, 3])
def test_a_kernel_beside_the_centre_adds_the_neighbouring_patch_of_the_same_row(prefix: int) -> None:
    convolving, plain = depthwise(prefix, lambda weight: weight[:, 0, 1, 0].fill_(1.0))  # left of the centre
    x = torch.randn(2, prefix + 16, 12, dtype=torch.float64)
    hidden = plain.fc1(x).detach()
    wanted = hidden.clone()
    for row, column in itertools.product(range(4), range(1, 4)):
        wanted[:, prefix + 4 * row + column] += hidden[:, prefix + 4 * row + column - 1]
    torch.testing.assert_close(convolving(x), plain.fc2(plain.act(wanted)), rtol=0, atol=1e-12)


def test_the_convolution_stands_where_a_patch_is_still_read(rough_model: BuildModel) -> None:
    def convolves(**fields: object) -> list[bool]:
        model = rough_model(replace(SMALL, mlp_conv="depthwise", **fields))
        return [isinstance(block.mlp, DepthwiseMlp) for block in model.all_blocks]

    assert convolves() == [True, False]
    assert convolves(num_class_attention_blocks=1) == [True, True, False]
    assert convolves(num_cls_tokens=0) == [True, True]
    assert convolves(pooling="cls+mean") == [True, True]


@pytest.mark.parametrize("implementation", ["bmm", "sdpa"])
def test_no_token_attends_to_itself_and_the_temperature_sharpens(
    rough_model: BuildModel, images: Tensor, implementation: str
) -> None:
    config = replace(SMALL, num_cls_tokens=2, num_class_attention_blocks=1, locality="lsa")
    model, plain = rough_model(config, attention=implementation), rough_model(replace(config, locality="none"))
    plain.load_state_dict(model.state_dict(), strict=False)
    _, found = model(images, return_attention=True)
    for weights in found:
        own = weights.diagonal(dim1=-2, dim2=-1)
        assert (own == 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    # The first block's weights by hand: the plain model's scores, times the temperature, without the diagonal.
    _, (first, *_) = plain(images, return_attention=True)
    temperature = model.get_parameter("blocks.0.attn.query_key.temperature").detach()
    scores = first.log() * temperature[:, None, None]
    scores = scores - torch.diag_embed(torch.full((18,), torch.inf, dtype=torch.float64))
    torch.testing.assert_close(found[0], scores.softmax(-1), rtol=0, atol=1e-12)


def test_normed_queries_and_keys_do_not_feel_the_scale_of_their_projections(
    rough_model: BuildModel, images: Tensor
) -> None:
    model = rough_model(replace(SMALL, qk_norm="rms"))
    before = model(images)
    with torch.no_grad():
        for block in model.all_blocks:
            for parameter in (block.attn.qkv.weight, block.attn.qkv.bias):
                parameter[:48] *= 50
    torch.testing.assert_close(model(images), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("queries", [None, 2])
def test_a_layer_scale_of_nothing_makes_a_block_the_identity(queries: int | None) -> None:
    config = replace(SMALL, num_cls_tokens=2, num_class_attention_blocks=1, layer_scale=0.0)
    model = VisionTransformer(config)
    block: Block = model.blocks[0] if queries is None else model.cls_blocks[0]
    x = torch.randn(2, 18, 24)
    assert torch.equal(block(x), x)
    values = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert len(values) == 6
    assert all((value == 0).all() for value in values)
    assert isinstance(block.ls1, LayerScale)


def test_variants_share_the_plain_models_weights_where_they_have_them() -> None:
    """So that a change of one field changes as little as possible."""
    draws = {
        name: VisionTransformer(config, generator=torch.Generator().manual_seed(0)).state_dict()
        for name, config in {
            "plain": SMALL,
            "variant": replace(SMALL, qk_norm="rms", locality="lsa", layer_scale=0.1),
        }.items()
    }
    assert draws["plain"].keys() < draws["variant"].keys()
    assert all(torch.equal(value, draws["variant"][name]) for name, value in draws["plain"].items())
