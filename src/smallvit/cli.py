"""The command line: parse, call one function, turn errors into one line and an exit status.

0 success, 1 failure, 2 bad usage, 130 and 143 ended by SIGINT and SIGTERM, 141 nobody reads the output any more, 75
ended by --max-seconds or a study's --budget. torch is imported by the commands, never to parse or to help.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from smallvit.checks import require_known
from smallvit.commands.compare import CompareCommand
from smallvit.commands.inspect import Bench, Evaluate, Predict, Recipes, ShowAugment
from smallvit.commands.report import ReportCommand
from smallvit.commands.study import StudyCommand
from smallvit.commands.train import Quickstart, Train
from smallvit.config import RunConfig
from smallvit.console import drop_output, printable, set_stdout
from smallvit.cores import is_busy
from smallvit.errors import SmallvitError, UsageError, line_of
from smallvit.files import expanded
from smallvit.recipes import RECIPES, read_recipe
from smallvit.stop import InterruptedRunError
from smallvit.usage import one_line, options_of

COMMANDS: dict[str, Any] = {
    "quickstart": Quickstart,
    "train": Train,
    "study": StudyCommand,
    "report": ReportCommand,
    "compare": CompareCommand,
    "show-augment": ShowAugment,
    "evaluate": Evaluate,
    "predict": Predict,
    "recipes": Recipes,
    "bench": Bench,
}
STARTS_FROM_RECIPE = ("train", "show-augment", "bench")
"""Commands whose first word is a recipe, or a run's file, from which their options start."""
WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
"""What tells torch's threads, by libgomp, how to wait for each other."""
SPIN_COUNT = "3000"
"""How often one that waits looks before it sleeps, where the machine is busy. After libgomp's own 300,000 looks it has
used up its share of a core that it has to share, just when there is something to do (docs/performance.md).
"""
_PATHS = ("--out", "--json", "--resume", "--fork", "--data.root", "--data.cache")
COMPLETION, SHELLS = "--tyro-print-completion", ("bash", "zsh", "fish")
_A_FILE = "a run's config.json or record.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  # closed, as by `>&-`
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    set_stdout("backslashreplace")
    os.environ["MPLBACKEND"] = "agg"  # figures are files alone; one that matplotlib does not know would end in an error
    if sys.platform == "win32":
        return _failed("it needs Linux or macOS: on Windows run it in WSL 2", 1)
    try:
        if words == ["--version"]:
            from smallvit.source import package_version, source_digest

            print(f"{package_version()}, source {source_digest()}")
        else:
            command = _parse(words or ["--help"])
            if not WAITING & os.environ.keys() and is_busy():
                os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT  # read when torch is imported
            command()
        sys.stdout.flush()
    except InterruptedRunError as error:
        # Every process of several is asked to end, and rank 0 says it.
        return error.exit_status if _rank() != "0" else _failed(str(error), error.exit_status)
    except SmallvitError as error:
        status = _failed(str(error), error.exit_status)
        if error.ends_at_once:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(status)
        return status
    except BrokenPipeError:  # whoever read the output, `head` say, has enough
        drop_output()
        return 128 + signal.SIGPIPE
    except (OSError, RuntimeError, MemoryError) as error:
        try:
            sys.stdout.flush()
        except OSError:  # of a full disk: it would be tried again at the end
            drop_output()
        line = line_of(error)
        if line is None:
            raise
        return _failed(line, 1)
    except KeyboardInterrupt:
        print("smallvit: interrupted", file=sys.stderr)
        return 130
    return 0


def _parse(words: list[str]) -> Any:
    """Return the command that the words ask for; tyro's boxed usage errors become one line."""
    for before, word in pairwise(words):
        if (not word and (before in _PATHS or before[:1] != "-")) or (word[-1:] == "=" and word[:-1] in _PATHS):
            raise UsageError(f"after {before if not word else word[:-1]} a path is empty, which would be this folder")
    if words[0].split("=")[0] == COMPLETION:
        words = [*words[0].split("=", 1), *words[1:]]
        require_known("shell", " ".join(words[1:]), SHELLS)
    words = [*words[:1], *(_at_home(before, word) for before, word in pairwise(words))]
    config, file = _starting_config(words), None
    if _names_file(words):
        file, words[1] = Path(words[1]), config.recipe
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
            command: Any = tyro.cli(
                reduce(or_, commands),
                args=words,
                prog="smallvit",
                description="Small Vision Transformers, trained from scratch on small images. `smallvit --version` "
                f"prints version and source, `smallvit {COMPLETION} bash` a shell completion script.",
            )
        except SystemExit as stop:
            if not stop.code:
                sys.stdout.flush()
                raise
            command = None
    if command is not None:
        named = command.config.recipe if words[0] in STARTS_FROM_RECIPE else config.recipe
        if named != config.recipe:
            none = ", and none beside --resume" if words[0] == "train" else ""
            raise UsageError(f"{named!r} has no place there: a recipe comes first{none}")
        return replace(command, repeats=file) if isinstance(command, Train) else command
    kind = COMMANDS.get(words[0])
    first = words[: 2 if words[1:2] and words[1] in RECIPES else 1] if kind else []
    options = ["--help", *(options_of(kind) if kind else ("--version", COMPLETION))]
    raise UsageError(one_line(errors.getvalue(), options, " ".join(["smallvit", *first, "--help"])))


def _at_home(before: str, word: str) -> str:
    """Return a word with the home folder for the ~ that a shell left in it, where it is a path of an option."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if (before if not equals else option) not in _PATHS or not value.startswith("~"):
        return word
    return f"{option}{equals}{expanded(Path(value), option or before)}"


def _starting_config(words: list[str]) -> RunConfig:
    """Return the values that the options start from: those of the recipe or the file that the words name, if any."""
    if words and not words[0].startswith("-"):
        require_known("command", words[0], COMMANDS)
    command, recipe = (*words[:2], "", "")[:2]
    default = next(iter(RECIPES))
    if command == "bench" and (not recipe or recipe.startswith("-")):
        return RECIPES["baseline"]()
    if command not in STARTS_FROM_RECIPE or recipe in ("-h", "--help"):
        return RECIPES[default]()
    if command == "train" and recipe.split("=")[0] == "--resume":
        return _config_to_resume(words)
    if not recipe or recipe.startswith("-"):
        first = ", or --resume FOLDER" if command == "train" else ""
        raise UsageError(f"{command} needs a recipe first, one of {', '.join(RECIPES)}, {_A_FILE}{first}")
    given = {word.split("=")[0] for word in words[2:]}
    if command == "train" and "--resume" in given:
        raise UsageError(f"--resume goes on with the recipe of its run: leave out {recipe!r}")
    if _names_file(words):
        config = read_recipe(Path(recipe))
        if command == "train" and config.fork is not None and "--fork" not in given:
            raise UsageError(f"{recipe} is of a fork: name the run folder with the weights that it starts from, --fork")
        return replace(config, fork=None)
    require_known("recipe", recipe, (*RECIPES, _A_FILE))
    return RECIPES[recipe]()


def _names_file(words: list[str]) -> bool:
    """Return whether a run's file stands where a recipe may."""
    named = len(words) > 1 and words[0] in STARTS_FROM_RECIPE
    return named and words[1].endswith(".json") and not words[1].startswith("-")


def _config_to_resume(words: list[str]) -> RunConfig:
    """Return the config of the run folder in `train --resume FOLDER`."""
    if [word.split("=")[0] for word in words].count("--resume") > 1:
        raise UsageError("--resume is given twice: name one run folder")
    given = (words[1].split("=", 1)[1:] or words[2:3] or [""])[0]
    folder = Path(given)
    if not (folder / "config.json").is_file():
        raise UsageError(f"--resume is {given!r}: it must be the folder of a run, with its config.json")
    return RunConfig.load(folder / "config.json")


def _failed(reason: str, status: int) -> int:
    who = "smallvit:" if _rank() == "0" else f"smallvit, rank {_rank()}:"
    with contextlib.suppress(OSError):  # the status says it as well
        print(who, printable(" ".join(reason.splitlines())), file=sys.stderr)
    return status


def _rank() -> str:
    """Return which of the processes that torchrun started this is."""
    return os.environ.get("RANK", "0")
