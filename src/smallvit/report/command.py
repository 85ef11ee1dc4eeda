"""The command line that repeats a run: its recipe, its seed, and what differs from the recipe."""

import dataclasses
import shlex
from typing import Any

from smallvit.config import RunConfig
from smallvit.recipes import RECIPES


def repeat_command(config: RunConfig) -> str:
    """Return the shell command that runs `config` again.

    A config whose recipe is not known to this version starts from the recipe that is nearest to it.
    """
    by_name = {name: _overrides(config, recipe()) for name, recipe in RECIPES.items()}
    nearest = min(by_name, key=lambda name: len(by_name[name]))
    name = config.recipe if config.recipe in by_name else nearest
    fork = [] if config.fork is None else ["--fork", "RUN_FOLDER"]  # only the weights' sha256 is known
    return shlex.join(["smallvit", "train", name, "--seed", str(config.seed), *by_name[name], *fork])


def _overrides(config: RunConfig, recipe: RunConfig) -> list[str]:
    """Return the words that turn `recipe` into `config`, the seed and the recipe's name left out."""
    words: list[str] = []
    for section in dataclasses.fields(config):
        if section.name == "scale" and config.scale != recipe.scale:
            words += _words("scale", config.scale)
        elif section.name not in ("recipe", "seed", "fork", "scale"):
            words += _section(section.name, getattr(config, section.name), getattr(recipe, section.name))
    return words


def _section(section: str, wanted: Any, given: Any) -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(wanted):
        value, default = getattr(wanted, field.name), getattr(given, field.name)
        filled_in = (section, field.name) == ("model", "num_classes")  # by the data set, at the start of the run
        if value != default and not filled_in:
            words += _words(f"{section}.{field.name}", value)
    return words


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):  # a flag, and its opposite by the command line's custom: section.no_field
        return [f"--{name}" if value else f"--{name.replace('.', '.no_')}"]
    values: list[Any] = list(value) if isinstance(value, tuple) else [value]
    return [f"--{name}", *map(str, values)]
