"""The page of figures: sections are written by the benchmarks that ran, and nothing else of it is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import Figure, page

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "# Head\n<!-- a -->\nold\n<!-- end of a -->\nbetween\n<!-- b -->\nkept\n<!-- end of b -->\n"


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(BEFORE, encoding="utf-8")
    page.write(file, [Figure.at_least("a", "speed", 12345.6, "rows/s", 8, "the loop"), Figure("a", "x", 0.5, "ms")])
    text = file.read_text(encoding="utf-8")
    assert "| speed | 12,346 rows/s | >= 8 | yes | the loop |" in text
    assert "| x | 0.5 ms |  |  |  |" in text
    assert "old" not in text
    assert text.startswith("# Head\n<!-- a -->\n")
    assert text.endswith("<!-- end of a -->\nbetween\n<!-- b -->\nkept\n<!-- end of b -->\n")


def test_a_missed_goal_is_not_hidden(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(BEFORE, encoding="utf-8")
    page.write(file, [Figure.at_least("a", "speed", 3, "ratio", 4)])
    assert "| speed | 3 ratio | >= 4 | **no** |" in file.read_text(encoding="utf-8")


def test_a_page_without_a_place_for_it_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(BEFORE, encoding="utf-8")
    with pytest.raises(page.PageLacksMarks, match="end of c"):
        page.write(file, [Figure("a", "x", 1, "ms"), Figure("c", "x", 1, "ms")])
    assert file.read_text(encoding="utf-8") == BEFORE


@pytest.mark.parametrize("bench", ["backfill"])
def test_the_committed_page_holds_figures_of(bench: str) -> None:
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    section = text.partition(f"<!-- {bench} -->")[2].partition(f"<!-- end of {bench} -->")[0]
    assert "| what | figure | goal |" in section
    assert "Measured on 20" in section
