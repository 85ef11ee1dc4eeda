"""The command that puts two finished runs side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from smallvit.console import plain_console

if TYPE_CHECKING:
    from rich.table import Table

    from smallvit.report.compare import Comparison

MOST_FIELDS = 10
"""Fields of the config that are printed; the page has them all."""


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Show what two finished runs differ in, which is better and by how much, and write a page of it."""

    a: Annotated[Positional[Path], arg(metavar="A", help="Run folder, record file, or folder of several seeds.")]
    b: Annotated[Positional[Path], arg(metavar="B", help="Another, or others, to hold against A.")]
    out: Path = Path("runs/compare")
    """Folder to write the page to; an earlier comparison there is replaced."""

    def __call__(self) -> None:
        """Print the essentials, write the page, say where."""
        from smallvit.report.compare import compare, write_comparison
        from smallvit.report.compare_differences import FIRST
        from smallvit.report.compare_sides import written_seeds

        comparison = compare(self.a, self.b)
        page = write_comparison(comparison, self.out)
        console = plain_console()
        for side in (comparison.a, comparison.b):
            console.print(f"{side.name}  {side.first.config.recipe}, {written_seeds(side.seeds)}: {side.path}")
        for warning in comparison.warnings:
            console.print(f"note: {warning}")
        decisive = [each for each in comparison.fields if each.decides]
        for each in decisive[:MOST_FIELDS]:
            console.print(f"{each.name}: {each.a} -> {each.b}")
        if len(decisive) > MOST_FIELDS:
            console.print(f"and {len(decisive) - MOST_FIELDS} fields more")
        besides = [f"{each.name} ({each.a} -> {each.b})" for each in comparison.surroundings if each.name in FIRST]
        if besides:
            console.print(f"note: beside the config A and B differ in {', '.join(besides)}")
        console.print(_table(comparison))
        console.print(_verdict(comparison))
        console.print(f"page  {page}")


def _table(comparison: "Comparison") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_edge=False)
    table.add_column("at the last epoch")
    for name in ("A", "B", "B against A"):
        table.add_column(name, justify="right")
    for row in comparison.quantities:
        cells = [
            row.written(values) + (f"\n{100 * interval[0]:.2f} to {100 * interval[1]:.2f}" if interval else "")
            for values, interval in ((row.a, row.a_interval), (row.b, row.b_interval))
        ]
        title = f"{row.title}\n  95 % interval (Wilson)" if row.a_interval else row.title
        table.add_row(title, *cells, f"({row.note})" if row.note else row.written_change)
    return table


def _verdict(comparison: "Comparison") -> str:
    from smallvit.report.cells import p_is, written_interval
    from smallvit.report.stats import LEVEL

    if comparison.p is None:
        return f"test accuracy: the difference is not tested: {comparison.untested}"
    p = p_is(comparison.p)
    if comparison.by_seed is not None:
        low, high = comparison.by_seed.low, comparison.by_seed.high
        test = f"paired by seed, n = {len(comparison.a.runs)}, {p}; it covers the seeds, not the test images"
    else:
        assert comparison.pairs is not None
        found = comparison.pairs.mcnemar
        low, high = 100 * found.low, 100 * found.high
        test = (
            f"McNemar: of {found.only_a + found.only_b:,} images that one has right {found.only_a:,} are A's and "
            f"{found.only_b:,} B's, {p}; it covers the test images, not the seed"
        )
    better = "B" if low + high > 0 else "A"
    if comparison.by_seed is not None:
        words = f"resolved, {better} is better", "not resolved, neither is shown to be better"
    else:
        words = f"run {better} is better, which says little of other seeds", "neither run is shown to be better"
    word = words[0] if comparison.p < LEVEL else words[1]
    interval = f"95 % interval {written_interval(low, high)} points"
    return f"test accuracy: {word}, {interval} ({test})"
