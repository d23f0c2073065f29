"""docs/plan.md: every finding about server and rows is listed there, and nothing else is."""

from __future__ import annotations

import re

from migrator import settings
from migrator.measures import sampling
from migrator.planning import duration, estimate, population, scan
from tests.docs import pages
from tests.docs.pages import ROOT, read

PAGE = read(ROOT / "docs" / "plan.md")
_MADE = re.compile(r'(?:refuse|warn|info|severe)\(\s*"(\w+)"')


def test_every_finding_about_server_and_rows_is_listed() -> None:
    made = {
        code
        for name in ("server_findings", "data_findings", "broker")
        for code in _MADE.findall(read(ROOT / "migrator" / "planning" / f"{name}.py"))
    }
    rows = [line.split("|")[1] for line in pages.sections(PAGE)["Findings"].splitlines() if line.startswith("| `")]
    assert {code for row in rows for code in re.findall(r"`(\w+)`", row)} == made


def test_figures_that_it_states_are_the_codes() -> None:
    said = pages.flat(PAGE)
    assert (scan.COUNTED_PAGES * 8192 // 10**6 // 10 * 10, scan._COUNT_SECONDS) == (160, 5)
    assert f"up to {scan.PAGES:,} pages" in said
    assert f"tokens of {scan.TEXTS:,} texts" in said
    assert f"texts up to {scan._LOOK_BYTES:,} bytes" in said
    assert population.STATISTICS_ERROR == 0.1
    assert sampling.CARE == 1.25
    assert (duration._BASE_SECONDS, duration._TEXT_SECONDS, settings.CONCURRENCY) == (0.55, 0.025, 4)
    assert estimate._BUILD_COMPONENTS == (0.25e6, 1e6)
    assert estimate._HOT_SHARE == 0.95
