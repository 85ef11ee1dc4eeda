"""Named starting points: each recipe is a function that returns a whole config; and any run, to be run again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from smallvit.augment.config import AugmentConfig
from smallvit.config import EvaluateConfig, RunConfig
from smallvit.data.config import DataConfig
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError
from smallvit.files import is_there
from smallvit.model.config import ModelConfig
from smallvit.strict_json import read
from smallvit.train.config import CheckpointConfig, OptimConfig, TrainConfig


def quickstart() -> RunConfig:
    """Handwritten digits on a laptop, in about a minute."""
    return RunConfig(
        recipe="quickstart",
        data=DataConfig(dataset="digits", val_fraction=0.1),
        augment=AugmentConfig(
            horizontal_flip=0.0, crop_padding=0, affine_degrees=10.0, affine_translate=0.08, affine_scale=(0.9, 1.1)
        ),
        model=ModelConfig(patch_size=8, embed_dim=64, depth=6, num_heads=4, num_cls_tokens=2, drop_path_rate=0.0),
        optim=OptimConfig(optimizer="muon", lr=2e-3, warmup_epochs=2.0),
        train=TrainConfig(epochs=50, passes_per_epoch=1, batch_size=64),
    )


def baseline() -> RunConfig:
    """The paper's baseline on CIFAR-10, as its code has it: AdamW, all augmentations, 300 passes."""
    return RunConfig(
        recipe="baseline",
        data=DataConfig(dataset="cifar10"),
        augment=AugmentConfig(
            policy="autoaugment-cifar10",
            policy_variant="paper",
            erase_probability=0.25,
            cutmix_alpha=1.0,
            mixup_alpha=1.0,
        ),
    )


def ddp256() -> RunConfig:
    """The paper's distributed baseline, global batch 256: each image stands three times in a row in its batch."""
    config = baseline()
    return replace(config, recipe="ddp256", train=replace(config.train, repeats_in_batch=3))


def ddp1024() -> RunConfig:
    """The paper's distributed baseline, global batch 1024."""
    config = ddp256()
    return replace(config, recipe="ddp1024", train=replace(config.train, batch_size=1024))


def small() -> RunConfig:
    """Width 96, 3 heads, 2 CLS tokens, Muon, 16 passes over CIFAR-10: for a laptop."""
    return RunConfig(
        recipe="small",
        data=DataConfig(dataset="cifar10"),
        model=ModelConfig(embed_dim=96, num_heads=3, num_cls_tokens=2, drop_path_rate=0.0),
        optim=OptimConfig(optimizer="muon", lr=2e-3, warmup_epochs=2.0),
        train=TrainConfig(epochs=16, passes_per_epoch=1),
        evaluate=EvaluateConfig(every_epochs=2),
    )


def laptop() -> RunConfig:
    """CIFAR-10 in an hour on two CPU cores with bfloat16: six wide convolutions, one block on 4 x 4 tokens, Muon."""
    return RunConfig(
        recipe="laptop",
        data=DataConfig(dataset="cifar10", val_fraction=0.02),
        augment=AugmentConfig(flip="alternating", cutmix_alpha=1.0),
        model=ModelConfig(
            patch_size=8,
            embed_dim=256,
            depth=1,
            num_heads=8,
            num_cls_tokens=0,
            tokenizer="conv-pool",
            patch_init="whiten",
            mlp_conv="depthwise",
            pooling="mean",
            drop_path_rate=0.0,
        ),
        optim=OptimConfig(optimizer="muon", lr=2.5e-3, muon_lr=8e-3, muon_weight_decay=0.5, warmup_epochs=1.0),
        train=TrainConfig(epochs=40, passes_per_epoch=1, label_smoothing=0.2),
        evaluate=EvaluateConfig(every_epochs=4),
    )


def best() -> RunConfig:
    """The most of 200 M MACs and 3 M parameters: convolutions, then 6 blocks; 300 passes, five minutes of an H200."""
    config = baseline()
    return replace(
        config,
        recipe="best",
        augment=replace(config.augment, mix_probability=1.0),
        model=ModelConfig(
            depth=6,
            num_heads=6,
            num_cls_tokens=0,
            tokenizer="conv-pool",
            patch_init="whiten",
            mlp_conv="depthwise",
            pooling="mean",
        ),
        optim=OptimConfig(optimizer="muon", lr=1.25e-3, muon_lr=4e-3, muon_weight_decay=0.1),
    )


def speedrun() -> RunConfig:
    """`laptop` for a GPU, measured on val only twice: 94 % on CIFAR-10; its speed is not tuned yet."""
    return replace(laptop(), recipe="speedrun", evaluate=EvaluateConfig(every_epochs=20))


RECIPES: dict[str, Callable[[], RunConfig]] = {
    f.__name__: f for f in (quickstart, small, laptop, speedrun, best, baseline, ddp256, ddp1024)
}


def read_recipe(path: Path) -> RunConfig:
    """Return what a run's config.json, or its record, says of the experiment, to be run again: all that its digest
    covers. What belongs to the machine of then is left to this one: its device, its cache, and where its data lay,
    unless that is there, or is a folder of pictures, which nothing else names.

    Raises `SmallvitError` for a file that is neither, and for a record whose config was changed after it was written.
    """
    value = read(path, "config or record")
    is_record = isinstance(value, dict) and "config_digest" in value
    record = cast("dict[str, Any]", value)
    try:
        config = RunConfig.from_json(record.get("config") if is_record else value)
    except SmallvitError as error:
        raise SmallvitError(f"{path}: {error}") from None
    if is_record and record["config_digest"] != config.digest():
        raise SmallvitError(f"{path}: config_digest is not that of its config")
    data = config.data
    there = data.root if data.dataset == "folder" or (data.root is not None and is_there(data.root)) else None
    return replace(
        config,
        data=replace(data, root=there, cache=None),
        model=replace(config.model, num_classes=None),
        checkpoint=CheckpointConfig(),
        device=DeviceConfig(precision=config.device.precision),
    )
