"""The command that makes a report from records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from smallvit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Make tables, figures and one page from the records of finished runs; of one run folder, its page again."""

    folders: Annotated[
        Positional[tuple[Path, ...]],
        arg(metavar="DIR...", help="Folders that hold runs at any depth.", help_behavior_hint="(required)"),
    ]
    out: Path | None = None
    """Folder of the report; by default `report` in DIR, or in runs where DIR are several. With one run folder: a report
    instead of the run's page.
    """

    def __call__(self) -> None:
        """Write, and print where."""
        if not self.folders:
            raise UsageError("report needs a folder that holds runs, or several")
        from smallvit.run_folder import RECORD

        if self.out is None and len(self.folders) == 1 and (self.folders[0] / RECORD).is_file():
            from smallvit.report.page import write_page

            print(f"page     {write_page(self.folders[0])}")
            return
        from smallvit.report.study_page import write_report

        place = self.folders[0] if len(self.folders) == 1 else Path("runs")
        report = write_report(self.folders, self.out or place / "report")
        for name, paths in (("tables", report.tables), ("figures", report.figures)):
            for path in paths:
                print(f"{name:<8} {path}")
        for note in report.notes:
            print(f"note: {note}")
        print(f"page     {report.page}")
