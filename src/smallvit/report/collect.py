"""Finds the records under some folders and sorts them: a section for each study that they answer, and the rest.

A record belongs to every row, of any study, whose run it is: equal config digests at the record's own scale, whatever
the seed. A study that would only repeat a part of another one's comparisons has no section.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from smallvit.config import RunConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.files import walk
from smallvit.report.records import Run, read_run, require_one_test_set
from smallvit.run_folder import CHECKPOINTS, CONFIG, RECORD
from smallvit.study.rows import Published, Row, Study
from smallvit.study.studies import STUDIES
from smallvit.study.tasks import read_records

_PUBLISHED_FORM = re.compile(r"seed\d+\.json")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A study with the records that are there of its rows."""

    study: Study
    runs: Mapping[str, Sequence[Run]]
    """By the row's label, in the order of seeds; none of a row that was not run."""

    @property
    def scale(self) -> float:
        """Share of their full length that the runs took."""
        return self.study.rows[0].config.scale

    @property
    def name(self) -> str:
        """What its files are called."""
        return self.study.name if self.scale == 1 else f"{self.study.name}-scale-{self.scale:g}"

    @property
    def done(self) -> dict[str, Sequence[Run]]:
        """The rows that have runs."""
        return {label: runs for label, runs in self.runs.items() if runs}

    @property
    def together(self) -> list[Row]:
        """The rows that have parts and runs, as have their parts and the reference."""
        return [
            row
            for row in self.study.rows
            if row.parts and all(self.runs[label] for label in (row.label, self.study.reference, *row.parts))
        ]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The labels of rows that have runs, each with that of another one, with runs, that it is held against."""
        done = self.done
        return [
            (row.label, other) for row in self.study.rows if row.label in done for other in row.against if other in done
        ]

    @property
    def paths(self) -> frozenset[Path]:
        """Where its runs lie."""
        return frozenset(run.path for runs in self.runs.values() for run in runs)

    def published(self) -> dict[str, Published]:
        """Return what the paper reports of the rows, also of those that it reports in another table."""
        known = _published_runs()
        found = {row.label: row.published or known.get(_at_full_length(row.config)) for row in self.study.rows}
        return {label: said for label, said in found.items() if said is not None}


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All runs that were found."""

    sections: list[Section]
    """In the order of `STUDIES`, the longest first; on other data sets than their own last."""
    others: list[list[Run]]
    """Runs that are in no section, those that differ in nothing but the seed together."""
    again: list[tuple[Path, Path]]
    """Runs that are left out, each with the one of the same config and seed that counts."""


def collect(folders: Sequence[Path]) -> Collection:
    """Return the runs under the folders: seed<k>.json, as they are published, and record.json of run folders. Of
    several runs of one config and seed the one that started first counts, whatever it came to.

    Raises `UsageError` for a folder that is not there, `SmallvitError` for none with a record, for a record that cannot
    be read or was edited, and for other images within a study.
    """
    runs, again = _runs(folders)
    if not runs:
        raise SmallvitError(
            f"{', '.join(map(str, folders))}: no finished run there; expected {RECORD} or seed<k>.json somewhere below"
        )
    by_row: dict[tuple[str, float], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.config.seed):
        by_row.setdefault(_row(run.config), []).append(run)
    sections: list[Section] = []
    for study in _studies(runs):
        section = Section(study=study, runs={row.label: by_row.get(_row(row.config), []) for row in study.rows})
        if study.reference in section.done and len(section.done) > 1:
            _require_same_images(section)
            sections.append(section)
    used = {path for section in sections for path in section.paths}
    sections.sort(key=_is_moved)  # a study on its own data set first
    sections = [
        each
        for place, each in enumerate(sections)
        if not any(_repeats(each, other, earlier=index < place) for index, other in enumerate(sections))
    ]
    others = [runs for runs in by_row.values() if runs[0].path not in used]
    others.sort(key=lambda runs: runs[0].config.recipe)
    return Collection(sections=sections, others=[alike for runs in others for alike in _by_pictures(runs)], again=again)


def _is_moved(section: Section) -> bool:
    """Return whether its study is on another data set than its own."""
    return section.study.name not in STUDIES


def _repeats(part: Section, whole: Section, *, earlier: bool) -> bool:
    """Return whether all that a section has to say stands in a greater one: its runs, compared with the same ones, and
    none with its parts or held against another one than there; or, where its study is on another data set than its own,
    in an earlier one.
    """
    if part.together or not _held_against(part) <= _held_against(whole):
        return False
    reference, other = part.runs[part.study.reference], whole.runs[whole.study.reference]
    again = earlier and _is_moved(part) and part.paths == whole.paths
    return reference == other and (part.paths < whole.paths or again)


def _held_against(section: Section) -> set[tuple[Path, Path]]:
    return {(section.runs[one][0].path, section.runs[other][0].path) for one, other in section.pairs}


def section_in(study: Study, folder: Path) -> Section:
    """Return a study with those of its own runs, at its own seeds, that are in the folder where it ran.

    Raises `SmallvitError` for a record of another run than the study's, and for other images within it.
    """
    found = read_records(study, folder)
    runs = {label: [Run(path=path, record=record) for path, record in records] for label, records in found.items()}
    section = Section(study=study, runs=runs)
    _require_same_images(section)
    return section


def _runs(folders: Sequence[Path]) -> tuple[list[Run], list[tuple[Path, Path]]]:
    """Return the runs that count, and those that do not, each with the one that does; copies of a record are one."""
    found: dict[tuple[object, ...], list[Run]] = {}
    for path in _record_paths(folders):
        run = read_run(path)
        found.setdefault((run.record.config_digest, _pictures(run)), []).append(run)
    first = [min(same, key=lambda run: run.record.started) for same in found.values()]
    again = [
        (run.path, one.path)
        for one, same in zip(first, found.values(), strict=True)
        for run in same
        if run.record != one.record
    ]
    return first, again


def _pictures(run: Run) -> tuple[object, ...]:
    """Return what tells one folder of images from another, which a config's digest does not."""
    record = run.record
    own = run.config.data.dataset == "folder"
    return (tuple(record.class_names), record.num_train, record.test_sha256) if own else ()


def _by_pictures(runs: Sequence[Run]) -> list[list[Run]]:
    found: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(_pictures(run), []).append(run)
    return list(found.values())


def _require_same_images(section: Section) -> None:
    require_one_test_set(run for runs in section.runs.values() for run in runs)
    for runs in section.runs.values():
        alike = _by_pictures(runs)
        if len(alike) > 1:
            one, other = alike[0][0].path, alike[1][0].path
            raise SmallvitError(f"{one} and {other} are runs of one row on other pictures: leave one of them out")


def _record_paths(folders: Sequence[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"DIR is {str(folder)!r}: it must be a folder that holds runs")
        paths: list[Path] = []
        for parent, inside, names in walk(folder):
            if CONFIG in names:  # those of a run that is going on come and go
                inside[:] = [name for name in inside if name != CHECKPOINTS]
            paths += [parent / name for name in names if name == RECORD or _PUBLISHED_FORM.fullmatch(name)]
        for path in sorted(paths):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _studies(runs: Sequence[Run]) -> Iterator[Study]:
    """Yield every study at the scales and on the data sets of the runs."""
    scales: defaultdict[str, set[float]] = defaultdict(set)
    for run in runs:
        scales[run.config.data.dataset].add(run.config.scale)
    roots = {run.config.data.dataset: run.config.data.root for run in runs}
    for study in (make() for make in STUDIES.values()):
        for dataset in sorted(roots):
            for scale in sorted(scales[dataset], reverse=True):
                try:
                    yield study.on(dataset, roots[dataset]).scaled(scale)
                except UsageError:  # a scale of another study's runs, at which nothing is left of this one's
                    continue


@cache
def _published_runs() -> dict[str, Published]:
    return {_at_full_length(row.config): row.published for row in STUDIES["paper"]().rows if row.published}


def _row(config: RunConfig) -> tuple[str, float]:
    """Return what the runs of a row have in common, whatever their seeds."""
    return _at_full_length(config), config.scale


def _at_full_length(config: RunConfig) -> str:
    return _digest(replace(config, seed=0, scale=1.0))


@cache
def _digest(config: RunConfig) -> str:
    """Return its digest, worked out once for all scales: it is most of the time that sorting many records takes."""
    return config.digest()
