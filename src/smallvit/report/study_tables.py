"""The tables of a study, made from its records alone.

Where runs are scaled, every table says so in its caption and in a column.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from smallvit.config import RunConfig
from smallvit.console import printable
from smallvit.report.cells import (
    NONE,
    large,
    length_cell,
    p_value,
    scaled_notice,
    signed,
    whole_seconds,
    written_interval,
    written_spread,
)
from smallvit.report.collect import Section
from smallvit.report.command import changed_options
from smallvit.report.numbers import Line, Numbers, Spread, hardware
from smallvit.report.records import Run
from smallvit.report.stats import Difference
from smallvit.report.study_notes import answer, notes
from smallvit.report.tables import Table, markdown, markdown_lines, markdown_note


def study_tables(numbers: Numbers) -> list[Table]:
    """Return the tables of a section: its numbers, and, where the reference was run, the differences from it; then of
    what changes come to together, and of rows against others than the reference.
    """
    tables = [_numbers_table(numbers)] if numbers.lines else []
    if numbers.any_difference:
        tables.append(_differences_table(numbers))
    if numbers.together:
        tables.append(_together_table(numbers))
    if numbers.pairs:
        tables.append(_pairs_table(numbers))
    return [_told(table, numbers.section) for table in tables]


def _told(table: Table, section: Section) -> Table:
    """Return a table with its study's title and, where runs are scaled, their length in its caption and a column."""
    scale, caption = section.scale, f"{section.study.title}: {table.caption}"
    if scale == 1:
        return replace(table, caption=caption)
    return replace(
        table,
        caption=f"{caption}. {scaled_notice(scale)}",
        heading=(table.heading[0], "length", *table.heading[1:]),
        rows=[(label, length_cell(scale), *cells) for label, *cells in table.rows],
    )


def _data_name(config: RunConfig) -> str:
    """Return a data set's name, with that of the folder where pictures are one's own."""
    root = config.data.root
    return config.data.dataset if root is None or config.data.dataset != "folder" else f"folder {printable(root.name)}"


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
                _data_name(config),
                ", ".join(str(run.config.seed) for run in runs),
                written_spread(accuracies),
                whole_seconds(Spread(values=tuple(run.record.train_seconds for run in runs))),
                large(first.num_macs),
                large(first.num_parameters),
                "; ".join(dict.fromkeys(hardware(run.record) for run in runs)),
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
    said = f"{markdown_lines(answer(numbers), 120)}\n\n"
    tables = said + "\n".join(markdown(table) for table in study_tables(numbers))
    return tables.lstrip() + "\n" + "\n".join(map(markdown_note, notes(numbers))) + "\n"


def _numbers_table(numbers: Numbers) -> Table:
    published, uneven = numbers.any_published, any(line.by_class for line in numbers.lines)
    rows = [
        (
            line.label,
            str(len(line.seeds)),
            written_spread(line.last),
            *([written_spread(line.by_class) if line.by_class else NONE] if uneven else []),
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
        *("seeds", "last epoch, %"),
        *(["mean of the classes, %"] if uneven else []),
        "best of curve, %",
        *(["published, %"] if published else []),
        "training, s",
        *(["published, s"] if published else []),
        *("MACs of an image", "parameters"),
    )
    return Table(name="numbers", caption="test accuracy and cost", heading=heading, rows=rows)


def _differences_table(numbers: Numbers) -> Table:
    scale, reference = numbers.section.scale, numbers.section.study.reference
    published = any(line.published_difference is not None for line in numbers.lines)
    rows: list[tuple[str, ...]] = []
    for line in numbers.lines:
        if line.difference is None:
            continue
        beside = _beside_published(line, line.difference, scale) if published else ()
        rows.append((line.label, *_difference_cells((line.label, reference), numbers, line.difference), *beside))
    heading = (
        "row",
        *("difference, points", "95 % interval", "p (Holm)", "verdict"),
        *(["published difference"] if published else []),
        *(["ours less published"] if published and scale == 1 else []),
        *(["seeds to resolve the published"] if published else []),
    )
    caption = f"differences from {reference}, at the last epoch"
    return Table(name="differences", caption=caption, heading=heading, rows=rows)


def _together_table(numbers: Numbers) -> Table:
    reference = numbers.section.study.reference
    rows = [
        (
            f"{each.label} ({' + '.join(each.parts)})",
            signed(each.gain, ".2f"),
            signed(each.expected, ".2f"),
            *_difference_cells((each.label, *each.parts, reference), numbers, each.excess),
        )
        for each in numbers.together
    ]
    heading = (
        "row (its parts)",
        *("gain, points", "sum of parts", "gain less sum", "95 % interval", "p (Holm)", "verdict"),
    )
    what = f"changes together, beside the sum of what each does alone to {reference}"
    return Table(name="together", caption=what, heading=heading, rows=rows)


def _pairs_table(numbers: Numbers) -> Table:
    rows = [
        (each.label, each.against, *_difference_cells((each.label, each.against), numbers, each.difference))
        for each in numbers.pairs
    ]
    heading = ("row", "against", *("difference, points", "95 % interval", "p (Holm)", "verdict"))
    return Table(name="pairs", caption="rows against other rows than the reference", heading=heading, rows=rows)


def _difference_cells(labels: Sequence[str], numbers: Numbers, difference: Difference) -> tuple[str, ...]:
    if math.isnan(difference.mean):
        return NONE, "no seed in common", NONE, "not tested"
    mean = signed(difference.mean, ".2f")
    if math.isnan(difference.low):
        single = len(set.intersection(*(set(numbers.line(label).seeds) for label in labels))) == 1
        return mean, "one seed in common" if single else "no interval", NONE, "not tested"
    interval = written_interval(difference.low, difference.high)
    return mean, interval, p_value(difference.p_holm), "resolved" if difference.resolved else "not resolved"


def _beside_published(line: Line, difference: Difference, scale: float) -> tuple[str, ...]:
    gap = line.published_difference
    less = NONE if gap is None or math.isnan(difference.mean) else signed(difference.mean - gap, ".2f")
    written = NONE if gap is None else signed(gap, ".2f")
    return written, *([less] if scale == 1 else []), _about(line.seeds_needed)


def _about(seeds: int | None) -> str:
    """Return a number of seeds to two digits: there is no more in it."""
    return NONE if seeds is None else f"{float(f'{seeds:.2g}'):,.0f}"


def _best_cell(line: Line) -> str:
    if line.best is None:
        return NONE
    text = written_spread(line.best)
    return text if line.best_of == "test" else f"val {text}"


def _published(line: Line) -> str:
    return f"{line.published.accuracy:.2f}" if line.published else NONE


def _published_seconds(line: Line) -> str:
    return f"{line.published.seconds:,.0f}" if line.published and line.published.seconds else NONE
