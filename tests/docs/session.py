"""A page's session against what the demo printed: the same lines in the same order, figures apart."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs import pages
from tests.docs.pages import ROOT, read

#: What differs from run to run: figures with their sign, and how they are told (`12 s`, `1 min 3 s`, `unknown`).
_FIGURE = re.compile(r"[+-]?\d[\d,.]*(?:e-\d+)?")
_TIME = re.compile(r"(?:unknown|(?:N (?:min|h) )?N (?:s|min))\b")
#: Rows that wait for catch-up at that moment, if there are any.
_DIRTY = re.compile(r" \| dirty N")
_FOLDED = re.compile(r" {2,}")


README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"


def session(page: Path) -> str:
    """The blocks that stand below the mark, up to the README's next section."""
    marked = read(page).partition("<!-- session:")[2]
    below = marked.partition("\n## What it promises")[0]
    return "".join(block.body for block in pages.blocks(below) if block.language == "console")


def shape(line: str) -> str:
    """A line without its figures."""
    return _FOLDED.sub("  ", _TIME.sub("T", _DIRTY.sub("", _FIGURE.sub("N", line)))).rstrip()


def first_untrue(said: str, page: Path = README) -> str | None:
    """The first line of a session that was not printed after those before it; `...` stands for lines left out."""
    printed = iter([shape(line) for line in said.splitlines()])
    told = (line for line in session(page).splitlines() if line.strip() not in {"", "..."})
    return next((line for line in told if shape(line) not in printed), None)
