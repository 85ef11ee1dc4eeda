"""The command that repeats a run, read back by the command line itself."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from smallvit import cli
from smallvit.commands import train
from smallvit.config import RunConfig
from smallvit.recipes import RECIPES
from smallvit.report.command import changed_options, repeat_command
from smallvit.train.config import CheckpointConfig


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Collect the configs that the command line would train."""
    seen: list[RunConfig] = []
    monkeypatch.setattr(train, "train_and_report", lambda config, folder, **options: seen.append(config))
    return seen


def _changed(config: RunConfig, section: str, **changes: Any) -> RunConfig:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_its_name_and_seed(recipe: str) -> None:
    config = RECIPES[recipe]()
    classes = {"digits": 10, "cifar10": 10, "cifar100": 100}[config.data.dataset]
    assert repeat_command(config.resolve(classes)) == f"smallvit train {recipe} --seed 0"


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("optim", {"lr": 3e-05, "betas": (0.9, 0.95)}),
        ("optim", {"optimizer": "lion", "decay_on": "matrices"}),
        ("evaluate", {"test_curve": True, "every_epochs": 1}),
        ("model", {"latent_dim_k": 16, "position": "sincos", "mlp_ratio": 1.5}),
        ("augment", {"affine_scale": (0.8, 1.25)}),
        ("data", {"dataset": "folder", "root": Path("a folder/it's; here"), "cache": Path("/tmp/x y")}),
        ("device", {"precision": "float32", "compile": "off", "num_threads": 1}),
    ],
)
def test_the_command_line_reads_the_command_as_the_config(
    configs: list[RunConfig], section: str, changes: dict[str, Any]
) -> None:
    config = dataclasses.replace(_changed(RECIPES["quickstart"](), section, **changes), seed=17)
    words = shlex.split(repeat_command(config))
    assert (words[0], cli.main(words[1:])) == ("smallvit", 0)
    assert configs == [config]


def test_an_unknown_recipe_starts_from_the_nearest_one(configs: list[RunConfig]) -> None:
    config = dataclasses.replace(_changed(RECIPES["small"](), "train", epochs=7), recipe="gone")
    command = repeat_command(config)
    assert command == "smallvit train small --seed 0 --train.epochs 7"
    assert cli.main(shlex.split(command)[1:]) == 0
    assert configs[0].digest() == config.digest()


def test_switching_off_what_a_recipe_switches_on(configs: list[RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = RECIPES["quickstart"]()
    peeking = dataclasses.replace(_changed(config, "evaluate", test_curve=True), recipe="peeking")
    monkeypatch.setitem(RECIPES, "peeking", lambda: _changed(peeking, "optim", betas=(0.9, 0.95)))
    wanted = dataclasses.replace(config, recipe="peeking")
    assert cli.main(shlex.split(repeat_command(wanted))[1:]) == 0
    assert configs == [wanted]


def test_what_is_changed_is_what_makes_another_experiment() -> None:
    config = RECIPES["small"]()
    device, checkpoint = dataclasses.replace(config.device, num_threads=1), CheckpointConfig(every_seconds=5.0)
    config = _changed(config, "evaluate", batch_size=5000)
    elsewhere = dataclasses.replace(
        config, seed=3, data=dataclasses.replace(config.data, root=Path("/here")), device=device, checkpoint=checkpoint
    )
    assert changed_options(elsewhere) == ""
    shorter = dataclasses.replace(_changed(elsewhere, "train", batch_size=64), scale=0.5)
    assert changed_options(shorter) == "--scale 0.5 --train.batch-size 64"
    assert changed_options(dataclasses.replace(elsewhere, recipe="own")) == "small"
    precise = dataclasses.replace(elsewhere, device=dataclasses.replace(device, precision="float32"))
    assert changed_options(precise) == "--device.precision float32"
    own = dataclasses.replace(elsewhere.data, dataset="folder")
    assert changed_options(dataclasses.replace(elsewhere, data=own)) == "--data.dataset folder"
