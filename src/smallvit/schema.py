"""What earlier versions wrote, brought to today's form: what each schema added to the one before, at the value that
means what was done before.

A new field of a config needs none if it is marked `{"digest": "unless default"}`: `strict_json` gives it its default.
"""

from typing import Any, cast

from smallvit.errors import SmallvitError

Added = dict[str, Any]
"""Values by name; a dictionary is of a section, and fields in it."""

CONFIG_ADDED: tuple[Added, ...] = (
    {"checkpoint": {"every_seconds": 60.0, "best": False}},
    {},  # as all that are empty: of fields with a default
    # Switches of what a GPU does; as on a CPU before, each is off or has nothing to do.
    {"device": {"compile_mode": "default", "compile_augment": "auto", "prefetch": "auto"}},
    {},
    {},
    {"device": {"cuda_graphs": "off"}},
    {},
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
