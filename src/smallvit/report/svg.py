"""A matplotlib figure as SVG text, to stand in a page, or as files; equal bytes for equal figures.

In a page, colours are CSS variables with a fallback, and the background is left out, so that the page sets them for
light and dark. Text stays text: the reader's fonts, whatever the script. Files stand alone: dark on white.
"""

import io
import re
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.figure import Figure

from smallvit.files import replacing, undated, write_atomically

INK, MUTED, GRID, VAL, TEST = "#1c2024", "#59616b", "#dcdfe4", "#1f62c8", "#b4500f"
PAPER = "#ffffff"
"""The fill of a hollow mark that hides what lies under it: in a page, the page's background."""
SERIES = (VAL, TEST, "#1a7f37", "#8250df", "#bf3989", "#0f7b83", "#6e5a00")
"""Colours of lines that a legend names."""
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", VAL: "--val", TEST: "--test", PAPER: "--page"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES[2:], 3)
}
_NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))
"""Metadata that would differ from one day or version to another."""
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's own
    "svg.hashsalt": "smallvit",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure that can be drawn, for a page or as files."""

    name: str
    """What its files are called."""
    title: str
    caption: str
    draw: Callable[[], Figure]


def svg_of(prefix: str, title: str, draw: Callable[[], Figure]) -> str:
    """Draw, and return SVG whose ids start with `prefix`, so that several stand in one page."""
    with _style():
        return _for_page(_svg(draw()), prefix, title)


def svg_file(title: str, draw: Callable[[], Figure]) -> str:
    """Draw, and return SVG that stands alone."""
    with _style():
        return _alone(_svg(draw()), title)


def save_figure(drawing: Drawing, prefix: str, stem: Path) -> tuple[str, list[Path]]:
    """Draw once; write it as .svg, .png and .pdf, and return the SVG for a page, as `svg_of`, and the three paths."""
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".svg", ".png", ".pdf")]
    with _style():
        figure = drawing.draw()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # what is laid out once need not be again, the longest part of it all
        svg = _svg(figure)
        write_atomically(paths[0], _alone(svg, drawing.title))
        with replacing(paths[1]) as temporary:
            figure.savefig(temporary, format="png", facecolor="white", dpi=200, metadata={"Software": None})
        with replacing(paths[2]) as temporary:
            figure.savefig(temporary, format="pdf", metadata=dict.fromkeys(("CreationDate", "Creator", "Producer")))
    return _for_page(svg, prefix, drawing.title), paths


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata=_NOTHING)
    return file.getvalue()


def _alone(svg: bytes, title: str) -> str:
    begin = f' role="img" aria-label="{escape(title)}"><rect width="100%" height="100%" fill="white"/>'
    return re.sub("(<svg [^>]*)>", lambda found: found[1] + begin, svg.decode(), count=1)


@contextmanager
def _style() -> Generator[None]:
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings(), undated():
        # The reader's browser has the glyphs that matplotlib's own font lacks; it only measures with it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _for_page(svg: bytes, prefix: str, title: str) -> str:
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in [c for c in parent if c.tag.endswith("}style")]:
            parent.remove(child)  # its rules would hold for the whole page
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]
        _for_page_attributes(element, prefix)
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("role", "img")
    root.set("aria-label", title)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    return ElementTree.tostring(root, encoding="unicode")


def _for_page_attributes(element: ElementTree.Element, prefix: str) -> None:
    for name, value in list(element.attrib.items()):
        if name.startswith("{"):
            del element.attrib[name]
            name = name.partition("}")[2]
        if name == "id":
            value = f"{prefix}-{value}"
        elif name == "href":  # of a mark drawn once, or of a picture: data:
            value = re.sub("^#", f"#{prefix}-", value)
        else:
            value = value.replace("url(#", f"url(#{prefix}-")
        if name == "style":
            value = re.sub(r"font-family: [^;]*", "font-family: system-ui, sans-serif", value)
            for colour, variable in _VARIABLES.items():
                value = value.replace(colour, f"var({variable}, {colour})")
        element.set(name, value)
