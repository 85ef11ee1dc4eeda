"""The runs of a study: which there are, where each lies, and the records of those that are finished."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from smallvit.config import RunConfig
from smallvit.device.config import DeviceConfig, DeviceUse
from smallvit.errors import UsageError
from smallvit.record import RunRecord
from smallvit.run_folder import CONFIG, RECORD
from smallvit.study.rows import Row, Study


@dataclass(frozen=True, kw_only=True)
class Task:
    """A run of a study."""

    row: Row
    seed: int
    folder: Path
    """Run folder."""
    config: RunConfig
    """What the run is, and where its data lie and how the device is used."""

    def __str__(self) -> str:
        return f"{self.row.label}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """File that holds what the run's processes print."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is done at once for a run: all that is left of it, or a measurement of its pace."""

    task: Task
    does: Literal["run", "pace"]


def _record_path(folder: Path, row: Row, seed: int) -> Path:
    """Return where a study finds the record of a row's run: as `results/runs` has it, or in a run folder."""
    place = folder / row.folder
    flat = place / f"seed{seed}.json"
    return flat if flat.exists() else place / f"seed{seed}" / RECORD


def read_records(study: Study, folder: Path) -> dict[str, list[tuple[Path, RunRecord]]]:
    """Return the records of a study's runs that are in `folder`, and where they lie, by the row's label.

    Raises `UsageError` for a record of another run than the study's.
    """
    records: dict[str, list[tuple[Path, RunRecord]]] = {}
    for row in study.rows:
        paths = [(seed, _record_path(folder, row, seed)) for seed in study.seeds]
        records[row.label] = [(path, _read(study, row, seed, path)) for seed, path in paths if path.exists()]
    return records


def unfinished(study: Study, folder: Path, use: DeviceUse | None = None) -> list[Task]:
    """Return the runs of a study that have no record in `folder`, a seed of every row after the other; `use` says how
    they use the machine.
    """
    tasks: list[Task] = []
    for seed in study.seeds:
        for row in study.rows:
            if _record_path(folder, row, seed).exists():
                continue
            config = row.at(seed)
            device = DeviceConfig(**vars(use or DeviceUse()), precision=config.device.precision)
            place = folder / row.folder / f"seed{seed}"
            tasks.append(Task(row=row, seed=seed, folder=place, config=replace(config, device=device)))
    return tasks


def by_rank(tasks: Sequence[Task]) -> list[Task]:
    """Return the runs by what they tell: by their row's rank, then by seed."""
    return sorted(tasks, key=lambda task: (task.row.rank, task.seed))


def require_own(tasks: Sequence[Task], study: Study) -> None:
    """Raise `UsageError` for the folder of a run that was begun as another one than the study's."""
    for task in tasks:
        path = task.folder / CONFIG
        if path.exists():
            _require_same(study, path, RunConfig.load(path), task.config)


def _read(study: Study, row: Row, seed: int, path: Path) -> RunRecord:
    record = RunRecord.load(path)
    _require_same(study, path, record.run_config(), row.at(seed))
    return record


def _require_same(study: Study, path: Path, config: RunConfig, wanted: RunConfig) -> None:
    different, instead = config.differences(wanted), "name another --out, or delete that folder"
    if not different and not config.data.same_source(wanted.data):
        different = [f"data.root is {config.data.root}, not {wanted.data.root}"]
        instead = f"name another --out; if the same pictures were moved, put a link to them at {config.data.root}"
    if different:
        raise UsageError(f"{path} is of another run than {study.name}'s: {'; '.join(different)}; {instead}")
