"""A table as text, and as markdown, LaTeX, and for a terminal."""

import re
from dataclasses import dataclass
from textwrap import wrap

from rich import box
from rich import table as rich_table
from rich.cells import cell_len

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"${character}$" for character in "<>|"},
    "\0": "{}",  # between two hyphens, as options begin with, which would be a dash
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as text: a caption, a heading, and a cell for each heading in each row."""

    name: str
    """What its file is called."""
    caption: str
    heading: tuple[str, ...]
    rows: list[tuple[str, ...]]


def markdown(table: Table) -> str:
    """Return a table as markdown, its caption in bold above it."""
    lines = [table.heading, ("---",) * len(table.heading), *table.rows]
    cells = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    return f"**{table.caption}.**\n\n" + "\n".join(cells) + "\n"


def markdown_note(text: str) -> str:
    """Return text as an item of a markdown list, in lines of at most 118 characters, not broken at hyphens."""
    return markdown_lines(text, 118, initial_indent="- ", subsequent_indent="  ")


def markdown_lines(text: str, width: int, *, initial_indent: str = "", subsequent_indent: str = "") -> str:
    """Return text in lines of at most `width` characters, not broken at hyphens, none of which begins a list."""
    lines = wrap(
        text, width, initial_indent=initial_indent, subsequent_indent=subsequent_indent, break_on_hyphens=False
    )
    return "\n".join([*lines[:1], *(re.sub(r"^( *)([-+*] )", r"\1\\\2", line) for line in lines[1:])])


def terminal(table: Table, width: int) -> rich_table.Table | None:
    """Return a table for a terminal of so many columns; None where words would have to be broken."""
    columns = list(zip(table.heading, *table.rows, strict=True))
    widths = [max(cell_len(word) for cell in column for word in cell.split()) for column in columns]
    spare = width - sum(widths) - (3 * len(columns) - 1)  # beside them a space on both sides, and a line's end
    if spare < 0:
        return None
    for index in reversed(range(len(columns))):  # the labels have what the numbers leave
        more = min(spare, max(map(cell_len, columns[index])) - widths[index])
        widths[index] += more
        spare -= more
    shown = rich_table.Table(
        title=f"{table.caption}.", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, heading in enumerate(table.heading):
        shown.add_column(heading, justify="right" if index else "left", width=widths[index])
    for row in table.rows:
        shown.add_row(*row)
    return shown


def latex(table: Table) -> str:
    """Return a table as LaTeX that needs no package."""
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (table.heading, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escaped(table.caption)}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.heading) - 1)}}}",
            r"\hline",
            lines[0],
            r"\hline",
            *lines[1:],
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in re.sub("-(?=-)", "-\0", text))
