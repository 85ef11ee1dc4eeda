"""The command that runs a study."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from smallvit.commands.console import plain_console
from smallvit.errors import SmallvitError


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Run a study's rows, those that are not yet there, and print its table; again to go on."""

    study: Positional[Literal["augmentation"]]
    """Question to answer."""
    out: Path = Path("runs/study")
    """Folder of the runs, one a row and seed; `results/runs` holds those that were published."""
    table_only: bool = False
    """Run nothing, and print the table of the records that are there."""
    data_root: Path | None = None
    """Folder or archive that holds the data set; without it the cache is read, then the Hugging Face hub."""
    num_threads: int | None = None
    """Threads of a CPU; by default as many as torch chooses."""

    def __call__(self) -> None:
        """Run, print the table, and fail if a run did."""
        from smallvit.study.local import read_records, run_study
        from smallvit.study.studies import STUDIES

        study = STUDIES[self.study]()
        console = plain_console()
        failed = [] if self.table_only else run_study(study, self.out, self.data_root, self.num_threads, console)
        from smallvit.report.tables import markdown_table

        print(f"{study.title}. {study.budget}.\n\n{markdown_table(read_records(study, self.out), study.reference)}")
        if failed:
            raise SmallvitError(f"{len(failed)} of the runs failed, the first: {failed[0]}")
