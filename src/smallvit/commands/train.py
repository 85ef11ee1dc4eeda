"""The commands that train a run and show it."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Fixed, Suppress, arg

from smallvit.checks import require_number
from smallvit.config import RunConfig
from smallvit.console import plain_console
from smallvit.errors import SmallvitError, UsageError, line_of
from smallvit.recipes import RECIPES


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
        train_and_report(config, self.out, start_over=_is_quickstart(self.out))


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a recipe, measure it, write record and page; an unfinished run in the folder goes on."""

    config: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    out: Path | None = None
    """Run folder; by default runs/RECIPE-DIGEST, with "fork" and the name of a folder of pictures before the digest."""
    resume: Path | None = None
    """Run folder of an unfinished run to go on with; instead of a recipe."""
    fork: Path | None = None
    """Run folder whose weights the new run starts from."""
    max_seconds: float | None = None
    """Seconds after which to save and end, in time for a scheduler's limit; exit status 75."""
    repeats: Suppress[Fixed[Path | None]] = None
    """A run's file that stands in the recipe's place, if one does; no option."""

    def __call__(self) -> None:
        """Train in a folder named after the config, unless told where."""
        if self.max_seconds is not None:
            require_number("--max-seconds", self.max_seconds, least=0)
        if self.resume is not None and (self.out is not None or self.fork is not None):
            raise UsageError("--resume goes on in its own folder, from its own weights: leave out --out and --fork")
        if self.fork is not None and not self.fork.is_dir():
            raise UsageError(f"--fork is {str(self.fork)!r}: it must be a run folder")
        named, data = self.config.recipe if self.fork is None else f"{self.config.recipe}-fork", self.config.data
        if data.dataset == "folder" and data.root is not None:  # pictures that the digest does not know
            named += f"-{Path(os.path.realpath(data.root)).name}"
        out = self.resume or self.out or Path("runs") / f"{named}-{self.config.digest()[:8]}"
        train_and_report(self.config, out, max_seconds=self.max_seconds, fork=self.fork, repeats=self.repeats)


def _is_quickstart(folder: Path) -> bool:
    """Whether a folder holds a quickstart as this command makes it; not a run of one's own that began with its recipe,
    nor what cannot be read.
    """
    try:
        config = RunConfig.load(folder / "config.json")
        recipe = replace(RECIPES["quickstart"](), seed=config.seed).resolve(config.model.num_classes or 0)
    except SmallvitError:  # of so many classes it cannot be either
        return False
    # Of a schema without these it has them as they were done then.
    later = {name: getattr(recipe.device, name) for name in ("cuda_graphs", "convolution")}
    return replace(config, device=replace(config.device, **later)) == recipe


def train_and_report(
    config: RunConfig,
    folder: Path,
    *,
    max_seconds: float | None = None,
    fork: Path | None = None,
    start_over: bool = False,
    repeats: Path | None = None,
) -> None:
    """Run in a folder, write its page and say where; the options are those of `smallvit.run.run`, but for `repeats`, a
    run's config.json or record.
    """
    began = time.monotonic()
    console = plain_console(unread=True)
    with console.status("starting"):
        from smallvit.progress import duration, percent
        from smallvit.record import RunRecord
        from smallvit.run import run

        earlier = None
        if repeats is not None:
            with suppress(SmallvitError):  # a config, or of a later version, whose config may do all the same
                earlier = RunRecord.load(repeats)
    if max_seconds is not None:  # to import torch takes a part of them
        max_seconds = max(0.0, max_seconds - (time.monotonic() - began))
    record = run(
        config,
        folder,
        console=console,
        max_seconds=max_seconds,
        fork=fork,
        start_over=start_over,
        repeats=earlier,
    )
    if os.environ.get("RANK", "0") != "0":  # one of several processes, and not the one that writes
        return
    from smallvit.report.page import write_page
    from smallvit.run_folder import as_word

    speed = f" at {record.images_per_second:,.0f} images/s" if record.images_per_second else ""  # of one step, none
    short = "" if config.scale == 1 else f"; {100 * config.scale:g} % of train.epochs, {config.train.epochs}"
    console.print(
        f"test accuracy {percent(record.test)} after {duration(record.train_seconds)} of training{speed}{short}"
    )
    if (mean := record.mean_class_accuracy()) is not None:
        tested, known = record.num_test_classes(), len(record.class_names)
        which = "the classes" if tested == known else f"the {tested} of {known} classes that test has images of"
        console.print(f"its mean over {which}, which are uneven, is {100 * mean:.2f} %")
    try:
        page = write_page(folder)
    except OSError as error:
        how = f"the run is finished; for its page: smallvit report {as_word(folder)}"
        raise SmallvitError(f"{line_of(error)}; {how}") from None
    console.print(f"record  {folder / 'record.json'}\npage    {page}")
