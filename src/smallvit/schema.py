"""What earlier versions wrote, brought to today's form: what each schema added to the one before.

A new field of a config is a new schema: its entry has the field at the value that means what was done before. If the
field is marked `{"digest": "unless default"}`, configs from before keep their digests as well.
"""

from typing import Any, cast

from smallvit.errors import SmallvitError

Added = dict[str, Any]
"""Values by name; a dictionary is of a section, and fields in it."""

CONFIG_ADDED: tuple[Added, ...] = (
    {  # checkpoints, steps left out, and weights to start from
        "fork": None,
        "checkpoint": {"every_seconds": 60.0, "best": False},
        "train": {"on_nonfinite": "stop", "max_skips": 10},
        "optim": {"lr_scaling": "none"},
    },
    {"scale": 1.0},  # runs shorter than their recipe
    # Switches of what a GPU does; as on a CPU before, each is off or has nothing to do.
    {"device": {"compile_mode": "default", "compile_augment": "auto", "prefetch": "auto"}},
    {  # variants of model and training beyond the paper's
        "augment": {"flip": "random"},
        "optim": {"muon_lr": None, "muon_weight_decay": None},
        "train": {"loss": "cross-entropy", "ema_decay": 0.0},
        "model": {
            "num_registers": 0,
            "tokenizer": "patch",
            "qk_norm": "none",
            "locality": "none",
            "mlp_conv": "none",
            "layer_scale": None,
            "pooling": "cls",
            "init": "normal",
        },
    },
    {"model": {"tokenizer_depth": 1}},
    {"device": {"cuda_graphs": "off"}},
    {"optim": {"muon_qkv": "fused"}},
    {"device": {"convolution": "torch"}},
)
RECORD_ADDED: tuple[Added, ...] = (
    {"resumed_at_steps": [], "skipped_steps": [], "world_size": 1},
    {"channel_mean": None, "channel_std": None, "test_sha256": None},
    {"temperature": None, "test_calibrated": None, "val_sha256": None},
    {"choices": {"convolution": "torch"}},
)
CONFIG_SCHEMA, RECORD_SCHEMA = len(CONFIG_ADDED) + 1, len(RECORD_ADDED) + 1


def upgrade(value: Any, what: str, added: tuple[Added, ...]) -> dict[str, Any]:
    """Return the JSON object of a config or record in the newest schema, without the schema's number.

    Raises `SmallvitError` for a schema that this version does not know. The value given is left as it is.
    """
    newest = len(added) + 1
    found = cast("dict[str, Any]", value).get("schema") if isinstance(value, dict) else None
    if type(found) is not int or not 1 <= found <= newest:
        raise SmallvitError(f"{what} has schema {found}: this version of smallvit reads 1 to {newest}")
    upgraded = {key: item for key, item in cast("dict[str, Any]", value).items() if key != "schema"}
    for names in added[found - 1 :]:
        for name, new in names.items():
            here = upgraded.setdefault(name, new)
            if isinstance(new, dict) and isinstance(here, dict):  # else it is the reader's to refuse
                upgraded[name] = new | here
    return upgraded
