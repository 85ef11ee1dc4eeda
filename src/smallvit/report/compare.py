"""Two finished runs, or two configs at the same seeds, side by side: `compare(a, b)`, and its page.

What is said of the difference depends on what is there: of two single runs with their answers to each image, McNemar's
test; of several seeds, the differences seed by seed; of records alone, no more than the numbers.
"""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from smallvit.errors import SmallvitError
from smallvit.files import expanded
from smallvit.record import SOURCE
from smallvit.report.cells import p_is, p_value, signed, written_interval
from smallvit.report.compare_differences import Differing, config_differences, surroundings
from smallvit.report.compare_figures import learning_curves, scaled
from smallvit.report.compare_numbers import (
    MOST_CONFUSIONS,
    Quantity,
    class_changes,
    confusion_changes,
    quantities,
)
from smallvit.report.compare_pairs import Pairs, pair
from smallvit.report.compare_sides import Side, read_sides
from smallvit.report.html import write_html
from smallvit.report.records import too_good
from smallvit.report.stats import LEVEL, Difference, differences

PAGE = "compare.html"
FEW_SEEDS = 4
"""A difference over fewer is shown with a warning."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two sides have to tell about each other; every change is B against A."""

    a: Side
    b: Side
    quantities: list[Quantity]
    """Test accuracy first."""
    fields: list[Differing]
    """Of the config."""
    surroundings: list[Differing]
    pairs: Pairs | None
    unpaired: str
    """Why there are no pairs, where there are none."""
    by_seed: Difference | None
    """Of test accuracy in points, where there are several seeds."""

    @property
    def p(self) -> float | None:
        """The p value of the difference in test accuracy, if there is a test of it."""
        if self.by_seed is not None:
            return self.by_seed.p_holm if self.by_seed.tested else None
        return self.pairs.mcnemar.p if self.pairs else None

    @property
    def untested(self) -> str:
        """Why there is no test of the difference in test accuracy, where there is none."""
        return self.unpaired if self.by_seed is None else "all seeds differ by the same, which tells no scatter"

    @property
    def scaled(self) -> str:
        """What share of their full length the runs took, in words, if not the whole: a mark for every number."""
        return scaled(self.a, self.b)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before any number."""
        found = [self.scaled] if self.scaled else []
        for side in (self.a, self.b):
            if any(run.record.test_read == "along the curve" for run in side.runs):
                found.append(f"{side.name} read test along the curve; compared is its last epoch")
            if any(run.config.fork is not None for run in side.runs):
                found.append(f"{side.name} began with the weights of another run, of which nothing is counted here")
            told = [note for run in side.runs for note in too_good(run.record)]
            found += [f"{side.name}: {note}" for note in dict.fromkeys(told)]
            found += side.notes
        if self.by_seed is not None and self.by_seed.tested and len(self.a.runs) < FEW_SEEDS:
            found.append(
                f"{len(self.a.runs)} seeds hardly show how far seeds scatter, by which their difference is tested "
                "here; a study tests it by the scatter of all its rows"
            )
        if not any(each.decides for each in self.fields):
            sources = {run.record.versions.get(SOURCE) for side in (self.a, self.b) for run in side.runs}
            if len(sources - {None}) > 1:
                found.append(
                    "A and B have the same config, of other sources of smallvit: what differs may be an effect of those"
                )
            else:
                found.append("A and B have the same config: what differs between them is no effect of it")
        elif [each.name for each in self.fields if each.decides] == ["seed"]:
            found.append("A and B differ in nothing but the seed: what differs between them is chance")
        return found


def compare(a: Path | str, b: Path | str) -> Comparison:
    """Return the comparison of what lies at two paths: run folders, record files, or folders of several seeds.

    Raises `SmallvitError` for what is no finished run, was edited, is the same run twice, or has another test set.
    """
    one, other = read_sides(expanded(Path(a), "A"), expanded(Path(b), "B"))
    pairs = pair(one, other)
    points = {
        side.name: {run.config.seed: 100 * run.record.test.accuracy for run in side.runs} for side in (one, other)
    }
    return Comparison(
        a=one,
        b=other,
        quantities=quantities(one, other),
        fields=config_differences(one, other),
        surroundings=surroundings(one, other),
        pairs=pairs if isinstance(pairs, Pairs) else None,
        unpaired=pairs if isinstance(pairs, str) else "",
        by_seed=differences(points, "A").get("B") if len(one.runs) > 1 else None,
    )


def write_comparison(comparison: Comparison, folder: Path | str) -> Path:
    """Write `folder`/compare.html, whole or not at all, and return its path."""
    folder = expanded(Path(folder), "folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmallvitError(f"{folder} cannot be made a folder for the page: {error.strerror}") from None
    a, b = comparison.a, comparison.b
    confusions = confusion_changes(a, b)
    grown = [each for each in confusions if each.change > 0][:MOST_CONFUSIONS]
    shrunk = [each for each in reversed(confusions) if each.change < 0][:MOST_CONFUSIONS]
    classes = class_changes(a, b)
    page = folder / PAGE
    write_html(
        page,
        "compare.html.j2",
        comparison=comparison,
        sides=(a, b),
        several=len(a.runs) > 1,
        level=LEVEL,
        written_interval=written_interval,
        written_p=p_value,
        written_p_is=p_is,
        curves_svg=Markup(learning_curves(a, b)),
        classes=classes,
        widest=max((abs(row.change) for row in classes), default=0) or 1,
        grown=grown,
        shrunk=shrunk,
        signed=signed,
    )
    return page
