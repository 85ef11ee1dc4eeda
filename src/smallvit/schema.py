"""What earlier versions wrote, brought to today's form: one named migration from each schema to the next.

A new field of a config is a new schema: its migration adds the field at the value that means what was done before. If
the field is marked `{"digest": "unless default"}`, configs from before keep their digests as well.
"""

from collections.abc import Callable
from typing import Any, cast

from smallvit.errors import SmallvitError

CONFIG_SCHEMA = 9
RECORD_SCHEMA = 5

Migration = Callable[[dict[str, Any]], None]


def _config_1_to_2(config: dict[str, Any]) -> None:
    """Checkpoints, steps left out, and weights to start from."""
    config["fork"] = None
    config["checkpoint"] = {"every_seconds": 60.0, "best": False}
    for key, value in {"on_nonfinite": "stop", "max_skips": 10}.items():
        _section(config, "train").setdefault(key, value)
    _section(config, "optim").setdefault("lr_scaling", "none")


def _config_2_to_3(config: dict[str, Any]) -> None:
    """Runs shorter than their recipe."""
    config["scale"] = 1.0


def _config_3_to_4(config: dict[str, Any]) -> None:
    """Switches of what a GPU does; as on a CPU before, each is off or has nothing to do."""
    for key, value in {"compile_mode": "default", "compile_augment": "auto", "prefetch": "auto"}.items():
        _section(config, "device").setdefault(key, value)


def _config_4_to_5(config: dict[str, Any]) -> None:
    """Variants of model and training beyond the paper's."""
    _section(config, "augment").update(flip="random")
    _section(config, "optim").update(muon_lr=None, muon_weight_decay=None)
    _section(config, "train").update(loss="cross-entropy", ema_decay=0.0)
    _section(config, "model").update(
        num_registers=0,
        tokenizer="patch",
        qk_norm="none",
        locality="none",
        mlp_conv="none",
        layer_scale=None,
        pooling="cls",
        init="normal",
    )


def _config_5_to_6(config: dict[str, Any]) -> None:
    """Deeper convolutional tokenizers."""
    _section(config, "model").update(tokenizer_depth=1)


def _config_6_to_7(config: dict[str, Any]) -> None:
    """Steps recorded as CUDA graphs."""
    _section(config, "device").update(cuda_graphs="off")


def _config_7_to_8(config: dict[str, Any]) -> None:
    """Queries, keys and values apart under Muon."""
    _section(config, "optim").setdefault("muon_qkv", "fused")


def _config_8_to_9(config: dict[str, Any]) -> None:
    """Convolutions by a kernel of our own."""
    _section(config, "device").update(convolution="torch")


def _record_1_to_2(record: dict[str, Any]) -> None:
    """Interruptions, steps left out, and several devices."""
    record.update(resumed_at_steps=[], skipped_steps=[], world_size=1)


def _record_2_to_3(record: dict[str, Any]) -> None:
    """How images are normalised, and which were the test images."""
    record.update(channel_mean=None, channel_std=None, test_sha256=None)


def _record_3_to_4(record: dict[str, Any]) -> None:
    """The temperature of probabilities, and which were the val images."""
    record.update(temperature=None, test_calibrated=None, val_sha256=None)


def _record_4_to_5(record: dict[str, Any]) -> None:
    """Convolutions by a kernel of our own."""
    _section(record, "choices").setdefault("convolution", "torch")


CONFIG_MIGRATIONS: dict[int, Migration] = {
    1: _config_1_to_2,
    2: _config_2_to_3,
    3: _config_3_to_4,
    4: _config_4_to_5,
    5: _config_5_to_6,
    6: _config_6_to_7,
    7: _config_7_to_8,
    8: _config_8_to_9,
}
RECORD_MIGRATIONS: dict[int, Migration] = {1: _record_1_to_2, 2: _record_2_to_3, 3: _record_3_to_4, 4: _record_4_to_5}


def upgrade(value: Any, what: str, newest: int, migrations: dict[int, Migration]) -> dict[str, Any]:
    """Return the JSON object of a config or record in the newest schema, without the schema's number.

    Raises `SmallvitError` for a schema that this version does not know. The value given is left as it is.
    """
    found = cast("dict[str, Any]", value).get("schema") if isinstance(value, dict) else None
    if type(found) is not int or not (found == newest or found in migrations):
        raise SmallvitError(f"{what} has schema {found}: this version of smallvit reads {min(migrations)} to {newest}")
    upgraded: dict[str, Any] = {
        key: dict(cast("dict[str, Any]", item)) if isinstance(item, dict) else item
        for key, item in cast("dict[str, Any]", value).items()
        if key != "schema"
    }
    for schema in range(found, newest):
        migrations[schema](upgraded)
    return upgraded


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a part of the config to add to; what is there instead of an object is left for the reader to refuse."""
    part = config.get(name)
    return cast("dict[str, Any]", part) if isinstance(part, dict) else {}
