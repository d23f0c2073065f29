"""How a report looks: plots that are the same each time, and a page that nobody can write into."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from migrator.cli import console
from migrator.lifecycle import MigrationStatus
from migrator.measures import projection
from migrator.report import figures, markdown, page, style
from migrator.report.gather import Move, Report
from tests import reports
from tests.reports import BEGAN, whole

#: What somebody may call a table, or write as a reason.
HOSTILE = """"><script>alert('&x')</script><img src=x onerror="alert(1)">$x_1^2$ {{ 7*7 }} `|` \\"""


# The plots


@pytest.fixture(scope="module")
def plots() -> dict[str, str]:
    return figures.draw(whole())


def test_report_plots_have_titles_units_and_legends(plots: dict[str, str]) -> None:
    assert list(plots) == list(page.ALTERNATIVES)
    wanted = {
        "run": ["The run", "rows left", "rows embedded per second", "hours since the start", "as planned: 5 h 12 min",
                "backfilling", "paused", "throttled", "cutover"],
        "cost": ["Cost", "US dollars", "spent", "estimate 7.9 to 9.6", "cap 50.00 USD"],
        "health": ["HOT updates", "possible: 86 %", "rows waiting"],
        "quality": ["cyrillic  (n = 20)", "allowed to fall to", "95 % interval"],
        "overlap": ["mean 6.0", "searches"],
        "latency": ["old column: p50", "new column: p50", "milliseconds"],
        "projection": ["Old space", "New space", "old vectors", "new vectors", "of the variance"],
        "dispositions": ["quarantined: too_long", "rows"],
        "spending": ["backfill", "US dollars"],
    }  # fmt: skip
    for name, said in wanted.items():
        shown = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", plots[name]))
        assert [each for each in said if each not in shown] == [], name


def test_report_plots_take_their_colours_from_the_page(plots: dict[str, str]) -> None:
    for svg in plots.values():
        colours = set(re.findall(r"#[0-9a-fA-F]{6}\b", svg))
        assert colours <= {"#000000"}, "what is not a variable stays black in the dark"
        assert re.findall(r"(?:fill|stroke): #000000", svg) == []
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(style.NAMES)


def test_report_plots_are_the_same_each_time_and_share_no_id(plots: dict[str, str]) -> None:
    assert figures.draw(whole()) == plots
    ids = Counter(found for svg in plots.values() for found in re.findall(r'\bid="([^"]+)"', svg))
    assert [name for name, count in ids.items() if count > 1] == []
    for svg in plots.values():
        known = set(re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= known, "each reference finds its mark"


def test_report_draws_no_joint_plane_of_other_dimensions() -> None:
    random = np.random.default_rng(3)
    old, new = random.standard_normal((9, 8)).astype(np.float32), random.standard_normal((9, 5)).astype(np.float32)
    (svg,) = figures.draw(replace(reports.unstarted(), projection=projection.make(old, new))).values()
    assert "New space" in svg
    assert "Both in one space" not in svg


def test_report_without_anything_to_draw_draws_nothing() -> None:
    assert figures.draw(reports.unstarted()) == {}


# The page


class _Elements(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.add(name)
            if name in {"src", "href", "xlink:href", "action", "data", "srcset"}:
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def elements(text: str) -> _Elements:
    found = _Elements()
    found.feed(text)
    found.close()
    return found


def test_report_page_has_nothing_to_fetch_and_nothing_to_run() -> None:
    text = page.render(whole())
    found = elements(text)
    assert {"script", "iframe", "object", "embed", "form", "img", "base"} & found.tags.keys() == set()
    assert [each for each in found.links if not each.startswith(("#", "data:,"))] == []
    assert [name for name in found.attributes if name.startswith("on")] == []
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)#]*)", text)) <= {""}, "only marks of its own"
    assert found.tags["svg"] == len(page.ALTERNATIVES)
    assert "default-src 'none'" in text


def hostile() -> Report:
    """Every string that comes from somebody else, as bad as it can be."""
    base = whole()
    told = reports.progress()
    told["diverted"] = {HOSTILE: 3}
    told["suspects"] = [{"writer": HOSTILE, "generation": HOSTILE, "rows": 2}]
    told["index"]["built"] = [HOSTILE]
    told["live"]["generation"] = HOSTILE
    verdicts = [
        replace(each, detail=HOSTILE, waived_by=HOSTILE, waiver=HOSTILE, stale=HOSTILE, outcome="waived")
        for each in base.verdicts
    ]
    return whole(
        name=HOSTILE, target=HOSTILE, from_generation=HOSTILE, to_generation=HOSTILE, reason=HOSTILE,
        next_step=HOSTILE, dependents=[(HOSTILE, HOSTILE, HOSTILE)], dependents_note=HOSTILE, verdicts=verdicts,
        projection_note=HOSTILE, progress=told, dispositions=[("skipped", HOSTILE, 2)],
        spending=[(HOSTILE, 1, 2, 0.5)], throttles=[replace(base.throttles[0], what=HOSTILE)],
        moves=[Move(BEGAN, "planned", "planned", HOSTILE, HOSTILE), Move(BEGAN, "planned", "paused", HOSTILE, HOSTILE)],
        provenance={"outcome": "skipped", "actor": HOSTILE, "waiver": HOSTILE, "at": BEGAN},
    )  # fmt: skip


def test_report_page_escapes_every_string() -> None:
    text = page.render(hostile())
    found = elements(text)
    assert found.tags["script"] == found.tags["img"] == 0
    assert [name for name in found.attributes if name.startswith("on")] == []
    assert found.text.count("{{ 7*7 }}") >= 20, "it is shown as it was written, and not evaluated"
    assert "&amp;amp;" not in text, "escaped once"


def test_report_markdown_escapes_every_string() -> None:
    text = markdown.render(hostile())
    assert re.findall(r"(?<!\\)<", text) == []
    tables = [line for line in text.splitlines() if line.startswith("| ") and "script" in line]
    assert len(tables) >= 12
    header = next(line for line in text.splitlines() if line.startswith("| gate"))
    rows = [line for line in tables if re.match(r"\| (structure|latency) ", line)]
    assert len(rows) == 2
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == header.count("|"), "no cell was left"


@pytest.mark.parametrize("status", [MigrationStatus.PLANNED, MigrationStatus.CANCELLED])
def test_report_in_words_where_something_is_missing(status: MigrationStatus) -> None:
    """What depends on the status is its word; what can be missing is missing here."""
    report = replace(reports.unstarted(), status=status.value)
    if status is not MigrationStatus.PLANNED:
        report = replace(report, started_at=BEGAN, projection_note="the table is gone")
    text = page.render(report)
    assert "not measured" in text
    assert "Not drawn: " in text
    assert status.value in text
    assert "# docs" in markdown.render(report)
    assert json.loads(console.json_text(report.as_json()))["status"] == status.value
