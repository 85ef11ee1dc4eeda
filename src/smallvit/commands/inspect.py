"""The commands that look: at augmentation, at a finished run, at the recipes, at speed."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from smallvit.checks import require, require_number, require_whole
from smallvit.commands.options import DataPlace, file_to_write
from smallvit.config import RunConfig
from smallvit.console import plain_console, set_stdout
from smallvit.errors import UsageError
from smallvit.recipes import RECIPES

if TYPE_CHECKING:
    from smallvit.evaluate import Metrics
    from smallvit.measured import Measured
    from smallvit.record import RunRecord

SURE = (0.5, 0.8, 0.95)
"""Probabilities at which to tell how many answers are at least as sure, and right."""
FEW_TO_CALIBRATE = 1000
"""Under so many the calibration error says mostly how few they are."""
OF_FEW_IMAGES = (
    "even true probabilities have some 5 % on 400 images and some 14 % on 60, a quarter where 98 % are right"
)
ROUNDING = 0.005
"""Share of a split's images that may be right on one machine and wrong on another."""


@dataclass(frozen=True, kw_only=True)
class ShowAugment:
    """Write a picture of a recipe's augmentation: training images, several draws of each, and their soft labels."""

    config: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    out: Path = Path("augment.png")
    """File to write: .png, .svg or .pdf."""

    def __call__(self) -> None:
        """Write the picture and say where."""
        self.config.data.require_beside("--out", file_to_write("--out", self.out).parent)
        from smallvit.preview import show_augment

        console = plain_console()
        for note in show_augment(self.config, self.out):
            console.print(f"note: {note}")
        console.print(self.out)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a finished run's weights again, or on other labelled pictures."""

    folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a finished run."""
    pictures: Annotated[Positional[Path | None], arg(metavar="[PICTURES]")] = None
    """Folder of other pictures to measure on, one folder a class. Exact copies of pictures of one's own that the run
    was trained on are left out."""
    split: Literal["train", "val", "test"] = "test"
    """Images of the run's own data set to measure on."""
    weights: Literal["last", "best"] = "last"
    """Those of the last epoch, or those that were best on val, where `--checkpoint.best` kept them."""
    out: Path | None = None
    """File for each image's class and the run's answer, as CSV."""
    data: DataPlace = field(default_factory=DataPlace)
    """Where the data set lies, if no longer where the run found it."""

    def __call__(self) -> None:
        """Print the metrics, write the answers."""
        own = {"--split": None if self.split == "test" else self.split, "--data.root": self.data.root}
        for option, value in own.items() if self.pictures is not None else ():
            allowed = f"it is of the run's own data set, and has no place beside {self.pictures}"
            require(value is None, option, str(value), allowed)
        place = _csv_to_write(self.out)
        from smallvit.progress import percent
        from smallvit.report.stats import wilson_interval

        found = self._found()
        for note in found.notes:
            print(f"note: {note}")
        metrics, config = found.metrics(), found.record.run_config()
        what = f"{self.split} accuracy" if self.pictures is None else "accuracy"
        length = f", of a run of {100 * config.scale:g} % of train.epochs, {config.train.epochs}"
        print(f"{what} {percent(metrics)}{'' if config.scale == 1 else length}")
        low, high = wilson_interval(metrics.correct, metrics.count)
        print(f"by the draw of the images {100 * low:.2f} to {100 * high:.2f} % (95 % interval)")
        if self.pictures is None:
            self._compare_with_the_record(metrics, found.record)
        if (mean := found.mean_class_accuracy()) is not None:
            print(f"mean of the classes' accuracies {100 * mean:.2f} %")
        print(f"negative log likelihood {metrics.negative_log_likelihood:.4f} nats")
        few = "" if metrics.count >= FEW_TO_CALIBRATE else f" ({OF_FEW_IMAGES})"
        print(f"expected calibration error {100 * metrics.calibration_error:.2f} %{few}")
        if (calibrated := found.calibrated()) is not None:
            nats, error = calibrated.negative_log_likelihood, calibrated.calibration_error
            of = ", of classes that are all as frequent" if config.train.logit_adjustment else ""
            print(f"with the temperature fitted on val, as in predict{of}: {nats:.4f} nats, {100 * error:.2f} %")
        for least in SURE:
            count, right = found.sure(least)
            of_these = f", {100 * right / count:.2f} % of them right ({right:,} of {count:,})" if count else ""
            share = f"{100 * count / metrics.count:.2f} % of the answers"
            print(f"with a probability of at least {least}: {share}{of_these}")
        if place is not None:
            rows = ((*words, f"{probability:.4f}") for *words, probability in found.answers())
            _write_csv(place, ("file", "class", "answer", "probability"), rows)

    def _found(self) -> "Measured":
        from smallvit import measured

        if self.pictures is not None:
            return measured.evaluate_labelled(self.folder, self.pictures, weights=self.weights)
        return measured.evaluate(self.folder, self.split, self.data.root, weights=self.weights)

    def _compare_with_the_record(self, metrics: "Metrics", record: "RunRecord") -> None:
        from smallvit.progress import percent
        from smallvit.record import SOURCE, versions

        kept = {"train": None, "val": record.val, "test": record.test}[self.split]
        if self.weights == "last" and kept is not None and kept.correct != metrics.correct:
            same = record.versions.get(SOURCE) in (None, versions()[SOURCE])
            why = "another machine or version rounds otherwise" if same else "smallvit's source has changed since"
            if same and abs(kept.correct - metrics.correct) > max(2.0, ROUNDING * metrics.count):
                why = f"more than another machine or version rounds; is {self.folder}/model.safetensors that run's?"
            print(f"note: its record has {percent(kept)}: {why}")


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Say what is on pictures, with a finished run's weights: lines of file, class and probability, as CSV."""

    folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a finished run."""
    pictures: Annotated[Positional[tuple[Path, ...]], arg(metavar="PICTURE...", help_behavior_hint="(required)")]
    """Image files, and folders of them at any depth."""
    top: int = 1
    """Classes of each picture, the likeliest first."""
    weights: Literal["last", "best"] = "last"
    """Those of the last epoch, or those that were best on val, where `--checkpoint.best` kept them; of these the
    probabilities are the plain softmax."""
    out: Path | None = None
    """File to write to instead of standard output."""

    def __call__(self) -> None:
        """Write the lines."""
        if not self.pictures:
            raise UsageError("predict needs pictures: image files, or folders of them")
        place = _csv_to_write(self.out)
        from smallvit.classify import classify

        rows = classify(self.folder, self.pictures, top=self.top, weights=self.weights)
        lines = ((str(row.path), row.class_name, f"{row.probability:.4f}") for row in rows)
        _write_csv(place, ("file", "class", "probability"), lines)


def _csv_to_write(out: Path | None) -> Path | None:
    """Return where the file of `--out` will lie, if there is to be one."""
    if out is None:
        return None
    place = file_to_write("--out", out)
    from smallvit.data.listing import is_image

    require(not is_image(place), "--out", str(out), "lines of CSV are written, so it must not end as a picture")
    return place


def _write_csv(place: Path | None, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Write lines to a file, or to standard output; a file's name as its bytes are, UTF-8 or not."""
    import csv
    import sys

    from smallvit.files import replacing

    set_stdout("surrogateescape", encoding="utf-8")
    with contextlib.ExitStack() as stack:
        file = sys.stdout
        if place is not None:
            new = stack.enter_context(replacing(place))
            file = stack.enter_context(new.open("w", encoding="utf-8", errors="surrogateescape", newline=""))
        plain, quoted = (
            csv.writer(file, lineterminator="\n", quoting=quoting) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
        for row in (header, *rows):  # the writer takes a carriage return for no end of a line, as its readers do
            (quoted if "\r" in "".join(row) else plain).writerow(row)


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes with their size, arithmetic and estimated time on this machine."""

    def __call__(self) -> None:
        """Print the table."""
        from smallvit.bench.cost import show_recipes

        show_recipes(RECIPES, plain_console())


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure how fast a recipe trains on this machine, on random images; without a recipe, baseline."""

    config: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    json: Path | None = None
    """File to write the record to."""
    against: str = ""
    """Others' models of the same shape under the same step, with commas between: timm, vit-pytorch."""
    sweep: float | None = None
    """Seconds for the step at other widths, patches and batches as well, after which no further one begins."""
    turns: int = 5
    """Times that everything is measured, in turns; the median counts."""

    def __call__(self) -> None:
        """Measure, print the table, write the record."""
        require_whole("--turns", self.turns, 1)
        if self.sweep is not None:
            require_number("--sweep", self.sweep, least=0)
        place = None if self.json is None else file_to_write("--json", self.json)
        from smallvit.bench.measure import measure_recipe
        from smallvit.bench.peers import parse_peers
        from smallvit.bench.table import bench_table

        console = plain_console()
        record = measure_recipe(
            self.config,
            turns=self.turns,
            against=parse_peers(self.against, self.config),
            sweep_seconds=self.sweep,
            say=console.print,
        )
        console.print(bench_table(record))
        if place is not None:
            record.save(place)
            console.print(f"record {self.json}")
