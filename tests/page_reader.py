"""Reads a page as a browser would: its elements, its text, and whether it refers to anything outside itself."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """What a page holds; fails on a tag that is closed out of turn or not at all."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="ascii")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(self.text.replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("p", "th", "td", "dt", "dd", "h1"):
            self.text += " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(name)) is not None]


def assert_stands_alone(page: Page) -> None:
    """Check that a page is one file: no references but to itself, no scripts, every target there once; and that what a
    keyboard scrolls has a name to be announced by, not that of the section that it stands in.
    """
    for _, attributes in page.elements:
        assert "tabindex" not in attributes or (attributes["role"] == "region" and attributes["aria-label"])
    headings = {unescape(found).strip() for found in re.findall(r'<h2 id="[^"]*">([^<]*)', page.source)}
    assert headings
    assert not headings & {each["aria-label"] for each in page.attributes("div") if each.get("role") == "region"}
    references = [
        v for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster") for v in page.values(name)
    ]
    assert references
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert "@import" not in page.source
    assert not re.search(r"url\((?!#)", page.source)
    assert not {"script", "iframe", "object", "form"} & {tag for tag, _ in page.elements}
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = {r[1:] for r in references if r.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", page.source))
    assert targets | set(page.values("aria-labelledby")) <= set(ids)
