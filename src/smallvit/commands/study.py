"""The command that runs a study."""

import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from smallvit.checks import require, require_known, require_whole
from smallvit.commands.options import SlurmUse, StudyData
from smallvit.console import plain_console
from smallvit.device.config import DeviceUse
from smallvit.errors import SmallvitError, UsageError
from smallvit.study.rows import Study, checked
from smallvit.study.select import choose_rows, parse_budget, parse_seeds
from smallvit.study.studies import STUDIES

if TYPE_CHECKING:
    from rich.console import Console

    from smallvit.study.engines.engine import Engine


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Run a study's rows that are not yet there, print its table, make the report; the same command again goes on."""

    study: Annotated[Positional[str], arg(metavar="STUDY", help=f"Question to answer: {', '.join(STUDIES)}.")]
    out: Path = Path("runs/study")
    """Folder of the runs, one a row and seed, and of the report; `results/runs` holds those that were published."""
    scale: float = 1.0
    """How much of its full length each run takes, more than 1 for longer ones; what comes of it is marked as scaled."""
    seeds: str | None = None
    """How many seeds (3: 0, 1 and 2), or which, with commas (`0,2`; `3,` is seed 3 alone); by default the study's."""
    rows: str | None = None
    """Rows to run, by label or folder, with commas between; by default all."""
    budget: str | None = None
    """Time to spend, such as 90s, 25m or 2h: the most telling runs that fit; exit status 75 if some are left, 1 if none
    fits."""
    engine: Literal["local", "ray", "slurm"] = "local"
    """Where runs take place: on this machine, as tasks of a ray cluster, or as jobs of a Slurm cluster."""
    jobs: int | None = None
    """Runs at once; by default one, or one a GPU; elsewhere as many as there is room for."""
    address: str | None = None
    """HOST:PORT of the ray cluster to join, or auto; without it ray is started on this machine."""
    table_only: bool = False
    """Run nothing, and print the table of the records that are there."""
    data: StudyData = field(default_factory=StudyData)
    """What to train on, and where it lies."""
    device: DeviceUse = field(default_factory=DeviceUse)
    """How to use the machine."""
    slurm: SlurmUse = field(default_factory=SlurmUse)
    """What is asked of Slurm for each run."""

    def __call__(self) -> None:
        """Run, print the table, and fail if a run did; else make the report."""
        require_known("study", self.study, STUDIES)
        study = checked(STUDIES[self.study]())
        if self.seeds is not None:
            study = replace(study, seeds=parse_seeds(self.seeds))
        if self.data != StudyData():
            study = checked(study.on(self.data.dataset, self.data.root))
        if self.scale != 1:
            study = study.scaled(self.scale)
        chosen = study if self.rows is None else choose_rows(study, self.rows)
        budget = None if self.budget is None else parse_budget(self.budget)
        if self.table_only:
            if self.rows is not None or self.budget is not None:
                raise UsageError("--table-only runs nothing and prints all rows: leave out --rows and --budget")
            _print_table(study, self.out, plain_console())
        else:
            self._run(study, chosen, budget)

    def _run(self, study: Study, chosen: Study, budget: float | None) -> None:
        began = time.monotonic()
        from smallvit.report.collect import section_in
        from smallvit.stop import InterruptedRunError
        from smallvit.study.execute import run_study

        with closing(self._engine()) as engine:
            section_in(study, self.out)  # what no table can be made of is refused before anything runs
            if budget is not None:  # to import torch and to reach a cluster takes a part of it
                budget = max(0.0, budget - (time.monotonic() - began))
            console = plain_console(unread=True)
            ending = run_study(chosen, self.out, engine, console, use=self.device, budget_seconds=budget)
        try:
            _print_table(study, self.out, console)
        except SmallvitError:
            if not ending.failed and not ending.left:  # else perhaps for what a failed run left, and that is told below
                raise
        failed = f"{len(ending.failed)} of the runs failed, the first: {ending.failed[0]}" if ending.failed else ""
        if ending.left:
            runs = "1 run is" if len(ending.left) == 1 else f"{len(ending.left)} runs are"
            again = "; the same command again goes on" if ending.goes_on else ""
            failed = f" ({failed})" if failed else ""
            raise InterruptedRunError(f"{ending.reason}: {runs} left{again}{failed}", ending.exit_status)
        if failed:
            raise SmallvitError(failed)
        from smallvit.report.study_page import write_report

        report = write_report((self.out,), self.out / "report")
        for note in report.notes:
            print(f"note: {note}")
        print(f"page     {report.page}")

    def _engine(self) -> "Engine":
        if self.jobs is not None:
            require_whole("--jobs", self.jobs, 1)
        use_gpus, threads = self.device.device != "cpu", self.device.num_threads
        require(self.address is None or self.engine == "ray", "--address", self.address, "it goes with --engine ray")
        if self.engine != "slurm" and self.slurm != SlurmUse():
            raise UsageError(f"--slurm options go with --engine slurm, and this is --engine {self.engine}")
        if self.engine == "ray":
            from smallvit.study.engines.ray import RayEngine

            return RayEngine(self.address, self.jobs, threads=threads, use_gpus=use_gpus)
        if self.engine == "slurm":
            from smallvit.study.engines.slurm import SlurmEngine

            folder = self.out / "submitit"
            return SlurmEngine(folder, self.jobs, threads=threads, use_gpus=use_gpus, **vars(self.slurm))
        from smallvit.study.engines.local import LocalEngine

        return LocalEngine(self.jobs, use_gpus=use_gpus)


def _print_table(study: Study, folder: Path, console: "Console") -> None:
    from smallvit.report.collect import section_in
    from smallvit.report.numbers import numbers_of
    from smallvit.report.study_notes import answer, notes
    from smallvit.report.study_tables import study_markdown, study_tables
    from smallvit.report.tables import terminal

    numbers = numbers_of(section_in(study, folder))
    tables = [terminal(table, console.width) for table in study_tables(numbers)]
    head = f"{study.title}. {study.budget}.\n"
    if not console.is_terminal or None in tables:
        console.print(head, study_markdown(numbers), sep="\n")
        return
    said = [f"{line}\n" for line in [answer(numbers)] if line]
    console.print(head, *said, *tables, *(f"- {note}" for note in notes(numbers)), sep="\n", soft_wrap=False)
