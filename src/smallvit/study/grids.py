"""The questions that the paper leaves open, at full length; `small_budget` has two of them for a laptop."""

from collections.abc import Callable
from dataclasses import replace

from smallvit.config import RunConfig
from smallvit.recipes import baseline
from smallvit.study.paper import AS_PUBLISHED, LATENT, in_study, latent_dims, paper
from smallvit.study.rows import Changes, Row, Study, changed

SEEDS = (0, 1, 2)
PARTS = ("q", "k", "v", "qk", "kv", "qv", "qkv")
"""Projections that may be low-rank, alone and together."""


def latent_rows(full: RunConfig, folder: Callable[[str, int], str]) -> tuple[Row, ...]:
    """Return a row of `full`, and one for each union of q, k and v and each latent width, two to eight eighths of full;
    then the narrowest and the widest again, with first weights that a full matrix could have.

    Of eight the rank is that of a full matrix: what such a row loses, two factors in place of one matrix cost. Keys are
    held against queries and values, and the other first weights against the plain ones.
    `folder` names the folder of a union ("qk") at a latent width, before "-spectral".
    """
    width = full.model.embed_dim
    rows = [Row(label="full q, k and v", config=full)]
    steps = [(eighths, "normal") for eighths in range(2, 9)] + [(2, "spectral"), (8, "spectral")]
    for latent, init in ((width * eighths // 8, init) for eighths, init in steps):
        suffix, marked = ("", "") if init == "normal" else (f"-{init}", f", {init}")
        for parts in PARTS:
            changes = {**latent_dims(parts, latent), "model.init": init}
            config = changed(replace(full, recipe=folder(parts, latent) + suffix), changes)

            def named(parts: str, latent: int = latent, marked: str = marked) -> str:
                return f"{parts} at {latent} of {width}{marked}"

            against = [named("q"), named("v")] if parts == "k" else []
            if marked:
                against.append(named(parts, marked=""))
            alone = tuple(map(named, parts)) if len(parts) > 1 else ()
            rows.append(Row(label=named(parts), config=config, parts=alone, against=tuple(against)))
    return tuple(rows)


def token_rows(config_of: Callable[[int, int], RunConfig]) -> tuple[Row, ...]:
    """Return a row for each of the widths 96 and 192 with one to four CLS tokens, by width and count; several at width
    192 are held against one there.
    """
    one = "width 192, 1 CLS token"
    return tuple(
        Row(
            label=f"width {width}, {count} CLS token{'s' if count > 1 else ''}",
            config=config_of(width, count),
            against=(one,) if width == 192 and count > 1 else (),
        )
        for width in (96, 192)
        for count in (1, 2, 3, 4)
    )


def latents() -> Study:
    """Low-rank queries, keys and values, alone and together, from a quarter of the width to all of it."""

    def folder(parts: str, latent: int) -> str:
        return f"paper-mla-{parts}" if latent == LATENT else f"latent-{parts}-{latent}-of-192"

    rows = latent_rows(in_study(baseline(), "paper-baseline", {}), folder)
    return Study(
        name="latents",
        title="Which of q, k and v can be low-rank, and how far",
        setting=f"{AS_PUBLISHED}, every augmentation, width 192",
        reference="full q, k and v",
        # those of the paper's table, and the same with spectral first weights, first
        rows=tuple(replace(row, rank=0 if row.folder.startswith("paper-") else 1) for row in rows),
        seeds=SEEDS,
    )


def cls_tokens() -> Study:
    """One to four CLS tokens at two widths."""

    def config_of(width: int, count: int) -> RunConfig:
        name = f"paper-width-{width}-cls-{count}" if width == 96 else f"paper-cls-{count}"
        if (width, count) == (192, 1):
            name = "paper-baseline"
        return in_study(baseline(), name, {"model.embed_dim": width, "model.num_cls_tokens": count})

    return Study(
        name="cls-tokens",
        title="What further CLS tokens do",
        setting=f"{AS_PUBLISHED}, every augmentation, 12 heads",
        reference="width 96, 1 CLS token",
        rows=tuple(replace(row, rank=0 if row.config.model.num_cls_tokens < 3 else 1) for row in token_rows(config_of)),
        seeds=SEEDS,
    )


def mixing() -> Study:
    """MixUp's alpha and the probability of mixing, with CutMix and without."""
    rows = [Row(label="no mixing", config=in_study(baseline(), "mix-none", _mixing(0.0, 0.0, 0.5)), rank=0)]
    for cutmix in (1.0, 0.0):
        for alpha in (0.2, 0.8, 1.0):
            for probability in (0.25, 0.5, 1.0):
                name = f"mix-alpha-{alpha:g}-p-{probability:g}{'-cutmix' if cutmix else ''}"
                if (alpha, probability) == (1.0, 0.5):  # rows of the paper's table
                    name = "paper-baseline" if cutmix else "paper-no-cutmix"
                config = in_study(baseline(), name, _mixing(cutmix, alpha, probability))
                label = f"alpha {alpha:g}, probability {probability:g}, {'with' if cutmix else 'without'} CutMix"
                rows.append(Row(label=label, config=config))
    return Study(
        name="mixing",
        title="MixUp's alpha and probability, with CutMix and without",
        setting=f"{AS_PUBLISHED}, crop, flip, AutoAugment, random erasing",
        reference="no mixing",
        rows=tuple(rows),
        seeds=SEEDS,
    )


def _mixing(cutmix: float, alpha: float, probability: float) -> Changes:
    return {"augment.cutmix_alpha": cutmix, "augment.mixup_alpha": alpha, "augment.mix_probability": probability}


def batch() -> Study:
    """Batches of 256 to 4,096, with ways to scale the rate and to warm up."""
    rows = [Row(label="256, AdamW", config=in_study(baseline(), "paper-baseline", {}), rank=0)]
    for size in (512, 1024, 2048, 4096):
        for label, name, changes in (
            ("AdamW, the same rate", "adamw", {}),
            ("AdamW, rate by square root", "adamw-sqrt", {"optim.lr_scaling": "sqrt"}),
            ("AdamW, rate in proportion", "adamw-linear", {"optim.lr_scaling": "linear"}),
            (
                "AdamW, rate by square root, warm-up of 20 epochs",
                "adamw-sqrt-warmup-20",
                {"optim.lr_scaling": "sqrt", "optim.warmup_epochs": 20.0},
            ),
            ("LAMB, rate by square root", "lamb-sqrt", {"optim.optimizer": "lamb", "optim.lr_scaling": "sqrt"}),
        ):
            config = in_study(baseline(), f"batch-{size}-{name}", {"train.batch_size": size, **changes})
            rows.append(Row(label=f"{size:,}, {label}", config=config))
    return Study(
        name="batch",
        title="Batches of 256 to 4,096",
        setting="every augmentation, 1e-3 at a batch of 256",
        reference="256, AdamW",
        rows=tuple(rows),
        seeds=SEEDS,
    )


def cifar100() -> Study:
    """The key results on CIFAR-100: rows of the paper's table."""
    rows = {row.label: row for row in paper().on("cifar100").rows}
    one, two = "width 96, 1 CLS token", "width 96, 2 CLS tokens"
    return Study(
        name="cifar100",
        title="The key results on CIFAR-100",
        setting=f"{AS_PUBLISHED}, every augmentation",
        reference="baseline",
        rows=tuple(
            Row(label=label, config=rows[label].config, against=(one,) if label == two else ())
            for label in (
                *("baseline", "low-rank q", "low-rank k", "low-rank k, v"),
                *("2 CLS tokens", one, two),
            )
        ),
        seeds=SEEDS,
    )


def patches() -> Study:
    """Patches of 4 and of 2 pixels: 64 and 256 tokens."""
    return Study(
        name="patches",
        title="Patches of 4 and of 2 pixels",
        setting=f"{AS_PUBLISHED}, every augmentation",
        reference="width 192, patches of 4",
        rows=tuple(
            Row(
                label=f"width {width}, patches of {size}",
                config=in_study(
                    baseline(),
                    {(192, 4): "paper-baseline", (96, 4): "paper-width-96-cls-1"}.get(
                        (width, size), f"patch-{size}-width-{width}"
                    ),
                    {"model.embed_dim": width, "model.patch_size": size},
                ),
                against=("width 96, patches of 4",) if (width, size) == (96, 2) else (),
            )
            for width in (192, 96)
            for size in (4, 2)
        ),
        seeds=SEEDS,
    )
