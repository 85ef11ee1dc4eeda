"""A matplotlib figure as SVG text, to stand in a page: themed by the page, searchable, equal bytes for equal figures.

Colours are CSS variables with a fallback, and the background is left out, so that a page sets them for light and dark.
Text stays text: the reader's fonts, whatever the script.
"""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.figure import Figure

INK, MUTED, GRID, VAL, TEST = "#1c2024", "#59616b", "#dcdfe4", "#1f62c8", "#b4500f"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", VAL: "--val", TEST: "--test"}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
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


def svg_of(prefix: str, title: str, draw: Callable[[], Figure]) -> str:
    """Draw, and return SVG whose ids start with `prefix`, so that several stand in one page."""
    file = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # The reader's browser has the glyphs that matplotlib's own font lacks; it only measures with it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        draw().savefig(file, format="svg", transparent=True, metadata=nothing)
    return _for_page(file.getvalue(), prefix, title)


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
        value = f"{prefix}-{value}" if name == "id" else re.sub(r"#(?=[A-Za-z_]\w*(\)|$))", f"#{prefix}-", value)
        if name == "style":
            value = re.sub(r"font-family: [^;]*", "font-family: system-ui, sans-serif", value)
            for colour, variable in _VARIABLES.items():
                value = value.replace(colour, f"var({variable}, {colour})")
        element.set(name, value)
