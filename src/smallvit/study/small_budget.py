"""Studies that a laptop finishes: small models and 12 passes, enough to tell a large effect from none."""

from dataclasses import replace

from smallvit.augment.config import AugmentConfig
from smallvit.config import RunConfig
from smallvit.device.config import DeviceConfig
from smallvit.recipes import baseline, small
from smallvit.study.grids import latent_rows, token_rows
from smallvit.study.rows import Row, Study, changed

SETTING = "depth 6, heads of 32, patches of 8 x 8, Muon at 2e-3, batch 256, float32"
PLAIN = "augment-crop-flip"
"""Folder of the runs that two of the studies have in common: width 96, 2 CLS tokens, flip and crop."""


def small_budget() -> RunConfig:
    """Return what the rows have in common: the recipe `small`, shorter, and with fewer tokens and blocks."""
    config = small()
    return replace(
        config,
        recipe=PLAIN,
        model=replace(config.model, patch_size=8, depth=6),
        train=replace(config.train, epochs=12),
        device=DeviceConfig(precision="float32"),
    )


def augmentation() -> Study:
    """What each part of the paper's augmentation does at a small fixed budget: none, one at a time, all."""
    base = small_budget()
    plain, full = base.augment, baseline().augment
    parts: dict[str, tuple[str, AugmentConfig]] = {
        "none": ("none", replace(plain, horizontal_flip=0.0, crop_padding=0)),
        "crop-flip": ("crop and flip", plain),
        "autoaugment": (
            "+ AutoAugment",
            replace(plain, policy=full.policy, policy_variant=full.policy_variant),
        ),
        "cutmix": ("+ CutMix", replace(plain, cutmix_alpha=full.cutmix_alpha)),
        "mixup": ("+ MixUp", replace(plain, mixup_alpha=full.mixup_alpha)),
        "erase": ("+ random erasing", replace(plain, erase_probability=full.erase_probability)),
        "all": ("all of them", full),
    }
    return Study(
        name="augmentation",
        title="What each augmentation does at a small budget",
        setting=f"{SETTING}, width 96, 2 CLS tokens",
        reference="crop and flip",
        rows=tuple(
            Row(label=label, config=replace(base, recipe=f"augment-{name}", augment=augment))
            for name, (label, augment) in parts.items()
        ),
        seeds=(0, 1),
    )


def cls_tokens_small() -> Study:
    """One to four CLS tokens at two widths."""

    def config_of(width: int, count: int) -> RunConfig:
        recipe = PLAIN if (width, count) == (96, 2) else f"cls-{count}-width-{width}"
        changes = {"model.embed_dim": width, "model.num_heads": width // 32, "model.num_cls_tokens": count}
        return changed(replace(small_budget(), recipe=recipe), changes)

    return Study(
        name="cls-tokens-small",
        title="What further CLS tokens do at a small budget",
        setting=f"{SETTING}, flip and crop",
        reference="width 96, 1 CLS token",
        rows=token_rows(config_of),
        seeds=(0, 1),
    )


def latents_small() -> Study:
    """Low-rank queries, keys and values, alone and together, from a quarter of the width to all of it.

    Muon has them apart in every row, as they are stored where one is low-rank: the full row differs in rank alone.
    """
    full, *others = latent_rows(small_budget(), lambda parts, latent: f"latent-{parts}-{latent}")
    apart = changed(replace(full.config, recipe="latent-full"), {"optim.muon_qkv": "apart"})
    return Study(
        name="latents-small",
        title="Which of q, k and v can be low-rank, at a small budget",
        setting=f"{SETTING}, q, k and v apart to Muon, width 96, 2 CLS tokens, flip and crop",
        reference="full q, k and v",
        rows=(replace(full, config=apart), *others),
        seeds=(0, 1),
    )
