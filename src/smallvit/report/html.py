"""What all pages share: their template's environment, how numbers and names are written, one whole file each.

A page is one file that refers to nothing outside itself; numbers are rounded to be read, and exact in `<data>`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from smallvit.errors import SmallvitError
from smallvit.files import write_atomically
from smallvit.progress import duration
from smallvit.source import package_version

_GENERATOR = "smallvit"
ECE_NOTE = (
    "ECE: expected calibration error over 15 bins. Where 50 to 85 % are right, probabilities that are true have some "
    "1 % of it on 10,000 images, some 5 % on 400 and some 14 % on 60; where 98 % are, a quarter of that."
)
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def write_html(path: Path, template: str, **values: Any) -> None:
    """Fill a template of this package, one that extends page.html.j2, and write it to `path`, whole or not at all.

    Raises `SmallvitError` where another program's file is there.
    """
    require_ours(path)
    html = (
        _environment()
        .get_template(template)
        .render(values, generator=f"{_GENERATOR} {package_version()}", ece_note=ECE_NOTE)
    )
    # Class names may hold any character; character references keep the file whole whatever the encoding.
    write_atomically(path, html.encode("ascii", "xmlcharrefreplace").decode())


def require_ours(path: Path) -> None:
    """Raise `SmallvitError` for a file that is there and is not a page that `write_html` wrote."""
    if path.is_file() and f'<meta name="generator" content="{_GENERATOR} '.encode() not in path.read_bytes()[:1000]:
        raise SmallvitError(f"{path} is not smallvit's, so it is not replaced: name another folder, or move it away")


def shown_name(name: str) -> str:
    """Return `name` with every character that would not show, or would move others, replaced; any space is a plain one.

    The joiners stay: Persian and Indic scripts are written with them.
    """
    return "".join(
        c if c.isprintable() or c in _JOINERS else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in name
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("smallvit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "duration": duration,
        "percent": _percent,
        "exactly": _exactly,
        "name": shown_name,
    }
    environment.filters.update(filters)
    return environment


def _percent(share: float) -> str:
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def _exactly(value: int | float, form: str, scale: int = 1) -> Markup:
    """Return a number rounded for the eye, with the record's own digits beside it for a program."""
    return Markup('<data value="{}">{}</data>').format(repr(value), format(value * scale, form))
