"""What a study's records come to: a line a row, with the published number beside ours, and the differences."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from smallvit.record import RunRecord
from smallvit.report.collect import Section
from smallvit.report.records import Run
from smallvit.report.stats import Difference, SeedFit, contrasts, differences, seeds_needed
from smallvit.study.rows import Published

_MARKS = re.compile(r"\((R|TM|C)\)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One quantity of a row's runs."""

    values: tuple[float, ...]
    half: float = math.nan
    """Half of the 95 % interval of the mean, over seeds; nan for one seed."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation between the seeds; nan for one."""
        return stdev(self.values) if len(self.values) > 1 else math.nan


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row that was run; accuracies are in percent of the test images, unless they are said to be of val."""

    label: str
    seeds: tuple[int, ...]
    last: Spread
    """At the last epoch."""
    best: Spread | None
    """The best point of each run's curve; None where a curve has no points."""
    best_of: Literal["test", "val"]
    """What the best point was chosen on: test where the run looked at it along the curve, otherwise val."""
    by_class: Spread | None
    """Mean of the classes' accuracies at the last epoch; None where the classes are even in number."""
    published: Published | None
    difference: Difference | None
    """Against the reference at the last epoch, in points; None of the reference itself."""
    published_difference: float | None
    """The same of the published numbers, which are each the best of a curve."""
    seeds_needed: int | None
    """Seeds of every row that would resolve the published difference; None where that cannot be told."""
    seconds: Spread
    """Of training, evaluation left out."""
    num_macs: int
    num_parameters: int
    images_seen: int


@dataclass(frozen=True, kw_only=True)
class Together:
    """What several changes come to in one row, beside the sum of what each does alone, in points."""

    label: str
    parts: tuple[str, ...]
    gain: float
    expected: float
    """Sum of the parts' gains."""
    excess: Difference
    """Of the gain over the sum."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A row held against another one than the reference, in points."""

    label: str
    against: str
    difference: Difference
    """Corrected for all such pairs."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A whole section in numbers."""

    section: Section
    lines: list[Line]
    """The rows that were run, in the study's order."""
    together: list[Together]
    """Of the rows that have parts, those that were run, as were their parts and the reference."""
    pairs: list[Pair]
    """Of the rows that are held against others, those that were run, as were the others."""
    not_run: list[str]
    fit: SeedFit
    """Of the accuracies, in points."""
    hardware: list[str]
    """Every machine, device and number of threads that ran a part of it."""

    @property
    def any_published(self) -> bool:
        """Whether the paper reports any of the rows."""
        return any(line.published for line in self.lines)

    @property
    def any_difference(self) -> bool:
        """Whether the reference was run, and another row."""
        return any(line.difference for line in self.lines)

    @property
    def any_tested(self) -> bool:
        """Whether the seeds tell of any difference how sure it is."""
        return any(line.difference and line.difference.tested for line in self.lines)

    def line(self, label: str) -> Line:
        """Return the line of a row that was run."""
        return next(line for line in self.lines if line.label == label)


def numbers_of(section: Section) -> Numbers:
    """Return the numbers of a section; without its reference there are no differences."""
    done = section.done
    accuracies = {
        label: {run.config.seed: 100 * run.record.test.accuracy for run in runs} for label, runs in done.items()
    }
    fit, found = SeedFit(accuracies), differences(accuracies, section.study.reference)
    published = section.published()
    base = published.get(section.study.reference)
    lines: list[Line] = []
    for label, runs in done.items():
        said = published.get(label)
        gap = said.accuracy - base.accuracy if said and base and label != section.study.reference else None
        best, best_of = _best(runs)
        first = runs[0].record
        lines.append(
            Line(
                label=label,
                seeds=tuple(accuracies[label]),
                last=Spread(values=tuple(accuracies[label].values()), half=fit.half_width(label)),
                best=best,
                best_of=best_of,
                by_class=_by_class(runs),
                published=said,
                difference=found.get(label),
                published_difference=gap,
                seeds_needed=None if gap is None else seeds_needed(gap, fit.planning_deviation, len(done)),
                seconds=Spread(values=tuple(run.record.train_seconds for run in runs)),
                num_macs=first.num_macs,
                num_parameters=first.num_parameters,
                images_seen=first.curve[-1].images_seen,
            )
        )
    return Numbers(
        section=section,
        lines=lines,
        together=_together(section, fit),
        pairs=_pairs(section, fit),
        not_run=[label for label, runs in section.runs.items() if not runs],
        fit=fit,
        hardware=list(dict.fromkeys(hardware(run.record) for runs in done.values() for run in runs)),
    )


def _together(section: Section, fit: SeedFit) -> list[Together]:
    reference = section.study.reference
    rows = section.together
    weights = {
        row.label: {row.label: 1.0, **dict.fromkeys(row.parts, -1.0), reference: len(row.parts) - 1.0} for row in rows
    }
    excess = contrasts(fit, weights)
    found = [
        Together(
            label=row.label,
            parts=row.parts,
            gain=fit.contrast({row.label: 1.0, reference: -1.0})[0],
            expected=fit.contrast(dict.fromkeys(row.parts, 1.0) | {reference: -float(len(row.parts))})[0],
            excess=excess[row.label],
        )
        for row in rows
    ]
    return [each for each in found if not any(map(math.isnan, (each.gain, each.expected, each.excess.mean)))]


def _pairs(section: Section, fit: SeedFit) -> list[Pair]:
    found = contrasts(fit, {(label, other): {label: 1.0, other: -1.0} for label, other in section.pairs})
    return [
        Pair(label=label, against=other, difference=difference)
        for (label, other), difference in found.items()
        if not math.isnan(difference.mean)
    ]


def hardware(record: RunRecord) -> str:
    """Return the machine that made a record, in words: `An Example CPU, 1 of 2 cores`."""
    facts, choices, processes = record.hardware, record.choices, record.world_size
    gpu = facts.get("gpu") if choices.device != "cpu" else None
    cores = f"{min(choices.num_threads, int(facts.get('cores', choices.num_threads)))} of {facts.get('cores', '?')}"
    where = str(gpu) if gpu else f"{_MARKS.sub('', str(facts.get('processor', 'a CPU')))}, {cores} cores"
    return f"{where}, {processes} processes" if processes > 1 else where


def machine(record: RunRecord) -> tuple[object, ...]:
    """Return what tells the machine of a record from others: in words and, where a CPU computed, by its model; None is
    what the record does not tell.
    """
    return hardware(record), record.hardware.get("processor_model") if record.choices.device == "cpu" else None


def differ(one: Sequence[object], other: Sequence[object]) -> bool:
    """Return whether any of the facts on two runs differ; one that is None on either side is not known to."""
    return any(a != b for a, b in zip(one, other, strict=True) if a is not None and b is not None)


def _best(runs: Sequence[Run]) -> tuple[Spread | None, Literal["test", "val"]]:
    best_of = "test" if all(run.record.test_read == "along the curve" for run in runs) else "val"
    curves = [
        [100 * measured.accuracy for point in run.record.curve if (measured := getattr(point, best_of))] for run in runs
    ]
    return (Spread(values=tuple(map(max, curves))) if all(curves) else None), best_of


def _by_class(runs: Sequence[Run]) -> Spread | None:
    means = [mean for run in runs if (mean := run.record.mean_class_accuracy()) is not None]
    return Spread(values=tuple(100 * mean for mean in means)) if len(means) == len(runs) else None
