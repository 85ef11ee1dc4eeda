"""The command line: parse, call one function, turn errors into one line and an exit status.

0 success, 1 failure, 2 bad usage, 130 and 143 ended by SIGINT and SIGTERM, 75 ended by --max-seconds. torch is imported
by the commands, never to parse or to help.
"""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from smallvit.checks import is_number, require, require_whole
from smallvit.config import RunConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.recipes import RECIPES
from smallvit.usage import one_line, options_of, require_known


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Train a small model on handwritten digits, in about a minute, and show how good it is."""

    out: Path = Path("runs/quickstart")
    """Run folder; an earlier quickstart there is replaced."""
    seed: int = 0
    """Seed of the run."""

    def __call__(self) -> None:
        """Replace an earlier quickstart, train, write the page."""
        config = replace(RECIPES["quickstart"](), seed=self.seed)
        _train_and_report(config, self.out, start_over=_recipe_of(self.out) == "quickstart")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a recipe, measure it, write record and page; an unfinished run in the folder goes on."""

    config: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    out: Path | None = None
    """Run folder; by default runs/RECIPE-DIGEST."""
    resume: Path | None = None
    """Run folder of an unfinished run to go on with; instead of a recipe."""
    fork: Path | None = None
    """Run folder whose weights the new run starts from."""
    max_seconds: float | None = None
    """Seconds after which to save and end, in time for a scheduler's limit; exit status 75."""

    def __call__(self) -> None:
        """Train in a folder named after the config, unless told where."""
        if self.max_seconds is not None:
            require(is_number(self.max_seconds, 0), "--max-seconds", self.max_seconds, "it must be at least 0")
        if self.resume is not None and (self.out is not None or self.fork is not None):
            raise UsageError("--resume goes on in its own folder, from its own weights: leave out --out and --fork")
        if self.fork is not None and not self.fork.is_dir():
            raise UsageError(f"--fork is {str(self.fork)!r}: it must be a run folder")
        named = self.config.recipe if self.fork is None else f"{self.config.recipe}-fork"
        out = self.resume or self.out or Path("runs") / f"{named}-{self.config.digest()[:8]}"
        _train_and_report(self.config, out, max_seconds=self.max_seconds, fork=self.fork)


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Run a study's rows, those that are not yet there, and print its table; again to go on."""

    study: Positional[Literal["augmentation"]]
    """Question to answer."""
    out: Path = Path("runs/study")
    """Folder of the runs, one a row and seed; `results/runs` holds those that were published."""
    table_only: bool = False
    """Run nothing, and print the table of the records that are there."""
    data_root: Path | None = None
    """Folder or archive that holds the data set; without it the cache is read, then the Hugging Face hub."""
    num_threads: int | None = None
    """Threads of a CPU; by default as many as torch chooses."""

    def __call__(self) -> None:
        """Run, print the table, and fail if a run did."""
        from rich.console import Console

        from smallvit.study.local import read_records, run_study
        from smallvit.study.studies import STUDIES

        study = STUDIES[self.study]()
        console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        failed = [] if self.table_only else run_study(study, self.out, self.data_root, self.num_threads, console)
        from smallvit.report.tables import markdown_table

        print(f"{study.title}. {study.budget}.\n\n{markdown_table(read_records(study, self.out), study.reference)}")
        if failed:
            raise SmallvitError(f"{len(failed)} of the runs failed, the first: {failed[0]}")


@dataclass(frozen=True, kw_only=True)
class ShowAugment:
    """Write a picture of a recipe's augmentation: training images, several draws of each, and their soft labels."""

    config: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    out: Path = Path("augment.png")
    """File to write: .png, .svg or .pdf."""

    def __call__(self) -> None:
        """Write the picture and say where."""
        from smallvit.preview import show_augment

        show_augment(self.config, self.out)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a finished run's weights again."""

    folder: Positional[Path]
    """Run folder."""
    split: Literal["val", "test"] = "test"
    """Images to measure on."""
    data_root: Path | None = None
    """Where the data set lies, if no longer where the run found it."""

    def __call__(self) -> None:
        """Print the metrics."""
        from smallvit.progress import percent
        from smallvit.run import evaluate

        metrics = evaluate(self.folder, self.split, self.data_root)
        print(f"{self.split} accuracy {percent(metrics)}")
        print(f"negative log likelihood {metrics.negative_log_likelihood:.4f} nats")
        print(f"expected calibration error {100 * metrics.calibration_error:.2f} %")


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes with their size, arithmetic and estimated time on this machine."""

    def __call__(self) -> None:
        """Print the table."""
        from rich.console import Console

        console = Console()
        with console.status("measuring some training steps of each recipe"):
            from smallvit.bench.cost import recipe_table

            table = recipe_table(RECIPES)
        console.print(table)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure how fast a recipe trains on this machine, on random images; without a recipe, baseline."""

    config: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    json: Path | None = None
    """File to write the record to."""
    against: str = ""
    """Others' models of the same shape under the same step, with commas between: timm, vit-pytorch."""
    sweep: bool = False
    """Measure the step at other widths, patches and batches as well."""
    sweep_seconds: float = 120.0
    """Seconds after which the sweep begins no further point."""
    turns: int = 5
    """Times that everything is measured, in turns; the median counts."""

    def __call__(self) -> None:
        """Measure, print the table, write the record."""
        require_whole("--turns", self.turns, 1)
        require(is_number(self.sweep_seconds, 0), "--sweep-seconds", self.sweep_seconds, "it must be at least 0")
        if self.json is not None:
            require(self.json.parent.is_dir(), "--json", str(self.json), "its folder must exist")
        from rich.console import Console

        from smallvit.bench.measure import measure_recipe
        from smallvit.bench.peers import parse_peers
        from smallvit.bench.table import bench_table

        console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        record = measure_recipe(
            self.config,
            turns=self.turns,
            against=parse_peers(self.against, self.config),
            sweep_seconds=self.sweep_seconds if self.sweep else None,
            say=console.print,
        )
        console.print(bench_table(record))
        if self.json is not None:
            record.save(self.json)
            console.print(f"record {self.json}")


COMMANDS: dict[str, Any] = {
    "quickstart": Quickstart,
    "train": Train,
    "study": StudyCommand,
    "show-augment": ShowAugment,
    "evaluate": Evaluate,
    "recipes": Recipes,
    "bench": Bench,
}
ENDED_AS_ASKED = (75, 130, 143)
STARTS_FROM_RECIPE = ("train", "show-augment", "bench")
"""Commands whose first word is a recipe, from which their options start."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words == ["--version"]:
            from importlib.metadata import version

            print(version("smallvit"))
        else:
            _parse(words or ["--help"])()
    except SmallvitError as error:
        return _failed(str(error), error.exit_status)
    except OSError as error:  # a full disk, a folder that may not be written
        return _failed(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        print("smallvit: interrupted", file=sys.stderr)
        return 130
    return 0


def _parse(words: list[str]) -> Any:
    """Return the command that the words ask for; tyro's boxed usage errors become one line."""
    config = _starting_config(words)
    commands: list[Any] = []
    for name, kind in COMMANDS.items():
        if words in (["--help"], ["-h"]):  # to list the commands, tyro need not read all their options
            bare = dataclass(type(kind.__name__, (), {"__doc__": kind.__doc__}))
            commands.append(Annotated[bare, subcommand(name)])
        elif name in STARTS_FROM_RECIPE:
            commands.append(Annotated[kind, subcommand(name, default=kind(config=config))])
        else:
            commands.append(Annotated[kind, subcommand(name)])
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            return tyro.cli(
                _union(commands),
                args=words,
                prog="smallvit",
                description="Small Vision Transformers, trained from scratch on small images.",
            )
        except SystemExit as stop:
            if not stop.code:
                raise
    command = COMMANDS.get(words[0])
    named = words[: 2 if words[0] in STARTS_FROM_RECIPE else 1] if command else []
    options = ["--help", *(options_of(command) if command else ("--version", "--tyro-print-completion"))]
    raise UsageError(one_line(errors.getvalue(), options, " ".join(["smallvit", *named, "--help"])))


def _union(commands: list[Any]) -> Any:
    union = commands[0]
    for command in commands[1:]:
        union = union | command
    return union


def _starting_config(words: list[str]) -> RunConfig:
    """Return the values that the options start from: those of the recipe that the words name, if they name one."""
    if words and not words[0].startswith("-"):
        require_known("command", words[0], COMMANDS)
    command, recipe = (*words[:2], "", "")[:2]
    default = next(iter(RECIPES))
    if command not in STARTS_FROM_RECIPE or recipe in ("-h", "--help"):
        return RECIPES[default]()
    if command == "train" and recipe.split("=")[0] == "--resume":
        return _config_to_resume(words)
    if command == "bench" and (not recipe or recipe.startswith("-")):
        return RECIPES["baseline"]()
    if not recipe or recipe.startswith("-"):
        raise UsageError(f"{command} needs a recipe first, one of {', '.join(RECIPES)}")
    require_known("recipe", recipe, RECIPES)
    return RECIPES[recipe]()


def _config_to_resume(words: list[str]) -> RunConfig:
    """Return the config of the run folder in `train --resume FOLDER`."""
    folder = Path((words[1].split("=", 1)[1:] or words[2:3] or [""])[0])
    if not (folder / "config.json").is_file():
        raise UsageError(f"--resume is {str(folder)!r}: it must be the folder of a run, with its config.json")
    return RunConfig.load(folder / "config.json")


def _failed(reason: str, status: int) -> int:
    rank = os.environ.get("RANK", "0")
    if rank != "0" and status in ENDED_AS_ASKED:  # rank 0 says it
        return status
    who = "smallvit:" if rank == "0" else f"smallvit, rank {rank}:"
    print(who, " ".join(reason.splitlines()), file=sys.stderr)
    return status


def _recipe_of(folder: Path) -> str | None:
    """Return the recipe of the run in a folder, by whatever version of smallvit; None where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("recipe") if isinstance(config, dict) else None


def _train_and_report(
    config: RunConfig,
    folder: Path,
    *,
    max_seconds: float | None = None,
    fork: Path | None = None,
    start_over: bool = False,
) -> None:
    began = time.monotonic()
    from rich.console import Console

    # Names of classes and folders are not markup: "[/x]" would raise, ":x:" turn into a picture.
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    with console.status("starting"):
        from smallvit.progress import duration, percent
        from smallvit.run import run

    if max_seconds is not None:  # to import torch takes a part of them
        max_seconds = max(0.0, max_seconds - (time.monotonic() - began))
    record = run(config, folder, console=console, max_seconds=max_seconds, fork=fork, start_over=start_over)
    if os.environ.get("RANK", "0") != "0":  # one of several processes, and not the one that writes
        return
    from smallvit.report.page import write_page

    speed = f"{duration(record.train_seconds)} of training at {record.images_per_second:,.0f} images/s"
    console.print(f"test accuracy {percent(record.test)} after {speed}")
    console.print(f"record  {folder / 'record.json'}\npage    {write_page(folder)}")
