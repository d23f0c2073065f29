"""The README's session against what the demo printed: the same lines in the same order, figures apart."""

from __future__ import annotations

import re

from tests.docs import pages
from tests.docs.pages import ROOT, read

#: What differs from run to run: figures with their sign, and how they are told (`12 s`, `1 min 3 s`, `unknown`).
_FIGURE = re.compile(r"[+-]?\d[\d,.]*(?:e-\d+)?")
_TIME = re.compile(r"(?:unknown|(?:N (?:min|h) )?N (?:s|min))\b")
#: Rows that wait for catch-up at that moment, if there are any.
_DIRTY = re.compile(r" \| dirty N")
_FOLDED = re.compile(r" {2,}")


def session() -> str:
    """The block that stands below the mark."""
    text = read(ROOT / "README.md")
    return pages.blocks(text[text.index("<!-- session:") :])[0].body


def shape(line: str) -> str:
    """A line without its figures."""
    return _FOLDED.sub("  ", _TIME.sub("T", _DIRTY.sub("", _FIGURE.sub("N", line)))).rstrip()


def first_untrue(said: str) -> str | None:
    """The first line of the session that was not printed after those before it; `...` stands for lines left out."""
    printed = iter([shape(line) for line in said.splitlines()])
    told = (line for line in session().splitlines() if line.strip() not in {"", "..."})
    return next((line for line in told if shape(line) not in printed), None)
