"""The report of all records found: `write_report(folders, out)` makes tables, figures, and one page of everything.

The page is one file that refers to nothing outside itself; tables and figures stand beside it as files, too.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from smallvit.console import first_few
from smallvit.data.config import DATASETS
from smallvit.errors import SmallvitError, UsageError
from smallvit.files import ABANDONED_SECONDS, expanded, leftover_of, remove_leftovers, write_atomically
from smallvit.report.cells import length_cell, length_of, scaled_notice
from smallvit.report.collect import Section, collect
from smallvit.report.html import require_ours, write_html
from smallvit.report.numbers import Numbers, numbers_of
from smallvit.report.records import Run, too_good
from smallvit.report.study_figures import drawings
from smallvit.report.study_notes import answer, notes
from smallvit.report.study_tables import others_table, study_tables
from smallvit.report.svg import Drawing, save_figure
from smallvit.report.tables import Table, latex, markdown
from smallvit.run_folder import CONFIG
from smallvit.study.studies import STUDIES

PAGE, TABLES, FIGURES = "index.html", "tables", "figures"
NAMES = {
    TABLES: ("numbers", "differences", "together", "pairs"),
    FIGURES: (
        *("accuracy", "differences", "together", "stack", "latent-width", "cls-tokens", "flops", "seconds"),
        *("curves", "confusion"),
    ),
}
"""What the files of a section are called, after its name."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section as the page shows it."""

    section: Section
    answer: str
    """What its seeds tell, in a sentence; empty where nothing differs."""
    tables: list[Table]
    notes: list[str]
    plots: list[tuple[Drawing, Markup]]
    runs: list[tuple[str, Run]]
    """Of all rows, each with its row's label."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The files that were written."""

    page: Path
    tables: list[Path]
    figures: list[Path]
    notes: list[str]
    """What it leaves out, and what is not its own."""


def write_report(folders: Sequence[Path | str], out: Path | str) -> Report:
    """Write the report of the records under `folders` to the folder `out`, made if need be.

    Raises the errors of `smallvit.report.collect.collect`, and `UsageError` for a run's folder, before anything is
    written.
    """
    out = expanded(Path(out), "out")
    page = out / PAGE
    if (out / CONFIG).exists():
        raise UsageError(f"{out} is a run's own folder, whose page a report would replace: name another with --out")
    require_ours(page)
    collection = collect([expanded(Path(folder), "folder") for folder in folders])
    numbers = [numbers_of(section) for section in collection.sections]
    for folder in (out / TABLES, out / FIGURES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SmallvitError(f"{folder} cannot be made a folder for the report: {error.strerror}") from None
    figures: list[Path] = []
    parts = [_part(each, out, figures) for each in numbers]
    others = others_table(collection.others) if collection.others else None
    named = [(f"{part.section.name}-{table.name}", table) for part in parts for table in part.tables]
    tables = [
        path
        for name, table in [*named, *([(others.name, others)] if others else [])]
        for path in _write_table(out / TABLES / name, table)
    ]
    left_out = [
        f"{run} is left out: {counted}, of the same config and seed, started before it"
        for run, counted in collection.again
    ]
    runs = [run for part in parts for _, run in part.runs]
    other_runs = [run for group in collection.others for run in group]
    write_html(
        page,
        "study.html.j2",
        parts=parts,
        others=others,
        other_runs=[(run.config.recipe, run) for run in other_runs],
        others_too_good=[(run, note) for run in other_runs for note in too_good(run.record)],
        num_runs=len({run.path for run in [*runs, *other_runs]}),
        scaled=sorted(
            {part.section.scale for part in parts if part.section.scale != 1}
            | {group[0].config.scale for group in collection.others if group[0].config.scale != 1}
        ),
        length_of=length_of,
        scaled_notice=scaled_notice,
        length_cell=length_cell,
        left_out=left_out,
    )
    if foreign := _remove_earlier(out, {*tables, *figures}):
        left_out.append(f"{first_few(foreign)} are not of this report, and stay")
    return Report(page=page, tables=tables, figures=figures, notes=left_out)


def _part(numbers: Numbers, out: Path, figures: list[Path]) -> Part:
    """Return a section as the page shows it; its figures are written to files, and their paths added to `figures`."""
    section, plots = numbers.section, list[tuple[Drawing, Markup]]()
    for drawing in drawings(numbers):
        name = f"{section.name}-{drawing.name}"
        svg, paths = save_figure(drawing, name.replace(".", "-"), out / FIGURES / name)
        figures += paths
        plots.append((drawing, Markup(svg)))
    return Part(
        section=section,
        answer=answer(numbers),
        tables=study_tables(numbers),
        notes=notes(numbers),
        plots=plots,
        runs=[(label, run) for label, runs in section.runs.items() for run in runs],
    )


def _write_table(stem: Path, table: Table) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.tex")]
    write_atomically(paths[0], markdown(table))
    write_atomically(paths[1], latex(table))
    return paths


def _remove_earlier(out: Path, written: Collection[Path]) -> list[str]:
    """Delete the tables and figures of an earlier report that this one has not, by their names; return what else is
    there, such as those of a study that this command does not know.
    """
    foreign: list[str] = []
    studies, datasets = "|".join(map(re.escape, STUDIES)), "|".join(DATASETS)
    for folder, names in NAMES.items():
        section = rf"({studies})(-({datasets}))?(-scale-[\d.e-]+)?-({'|'.join(names)})"
        ours = re.compile(rf"({section}|other-runs)\.(md|tex|svg|png|pdf)")
        for path in sorted({*(out / folder).iterdir()} - {*written}):
            name = leftover_of(path) or path.name
            if not ours.fullmatch(name):
                foreign.append(str(path))
            elif name != path.name:  # perhaps another report into this folder is writing it now
                remove_leftovers(out / folder / name, ABANDONED_SECONDS)
            else:
                path.unlink(missing_ok=True)
    return foreign
