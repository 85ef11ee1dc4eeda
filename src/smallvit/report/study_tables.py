"""The tables of a study, made from its records alone, and what there is to know of their numbers.

Where runs are scaled, every table says so in its caption and in a column.
"""

import math
from collections.abc import Sequence
from textwrap import fill

from smallvit.console import printable
from smallvit.record import SOURCE
from smallvit.report.cells import (
    NONE,
    PLUS_MINUS,
    large,
    length_cell,
    p_value,
    scaled_notice,
    whole_seconds,
    written_spread,
)
from smallvit.report.collect import Section
from smallvit.report.command import changed_options
from smallvit.report.compare_numbers import signed
from smallvit.report.numbers import Line, Numbers, Spread, hardware
from smallvit.report.records import Run
from smallvit.report.stats import Difference
from smallvit.report.tables import Table, markdown, markdown_note
from smallvit.study.rows import Study

MOST_NAMED = 8
"""Rows that a note names."""


def study_tables(numbers: Numbers) -> list[Table]:
    """Return the tables of a section: its numbers, and, where the reference was run, the differences from it."""
    tables = [_numbers_table(numbers)] if numbers.lines else []
    if any(line.difference for line in numbers.lines):
        tables.append(_differences_table(numbers))
    if numbers.together:
        tables.append(_together_table(numbers))
    return tables


def answer(numbers: Numbers) -> str:
    """Return in a sentence or two what the seeds tell of the rows' differences from the reference."""
    reference = numbers.section.study.reference
    differing = [line for line in numbers.lines if line.difference and not math.isnan(line.difference.mean)]
    tested = [line for line in differing if line.tested]
    if not differing:
        return ""
    if not tested:
        base = set(numbers.line(reference).seeds)
        alone = all(len(base.intersection(line.seeds)) < 2 for line in differing)
        why = "that takes several seeds in common" if alone else "all seeds differ by the same, which tells no scatter"
        return f"No difference from {reference} is tested: {why}."
    resolved = sorted(_mean_difference(line) for line in tested if line.difference and line.difference.resolved)
    better = sum(mean > 0 for mean in resolved)
    counts = {
        "better": better,
        "worse": len(resolved) - better,
        "not resolved": len(tested) - len(resolved),
        "not tested, of one seed": len(differing) - len(tested),
    }
    rows = f"{len(differing)} row{'s' if len(differing) > 1 else ''}"
    said = f"Against {reference}, {rows}: {', '.join(f'{count} {what}' for what, count in counts.items() if count)}."
    if not better:
        return said
    best = max(tested, key=_mean_difference)
    return f"{said} The greatest gain: {best.label}, {signed(_mean_difference(best), '.2f')} points."


def _mean_difference(line: Line) -> float:
    return line.difference.mean if line.difference else 0.0


def notes(numbers: Numbers) -> list[str]:
    """Return, in sentences, how the numbers of a section's tables came about and what they leave out."""
    found: list[str] = []
    if not numbers.lines:
        return ["No run is finished."]
    if numbers.section.scale != 1:
        found.append(f"{scaled_notice(numbers.section.scale)}.")
    found.append(
        f"Last epoch: test accuracy, mean{PLUS_MINUS}standard deviation over the seeds. It is the number that counts."
    )
    found.append(_best_note(numbers.lines))
    if numbers.any_published:
        found.append(
            "Published: the best point of one run's curve on test; seconds are those of an RTX 3090, for the "
            "full length. Of our numbers the best of the curve is the nearest to it, and as much too good."
        )
    if any(line.difference for line in numbers.lines):
        found.append(_differences_note(numbers))
    if numbers.not_run:
        rows = len(numbers.not_run)
        found.append(f"Not run: {rows} of {rows + len(numbers.lines)} rows ({_named(numbers.not_run)}).")
    found.append(f"Run on {'; '.join(numbers.hardware)}. Other work on a machine shows in the seconds.")
    others = _of_other_sources(numbers.section)
    if others:
        found.append(f"Runs of {_named(others)} are of another source of smallvit than the rest; that counts as well.")
    return found


def _of_other_sources(section: Section) -> list[str]:
    """Return the rows with a run of another source of smallvit than the first run that tells its own."""
    sources = {label: [run.record.versions.get(SOURCE) for run in runs] for label, runs in section.done.items()}
    known = [source for of_row in sources.values() for source in of_row if source is not None]
    return [label for label, of_row in sources.items() if {*of_row} - {None, *known[:1]}]


def _named(labels: Sequence[str]) -> str:
    more = f"; and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    return f"{'; '.join(labels[:MOST_NAMED])}{more}"


def others_table(groups: Sequence[Sequence[Run]]) -> Table:
    """Return the table of the runs that belong to no study."""
    rows: list[tuple[str, ...]] = []
    scaled = any(runs[0].config.scale != 1 for runs in groups)
    for runs in groups:
        config, first = runs[0].config, runs[0].record
        accuracies = Spread(values=tuple(100 * run.record.test.accuracy for run in runs))
        rows.append(
            (
                config.recipe,
                changed_options(config) or NONE,
                *([length_cell(config.scale)] if scaled else []),
                config.data.dataset,
                ", ".join(str(run.config.seed) for run in runs),
                written_spread(accuracies),
                whole_seconds(Spread(values=tuple(run.record.train_seconds for run in runs))),
                large(first.num_macs),
                large(first.num_parameters),
                "; ".join(hardware([run.record for run in runs])),
                ", ".join(printable(str(run.path)) for run in runs),
            )
        )
    length = ("length",) if scaled else ()
    return Table(
        name="other-runs",
        caption="Runs that belong to no study here; runs that differ in nothing but the seed share a line"
        + ("; some are scaled, as the column says" if scaled else ""),
        heading=(
            *("recipe", "changed in it", *length, "data", "seeds", "test at the last epoch, %"),
            *("training, s", "MACs of an image", "parameters", "hardware", "where"),
        ),
        rows=rows,
    )


def study_markdown(numbers: Numbers) -> str:
    """Return the tables of a section and what there is to know of them, as markdown."""
    said = f"{fill(answer(numbers), 120, break_on_hyphens=False)}\n\n"
    tables = said + "\n".join(markdown(table) for table in study_tables(numbers))
    return tables.lstrip() + "\n" + "\n".join(map(markdown_note, notes(numbers))) + "\n"


def _caption(study: Study, scale: float, what: str) -> str:
    scaled = "" if scale == 1 else f". {scaled_notice(scale)}"
    return f"{study.title}: {what}{scaled}"


def _numbers_table(numbers: Numbers) -> Table:
    scale, published = numbers.section.scale, numbers.any_published
    rows = [
        (
            line.label,
            *([] if scale == 1 else [length_cell(scale)]),
            str(len(line.seeds)),
            written_spread(line.last),
            _best_cell(line),
            *([_published(line)] if published else []),
            whole_seconds(line.seconds),
            *([_published_seconds(line)] if published else []),
            large(line.num_macs),
            large(line.num_parameters),
        )
        for line in numbers.lines
    ]
    heading = (
        "row",
        *([] if scale == 1 else ["length"]),
        *("seeds", "last epoch, %", "best of curve, %"),
        *(["published, %"] if published else []),
        "training, s",
        *(["published, s"] if published else []),
        *("MACs of an image", "parameters"),
    )
    caption = _caption(numbers.section.study, scale, "test accuracy and cost")
    return Table(name="numbers", caption=caption, heading=heading, rows=rows)


def _differences_table(numbers: Numbers) -> Table:
    scale, reference = numbers.section.scale, numbers.section.study.reference
    published = any(line.published_difference is not None for line in numbers.lines)
    rows: list[tuple[str, ...]] = []
    for line in numbers.lines:
        if line.difference is None:
            continue
        length = [] if scale == 1 else [length_cell(scale)]
        beside = _beside_published(line, line.difference, scale) if published else ()
        rows.append((line.label, *length, *_difference_cells((line.label,), numbers, line.difference), *beside))
    heading = (
        "row",
        *([] if scale == 1 else ["length"]),
        *("difference, points", "95 % interval", "p (Holm)", "verdict"),
        *(("published difference", *_less_published(scale), "seeds to resolve the published") if published else ()),
    )
    caption = _caption(numbers.section.study, scale, f"differences from {reference}, at the last epoch")
    return Table(name="differences", caption=caption, heading=heading, rows=rows)


def _together_table(numbers: Numbers) -> Table:
    scale = numbers.section.scale
    rows = [
        (
            f"{each.label} ({' + '.join(each.parts)})",
            *([] if scale == 1 else [length_cell(scale)]),
            signed(each.gain, ".2f"),
            signed(each.expected, ".2f"),
            *_difference_cells((each.label, *each.parts), numbers, each.excess),
        )
        for each in numbers.together
    ]
    heading = (
        "row (its parts)",
        *([] if scale == 1 else ["length"]),
        *("gain, points", "sum of parts", "gain less sum", "95 % interval", "p (Holm)", "verdict"),
    )
    what = f"changes together, beside the sum of what each does alone to {numbers.section.study.reference}"
    return Table(name="together", caption=_caption(numbers.section.study, scale, what), heading=heading, rows=rows)


def _difference_cells(labels: Sequence[str], numbers: Numbers, difference: Difference) -> tuple[str, ...]:
    if math.isnan(difference.mean):
        return NONE, "no seed in common", NONE, "not tested"
    mean = signed(difference.mean, ".2f")
    if math.isnan(difference.low):
        seeds = (set(numbers.line(label).seeds) for label in (*labels, numbers.section.study.reference))
        single = len(set.intersection(*seeds)) == 1
        return mean, "one seed in common" if single else "no interval", NONE, "not tested"
    interval = f"{signed(difference.low, '.2f')} to {signed(difference.high, '.2f')}"
    return mean, interval, p_value(difference.p_holm), "resolved" if difference.resolved else "not resolved"


def _less_published(scale: float) -> tuple[str, ...]:
    """Return the heading of a column that only runs of the published length have."""
    return ("ours less published",) if scale == 1 else ()


def _beside_published(line: Line, difference: Difference, scale: float) -> tuple[str, ...]:
    gap, less = line.published_difference, _less_published(scale)
    if gap is None:
        return NONE, *(NONE for _ in less), NONE
    ours_less = NONE if math.isnan(difference.mean) else signed(difference.mean - gap, ".2f")
    return signed(gap, ".2f"), *(ours_less for _ in less), f"{line.seeds_needed:,}" if line.seeds_needed else NONE


def _best_note(lines: Sequence[Line]) -> str:
    chosen = {line.best_of for line in lines if line.best}
    val = "best of val: the best measurement on val, which chose it; test was not looked at, so it is no test accuracy"
    test = "the best of the points at which test was looked at, picked by test itself: too good, as the paper's are"
    if chosen == {"val"}:
        return f"Best of curve is {val}."
    if chosen == {"test"}:
        return f"Best of curve: {test}."
    return f"Best of curve: {test}; where marked val, {val}." if chosen else "No curve was measured."


def _differences_note(numbers: Numbers) -> str:
    if not numbers.freedom:
        return (
            "Differences are paired by seed. With one seed in common nothing tells how far seeds scatter: no intervals."
        )
    degrees = f"{numbers.freedom} degree{'s' if numbers.freedom > 1 else ''} of freedom"
    values = f"{numbers.deviation:.2f} points, {degrees}"
    short = ", of runs as short as these" if numbers.section.scale < 1 else ""
    needed = (
        " Seeds to resolve the published difference: of every row, for a power of 80 % at Holm's first step, 5 % / "
        f"{len(numbers.lines) - 1}, whatever the other rows show, with the upper limit of that deviation (80 %, "
        f"one-sided), {numbers.planning_deviation:.2f} points{short}."
        if any(line.seeds_needed for line in numbers.lines)
        else ""
    )
    return (
        "Differences are paired by seed; intervals and p values are Student's t with one deviation of the residuals of "
        f"rows and seeds ({values}), which takes it to be alike in all rows. An interval is that of its row alone; p "
        "values are corrected by Holm for the rows of the table. Resolved: p below 5 %, so that an interval may leave "
        f"out 0 where its row is not resolved. Not resolved is a result, too.{needed}"
    )


def _best_cell(line: Line) -> str:
    if line.best is None:
        return NONE
    text = written_spread(line.best)
    return text if line.best_of == "test" else f"val {text}"


def _published(line: Line) -> str:
    return f"{line.published.accuracy:.2f}" if line.published else NONE


def _published_seconds(line: Line) -> str:
    return f"{line.published.seconds:,.0f}" if line.published and line.published.seconds else NONE
