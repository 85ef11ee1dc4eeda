"""The command line that repeats a run: its recipe, its seed, and what differs from the recipe."""

import shlex
from typing import Any

from smallvit.config import RunConfig, leaves
from smallvit.recipes import RECIPES

_NOT_SAID = ("recipe", "seed", "fork", "model.num_classes")


def repeat_command(config: RunConfig) -> str:
    """Return the shell command that runs `config` again.

    A config whose recipe is not known to this version starts from the recipe that is nearest to it.
    """
    name, *words = _from_recipe(config)
    return shlex.join(["smallvit", "train", name, "--seed", str(config.seed), *words])


def changed_options(config: RunConfig) -> str:
    """Return the options that make `config` another experiment than its recipe: none of the place, device and seed."""
    recipe, *words = _from_recipe(config, decisive=True)
    return shlex.join(words if recipe == config.recipe else [recipe, *words])


def _from_recipe(config: RunConfig, *, decisive: bool = False) -> list[str]:
    by_name = {name: _overrides(config, recipe(), decisive) for name, recipe in RECIPES.items()}
    nearest = min(by_name, key=lambda name: len(by_name[name]))
    name = config.recipe if config.recipe in by_name else nearest
    fork = [] if config.fork is None else ["--fork", "RUN_FOLDER"]  # only the weights' sha256 is known
    return [name, *by_name[name], *fork]


def _overrides(config: RunConfig, recipe: RunConfig, decisive: bool) -> list[str]:
    """Return the words that turn `recipe` into `config`, the seed and the recipe's name left out; `decisive` ones alone
    are those that take part in the digest.
    """
    words: list[str] = []
    for (name, value, counts), (_, given, _) in zip(leaves(config), leaves(recipe), strict=True):
        if value != given and name not in _NOT_SAID and (counts or not decisive):
            words += _words(name, value)
    return words


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):  # a flag, and its opposite by the command line's custom: section.no-field
        return [_option(name if value else name.replace(".", ".no_"))]
    values: list[Any] = list(value) if isinstance(value, tuple) else [value]
    return [_option(name), *map(str, values)]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
