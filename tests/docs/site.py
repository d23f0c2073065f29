"""The built site, read as a browser would: what a page loads, where it leads, what can be linked, and its tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

#: What a browser fetches by itself, by element and attribute; a link is only fetched by whoever follows it.
LOADS = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "embed": "src", "object": "data", "use": "href",
    "video": "src", "audio": "src", "track": "src", "input": "src",
}  # fmt: skip
#: Kinds of <link> that fetch nothing.
HARMLESS = {"canonical", "next", "prev"}


@dataclass
class Page(HTMLParser):
    """One page of it."""

    path: Path
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    edges: list[str] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    rows: list[list[str]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._kept: list[str] = []
        self._in_cell = False
        self.feed(self.path.read_text(encoding="utf-8"))
        self.text = "".join(self._kept)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.names |= {found[key] for key in ("id", "name") if key in found}
        self.classes |= set(found.get("class", "").split())
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
            self._in_cell = True
        if "data-edge" in found:
            self.edges.append(found["data-edge"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in HARMLESS:
            self.loads.append(found.get("href", ""))
        elif tag in LOADS and LOADS[tag] in found:
            self.loads.append(found[LOADS[tag]])

    def handle_data(self, data: str) -> None:
        self._kept.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._in_cell = False
