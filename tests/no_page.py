"""A run's page that is not drawn: it costs more than a tiny run, and has tests of its own."""

import sys
from types import ModuleType


def draw_no_page() -> None:
    """Let runs of this process end without their page; before anything has imported what draws it."""
    page = ModuleType("smallvit.report.page")
    page.write_page = lambda folder: folder / "index.html"
    sys.modules[page.__name__] = page
