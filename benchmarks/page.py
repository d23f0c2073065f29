"""Figures as a page of the documentation: what was measured, against what, and whether the goal was met.

`./run bench NAME... --page docs/performance.md` writes the sections of the benchmarks that it ran, between marks of
their own, and leaves every other line of the page as it is.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import Figure

_HEADER = "| what | figure | goal | met | measured against |\n|---|---|---|---|---|\n"
_MET = {True: "yes", False: "**no**", None: ""}


class PageLacksMarks(Exception):
    """The page has no place for a benchmark's figures."""


def write(page: Path, figures: Sequence[Figure]) -> None:
    """Replace the sections of these figures' benchmarks.

    Raises: PageLacksMarks, before anything is written.
    """
    text = page.read_text(encoding="utf-8")
    for bench in dict.fromkeys(each.bench for each in figures):
        begins, ends = f"<!-- {bench} -->\n", f"<!-- end of {bench} -->"
        pattern = re.compile(f"{re.escape(begins)}.*?{re.escape(ends)}", re.DOTALL)
        if pattern.search(text) is None:
            raise PageLacksMarks(f"{page} has no {begins.strip()} ... {ends}")
        made = section([each for each in figures if each.bench == bench])
        text = pattern.sub(lambda _, made=made, begins=begins, ends=ends: f"{begins}{made}{ends}", text)  # type: ignore[misc]
    page.write_text(text, encoding="utf-8")


def section(figures: Sequence[Figure]) -> str:
    """Return one benchmark's table, with when and where it was measured."""
    where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    cells = (
        (each.name, f"{shown(each.figure)} {each.unit}", each.goal or "", _MET[each.met], each.versus or "")
        for each in figures
    )
    rows = "".join(f"| {' | '.join(each)} |\n" for each in cells)
    return f"\n{_HEADER}{rows}\nMeasured on {datetime.now(UTC):%Y-%m-%d}: {where}.\n\n"


def shown(figure: float) -> str:
    """Return a figure with four digits that count."""
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.4g}"  # noqa: PLR2004 - digits
