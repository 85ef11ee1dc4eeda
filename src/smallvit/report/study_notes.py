"""What there is to know of a study's numbers, in sentences, from its records alone."""

import math
from collections.abc import Callable, Collection, Sequence

from smallvit.record import SOURCE, RunRecord
from smallvit.report.cells import PLUS_MINUS, p_is, signed, written_interval
from smallvit.report.numbers import Line, Numbers, differ, machine
from smallvit.report.records import Run, too_good
from smallvit.report.stats import LEVEL, SeedFit, half_interval

MOST_NAMED = 8
"""Rows that a note names."""
_CONDITIONS: dict[str, Callable[[RunRecord], Sequence[object]]] = {
    "another machine, or number of threads or processes": machine,
    "another precision": lambda record: [record.choices.precision],
    "another attention": lambda record: [record.choices.attention],
    "another convolution": lambda record: [record.choices.convolution],
    "another torch": lambda record: [record.versions.get("torch")],
    "another source of smallvit": lambda record: [record.versions.get(SOURCE, "one from before it was kept")],
    "other training images": lambda record: [record.num_train, record.channel_mean, record.channel_std],
    "other steps left out": lambda record: [record.skipped_steps],
}
"""What makes a run another than its config says; None where its record does not tell."""


def answer(numbers: Numbers) -> str:
    """Return in a sentence or two what the seeds tell of the rows' differences from the reference."""
    reference = numbers.section.study.reference
    differing = {line.label: line.difference for line in numbers.lines if line.difference}
    tested = [each for each in differing.values() if each.tested]
    if not differing:
        return ""
    if not tested:
        base = set(numbers.line(reference).seeds)
        alone = all(len(base.intersection(numbers.line(label).seeds)) < 2 for label in differing)
        why = "that takes several seeds in common" if alone else "all seeds differ by the same, which tells no scatter"
        return f"No difference from {reference} is tested: {why}."
    resolved = {label: each for label, each in differing.items() if each.resolved}
    open_ = [each for each in tested if not each.resolved]
    better = sum(each.mean > 0 for each in resolved.values())
    counts = {
        "better": better,
        "worse": len(resolved) - better,
        "not resolved": len(open_),
        "not tested": len(differing) - len(tested),
    }
    rows = f"{len(differing)} row{'s' if len(differing) > 1 else ''}"
    said = f"{rows} against {reference}: {', '.join(f'{count} {what}' for what, count in counts.items() if count)}."
    if open_:
        widest = max(each.half for each in open_)
        said += f" What is not resolved has intervals of up to ±{widest:.2f} points."
    if better:
        best = max(resolved, key=lambda label: resolved[label].mean)
        interval = written_interval(resolved[best].low, resolved[best].high)
        chosen = f"; the greatest of {len(tested)}, so rather too great" if len(tested) > 1 else ""
        said += f" The greatest gain: {best}, {signed(resolved[best].mean, '.2f')} points ({interval}{chosen})."
    return said


def notes(numbers: Numbers) -> list[str]:
    """Return, in sentences, how the numbers of a section's tables came about and what they leave out."""
    found: list[str] = []
    if not numbers.lines:
        return ["No run is finished."]
    found.append(
        f"Last epoch: test accuracy, mean{PLUS_MINUS}standard deviation over the seeds. It is the number that counts."
    )
    found.append(_best_note(numbers.lines))
    if numbers.any_published:
        found.append(
            "Published: the best point of one run's curve on test; seconds are those of one RTX 3090 (of distributed "
            "rows of several, how many is not said), for the full length. Of our numbers the best of the curve is the "
            "nearest to it, and as much too good."
        )
        for line in numbers.lines:
            if line.published and line.published.doubt:
                found.append(f"Published {line.published.accuracy:.2f} % of {line.label}: {line.published.doubt}.")
    if numbers.any_difference:
        found += _differences_notes(numbers)
    if numbers.not_run:
        rows = len(numbers.not_run)
        found.append(f"Not run: {rows} of {rows + len(numbers.lines)} rows ({_named(numbers.not_run)}).")
    found += _too_good_notes(numbers)
    found.append(f"Run on {'; '.join(numbers.hardware)}. Other work on a machine shows in the seconds.")
    if numbers.any_difference:
        found += [*_other_seeds_note(numbers), *_conditions_note(numbers)]
    return found


def _too_good_notes(numbers: Numbers) -> list[str]:
    """Return what the records say of test or val images that were trained on, and of which rows."""
    labels: dict[str, list[str]] = {}
    for label, runs in numbers.section.done.items():
        for note in dict.fromkeys(note for run in runs for note in too_good(run.record)):
            labels.setdefault(note, []).append(label)
    return [f"Too good, perhaps, {_rows(each)}: {note}." for note, each in labels.items()]


def _other_seeds_note(numbers: Numbers) -> list[str]:
    """Return what to know where rows have other seeds than the reference."""
    reference = numbers.section.study.reference
    seeds = set(numbers.line(reference).seeds)
    if all(set(line.seeds) == seeds for line in numbers.lines):
        return []
    return [
        f"Rows with other seeds than {reference}: their difference is not that of the two means, but of least squares "
        "with an effect of each seed. A seed that only one row has tells nothing of it."
    ]


def _conditions_note(numbers: Numbers) -> list[str]:
    """Return which rows were made under other conditions than the reference: than its run of the same seed or, for a
    seed that it has not, than any of its runs; and how many may have been made by another source.
    """
    reference, of_rows = numbers.section.study.reference, numbers.section.done
    base = {run.config.seed: run.record for run in of_rows[reference]}

    def like(run: Run) -> Collection[RunRecord]:
        return [base[run.config.seed]] if run.config.seed in base else base.values()

    def stands_alone(run: Run, condition: Callable[[RunRecord], Sequence[object]]) -> bool:
        return all(differ(condition(run.record), condition(record)) for record in like(run))

    def may_have_another_source(run: Run) -> bool:
        return SOURCE not in run.record.versions and any(SOURCE not in record.versions for record in like(run))

    rows = {label: runs for label, runs in of_rows.items() if label != reference}
    unknown = [label for label, runs in rows.items() if any(map(may_have_another_source, runs))]
    kept = [f"Source of smallvit not kept, so perhaps another: {_count(unknown)}."] if unknown else []
    found: list[str] = []
    for name, condition in _CONDITIONS.items():
        labels = [label for label, runs in of_rows.items() if any(stands_alone(run, condition) for run in runs)]
        if labels:
            found.append(f"{name}, {_rows(labels)}")
    if not found:
        return kept
    unlike = f"Unlike {reference}'s run of the same seed"
    if any(run.config.seed not in base for runs in of_rows.values() for run in runs):
        unlike += ", or all of its runs where it has not that seed"
    return [f"{unlike}, which counts as the row's own doing: {'; '.join(found)}.", *kept]


def _rows(labels: Sequence[str]) -> str:
    return f"{_count(labels)} ({_named(labels)})"


def _count(labels: Sequence[str]) -> str:
    return f"{len(labels)} row{'s' if len(labels) > 1 else ''}"


def _named(labels: Sequence[str]) -> str:
    more = f"; and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    return f"{'; '.join(labels[:MOST_NAMED])}{more}"


def _best_note(lines: Sequence[Line]) -> str:
    chosen = {line.best_of for line in lines if line.best}
    val = "best of val: the best measurement on val, which chose it; test was not looked at, so it is no test accuracy"
    test = "the best of the points at which test was looked at, picked by test itself: too good, as the paper's are"
    if chosen == {"val"}:
        return f"Best of curve is {val}."
    if chosen == {"test"}:
        return f"Best of curve: {test}."
    return f"Best of curve: {test}; where marked val, {val}." if chosen else "No curve was measured."


def _scatter_note(fit: SeedFit, reference: str) -> list[str]:
    """Return which row's seeds scatter so much more than the others' that one deviation for all rows misleads: of two
    rows the difference has it from its own pairs.
    """
    widest = fit.widest
    if widest is None or widest.p >= LEVEL or len(fit.values) < 3:
        return []
    misleads = (
        "All differences from it are less sure than their intervals say."
        if widest.row == reference
        else "The one deviation then makes its own intervals too narrow and those of the others too wide; a report of "
        "the others' folders leaves it out."
    )
    return [
        f"The seeds of {widest.row} scatter by {widest.deviation:.2f} points, more than those of the other rows do (F "
        f"test, {p_is(widest.p)} by Bonferroni for the rows of these seeds). {misleads}"
    ]


def _differences_notes(numbers: Numbers) -> list[str]:
    fit = numbers.fit
    if not fit.freedom:
        return ["Differences are paired by seed. Without several seeds in common nothing tells how far seeds scatter."]
    degrees = f"{fit.freedom} degree{'s' if fit.freedom > 1 else ''} of freedom"
    reference = numbers.section.study.reference
    error = fit.deviation / math.sqrt(len(numbers.line(reference).seeds))
    found = [
        f"Differences are paired by seed; none is tested. Rows and seeds leave a deviation of {fit.deviation:.2f} "
        f"points ({degrees})."
    ]
    shared = (
        f" All differences from {reference} share its mean, whose standard error is {error:.2f} points: if it is off, "
        "all are."
    )
    if numbers.any_tested or any(pair.difference.tested for pair in numbers.pairs):
        found = [
            "Differences are paired by seed; intervals and p values are Student's t with one deviation of the "
            f"residuals of rows and seeds ({fit.deviation:.2f} points, {degrees}), which takes it to be alike in "
            "all rows. They cover the seeds; the test images are taken as they are."
            f"{shared if numbers.any_tested else ''}",
            "An interval is that of its row alone; p values are corrected by Holm for the rows of the table. Resolved: "
            "p below 5 %, so that an interval may leave out 0 where its row is not resolved.",
            *_scatter_note(fit, reference),
        ]
    if any(line.seeds_needed for line in numbers.lines):
        scatter = half_interval(math.sqrt(2) * fit.deviation, fit.freedom)
        short = ", of runs as short as these" if numbers.section.scale < 1 else ""
        found.append(
            "Seeds to resolve the published difference: of every row, for a power of 80 % at Holm's first step, 5 % / "
            f"{len(numbers.lines) - 1}, whatever the other rows show, with the upper limit of that deviation (80 %, "
            f"one-sided), {fit.planning_deviation:.2f} points{short}. A published difference is one of single "
            "runs, which scatter, too: by our deviation, as far as its degrees of freedom tell it, 95 % of such "
            f"differences, of one seed, lie within {scatter:.1f} points of the truth."
        )
    return found
