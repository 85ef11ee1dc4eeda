"""Beyond the paper: what each change to the plain model and its training buys, and how far the gains add up."""

from collections.abc import Mapping
from dataclasses import replace

from smallvit.config import RunConfig
from smallvit.device.config import DeviceConfig
from smallvit.recipes import small
from smallvit.study.rows import Changes, Row, Study, changed, slug

SETTING = (
    "width 64, depth 4, 2 heads of 32, 2 CLS tokens, patches of 4 x 4, flip and crop, batch 256, float32; Muon at 2e-3 "
    "where no optimiser is named; the best three: the tokenizer that pools, depthwise convolutions, Muon at 8e-3"
)
PLAIN = "plain"

ALONE: Mapping[str, Changes] = {
    "convolutional tokenizer": {"model.tokenizer": "conv"},
    "depthwise convolution in the MLPs": {"model.mlp_conv": "depthwise"},
    "head reads the patch mean as well": {"model.pooling": "cls+mean"},
    "convolutional tokenizer with 3 at each resolution": {"model.tokenizer": "conv", "model.tokenizer_depth": 3},
    "convolutional tokenizer that pools": {"model.tokenizer": "conv-pool"},
    "8 blocks": {"model.depth": 8},
    "whitened patches": {"model.patch_init": "whiten"},
    "shifted patches": {"model.tokenizer": "shifted"},
    "locality attention": {"model.locality": "lsa"},
    "rotary positions": {"model.position": "rotary"},
    "norm of queries and keys": {"model.qk_norm": "rms"},
    "mimetic initialisation": {"model.init": "mimetic"},
    "4 heads of 16": {"model.num_heads": 4},
    "1 head of 64": {"model.num_heads": 1},
    "LayerScale 0.1": {"model.layer_scale": 0.1},
    "4 registers": {"model.num_registers": 4},
    "1 of 4 blocks is class attention": {"model.depth": 3, "model.num_class_attention_blocks": 1},
    "moving average of the weights": {"train.ema_decay": 0.99},
    "weight decay on the matrices alone": {"optim.decay_on": "matrices"},
    "gradients clipped at a norm of 1": {"optim.clip_norm": 1.0},
    "rate that falls in a straight line": {"optim.schedule": "linear"},
    "alternating flip": {"augment.flip": "alternating"},
    "binary cross-entropy": {"train.loss": "bce"},
    "RandAugment with CutMix or MixUp always": {
        "augment.policy": "randaugment",
        "augment.cutmix_alpha": 1.0,
        "augment.mixup_alpha": 1.0,
        "augment.mix_probability": 1.0,
    },
    "Muon at 1e-3": {"optim.lr": 1e-3},
    "Muon at 4e-3": {"optim.lr": 4e-3},
    "Muon at 8e-3": {"optim.lr": 8e-3},
    "Muon at 1.6e-2": {"optim.lr": 1.6e-2},
    "AdamW at 1e-3": {"optim.optimizer": "adamw", "optim.lr": 1e-3},
    "AdamW at 2e-3": {"optim.optimizer": "adamw", "optim.lr": 2e-3},
    "AdamW at 4e-3": {"optim.optimizer": "adamw", "optim.lr": 4e-3},
    "AdamW at 8e-3": {"optim.optimizer": "adamw", "optim.lr": 8e-3},
    "AdamW at 1.6e-2": {"optim.optimizer": "adamw", "optim.lr": 1.6e-2},
}
"""One change each, by what a reader calls it; last both optimisers at several rates, so that neither is judged at the
other's.
"""

_CONVOLUTIONS = ("convolutional tokenizer", "depthwise convolution in the MLPs")
_STACK = (*_CONVOLUTIONS, "head reads the patch mean as well")
_BEST_THREE = ("convolutional tokenizer that pools", "depthwise convolution in the MLPs", "Muon at 8e-3")

TOGETHER: Mapping[str, tuple[str, ...]] = {
    "both convolutions": _CONVOLUTIONS,
    "both convolutions and mean": _STACK,
    "both convolutions and mean with Muon at 8e-3": (*_STACK, "Muon at 8e-3"),
    "pooling tokenizer and depthwise convolution": _BEST_THREE[:2],
    "pooling tokenizer and Muon at 8e-3": ("convolutional tokenizer that pools", "Muon at 8e-3"),
    "depthwise convolution and Muon at 8e-3": ("depthwise convolution in the MLPs", "Muon at 8e-3"),
    "pooling tokenizer, depthwise convolution and Muon at 8e-3": _BEST_THREE,
    "best three and mean": (*_BEST_THREE, "head reads the patch mean as well"),
    "best three and rotary positions": (*_BEST_THREE, "rotary positions"),
    "best three and whitened patches": (*_BEST_THREE, "whitened patches"),
    "best three and a straight line": (*_BEST_THREE, "rate that falls in a straight line"),
}
"""What gains, together, by the labels of what each is made of; last what else might gain on the best three."""

_ONE_TOKEN: Changes = {"model.num_cls_tokens": 1}
_MEAN_ALONE: Changes = {"model.pooling": "mean", "model.num_cls_tokens": 0}
TOKENS: Mapping[str, tuple[tuple[str, ...], Changes]] = {
    "1 CLS token": ((), _ONE_TOKEN),
    "both convolutions with 1 CLS token": (_CONVOLUTIONS, _ONE_TOKEN),
    "both convolutions and mean with 1 CLS token": (_STACK, _ONE_TOKEN),
    "both convolutions and mean without CLS tokens": (_STACK, _MEAN_ALONE),
    "best three and the mean alone": (_BEST_THREE, _MEAN_ALONE),
}
"""Whether several CLS tokens help, and whether they still do where the head reads the mean: what each is made of, and a
further change to it.
"""

_FIRST = (*_STACK, *TOGETHER, *TOKENS, "Muon at 8e-3", "AdamW at 4e-3")


def changes() -> Study:
    """Return one change at a time, both optimisers at several rates, and the gains together."""
    base = _base()
    merged = {label: _merged(parts) for label, parts in TOGETHER.items()}
    tokens = {label: {**_merged(parts), **change} for label, (parts, change) in TOKENS.items()}
    rows = [Row(label=PLAIN, config=base, rank=0)]
    for label, change in {**ALONE, **merged, **tokens}.items():
        config = changed(replace(base, recipe=f"changes-{slug(label)}"), change)
        parts, rank = TOGETHER.get(label, ()), 0 if label in _FIRST else 1
        rows.append(Row(label=label, config=config, parts=parts, against=_against(label), rank=rank))
    return Study(
        name="changes",
        title="What each change to the plain model buys at a small budget",
        setting=SETTING,
        reference=PLAIN,
        rows=tuple(rows),
        seeds=(0, 1),
    )


def _base() -> RunConfig:
    config = small()
    return replace(
        config,
        recipe="changes-plain",
        model=replace(config.model, embed_dim=64, depth=4, num_heads=2),
        optim=replace(config.optim, warmup_epochs=0.75),
        train=replace(config.train, epochs=6),
        evaluate=replace(config.evaluate, every_epochs=1),
        device=DeviceConfig(precision="float32"),
    )


def _against(label: str) -> tuple[str, ...]:
    """Return the rows that have all but one of a row's changes, other than plain: what that one brings to them."""
    made_of = {
        **{each: {each} for each in ALONE},
        **{each: {*parts} for each, parts in TOGETHER.items()},
    }
    if label in TOKENS:
        return tuple(each for each, parts in made_of.items() if parts == {*TOKENS[label][0]})
    own = made_of[label]
    return tuple(each for each, parts in made_of.items() if parts < own and len(parts) == len(own) - 1)


def _merged(labels: tuple[str, ...]) -> Changes:
    return {field: value for label in labels for field, value in ALONE[label].items()}
