"""The two sides of a comparison: finished runs read from folders or record files, and whether they can be compared.

A side is one run, or several of one config at different seeds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from smallvit.errors import SmallvitError, UsageError
from smallvit.report.records import Run, read_run, require_one_test_set
from smallvit.run_folder import RECORD

_SEED = re.compile(r"seed(\d+)(\.json)?")


@dataclass(frozen=True, kw_only=True)
class Side:
    """Runs of one config, by seed; at least one."""

    name: str
    path: Path
    runs: tuple[Run, ...]
    notes: tuple[str, ...] = ()
    """Which runs were left out, and why."""

    @property
    def first(self) -> Run:
        """The run of the lowest seed."""
        return self.runs[0]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs, ascending."""
        return [run.config.seed for run in self.runs]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of each run, 0 to 1."""
        return [run.record.test.accuracy for run in self.runs]


def read_sides(a: Path, b: Path) -> tuple[Side, Side]:
    """Return what lies at the two paths, as it can be compared: one run each, or the same seeds of both.

    Raises `SmallvitError` if a record cannot be read, if the two are the same, have no seed in common, or have been
    measured on different test images.
    """
    for name, path in (("A", a), ("B", b)):
        if not path.exists():
            raise UsageError(f"{name} is {str(path)!r}: there is no such folder or file")
    if a.resolve() == b.resolve():
        raise UsageError(f"A and B are both {a}: name two different runs")
    sides = _read_side("A", a), _read_side("B", b)
    _require_two(*sides)
    require_one_test_set([run for side in sides for run in side.runs])
    return _paired(*sides)


def val_differs(a: Run, b: Run) -> bool:
    """Whether two runs that share their test images held out different images as val, as far as records can tell; not
    where one of them held out none.
    """
    if a.record.val is None or b.record.val is None:
        return False
    digests = {a.record.val_sha256, b.record.val_sha256}
    if None not in digests and a.config.model.image_size == b.config.model.image_size:
        return len(digests) > 1
    one, other = a.config.data, b.config.data
    return (one.val_fraction, one.split_seed) != (other.val_fraction, other.split_seed)


def _read_side(name: str, path: Path) -> Side:
    if path.is_file() or (path / RECORD).exists():
        return Side(name=name, path=path, runs=(read_run(path),))
    runs: dict[int, Run] = {}
    notes: list[str] = []
    for entry in sorted(path.iterdir(), key=lambda entry: (not entry.is_dir(), entry.name)):
        match = _SEED.fullmatch(entry.name)
        if match is None or entry.is_dir() == bool(match[2]):
            continue
        if entry.is_dir() and not (entry / RECORD).exists():
            notes.append(f"{name}: {entry} holds no finished run and is left out")
        elif int(match[1]) not in runs:  # a run folder comes before a copy of its record
            runs[int(match[1])] = read_run(entry)
    if not runs:
        expected = f"{RECORD}, or runs of several seeds: seed<k>.json, or seed<k>/{RECORD}"
        raise SmallvitError(f"{name} is {path}, which holds no finished run: expected {expected}")
    side = Side(name=name, path=path, runs=tuple(runs[seed] for seed in sorted(runs)), notes=tuple(notes))
    for seed, run in runs.items():
        if run.config.seed != seed:
            raise SmallvitError(
                f"{run.path} is a run of seed {run.config.seed}, not of the seed that it is named after"
            )
        different = run.config.differences(replace(side.first.config, seed=seed))
        if different:
            raise SmallvitError(f"{run.path} and {side.first.path} are no seeds of one config: {'; '.join(different)}")
    return side


def _require_two(a: Side, b: Side) -> None:
    for one in a.runs:
        for other in b.runs:
            if one.record == other.record:
                raise UsageError(f"A and B hold the same record, {one.path} and {other.path}: name two different runs")


def _paired(a: Side, b: Side) -> tuple[Side, Side]:
    """Return the sides as they are if each is one run; otherwise only the seeds that both have."""
    if len(a.runs) == len(b.runs) == 1:
        return a, b
    common = {*a.seeds} & {*b.seeds}
    if not common:
        raise SmallvitError(
            f"A has {written_seeds(a.seeds)} and B {written_seeds(b.seeds)}: none in common to compare seed by seed"
        )
    return _only(a, b, common), _only(b, a, common)


def _only(side: Side, other: Side, common: set[int]) -> Side:
    left_out = [seed for seed in side.seeds if seed not in common]
    notes = [f"{side.name}: {written_seeds(left_out)} left out, which {other.name} has not"] if left_out else []
    kept = tuple(run for run in side.runs if run.config.seed in common)
    return replace(side, runs=kept, notes=(*side.notes, *notes))


def written_seeds(seeds: Sequence[int]) -> str:
    """Return seeds in words: `seeds 0, 1`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
