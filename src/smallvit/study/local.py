"""Runs a study on this machine, one run after another: finished ones are kept, interrupted ones go on."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from smallvit.errors import SmallvitError
from smallvit.record import RunRecord
from smallvit.run import run
from smallvit.stop import InterruptedRunError
from smallvit.study.rows import Row, Study


def record_path(folder: Path, row: Row, seed: int) -> Path:
    """Return where a study finds the record of a row's run: as `results/runs` has it, or in a run folder."""
    place = folder / row.config.recipe
    flat = place / f"seed{seed}.json"
    return flat if flat.exists() else place / f"seed{seed}" / "record.json"


def read_records(study: Study, folder: Path) -> dict[str, list[RunRecord]]:
    """Return the records of a study's runs that are in `folder`, by the row's label.

    Raises `SmallvitError` for a record of another run than the study's.
    """
    records: dict[str, list[RunRecord]] = {}
    for row in study.rows:
        paths = [(seed, record_path(folder, row, seed)) for seed in study.seeds]
        records[row.label] = [_read(study, row, seed, path) for seed, path in paths if path.exists()]
    return records


def run_study(
    study: Study, folder: Path, data_root: Path | None, num_threads: int | None, console: Console
) -> list[str]:
    """Run what is not yet in `folder`, a seed of every row at a time, and return what failed, a line each.

    A record that is there but is another run's is refused before anything runs.
    """
    read_records(study, folder)
    failed: list[str] = []
    todo = [(row, seed) for seed in study.seeds for row in study.rows if not record_path(folder, row, seed).exists()]
    for number, (row, seed) in enumerate(todo, start=1):
        config = row.at(seed)
        config = replace(
            config,
            data=replace(config.data, root=data_root),
            device=replace(config.device, num_threads=num_threads),
        )
        console.print(f"{study.name} {number}/{len(todo)}: {row.label}, seed {seed}", highlight=False)
        try:
            run(config, folder / row.config.recipe / f"seed{seed}", console=console)
        except InterruptedRunError:
            raise
        except SmallvitError as error:
            failed.append(f"{row.label}, seed {seed}: {error}")
            console.print(failed[-1], highlight=False)
    return failed


def _read(study: Study, row: Row, seed: int, path: Path) -> RunRecord:
    record, wanted = RunRecord.load(path), row.at(seed)
    if record.config_digest != wanted.digest():
        different = "; ".join(record.run_config().differences(wanted)) or "its digest"
        raise SmallvitError(f"{path} is the record of another run than {study.name}'s: {different}")
    return record
