"""Flower in a real browser, while a migration runs: what an operator reads there, and what nobody may.

Screenshots are kept in artifacts/, to be looked at.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.browser import ARTIFACTS, Browser, complaints
from tests.acceptance.flower import LOGIN, begin, tasks_of
from tests.deployment import KEY, Deployment

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
_WIDTH, _HEIGHT = 1600, 900
#: Enough of the page's own time for its table to be fetched and drawn.
_DRAWN = "--virtual-time-budget=8000"


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    ARTIFACTS.mkdir(exist_ok=True)
    return Browser(tmp_path)


def cells(dom: str) -> list[str]:
    """The texts of a page's table, without markup."""
    return [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", dom, re.DOTALL)]


def test_an_operator_reads_what_goes_on_and_nobody_reads_a_row(browser: Browser, deployed: Deployment) -> None:
    _, url = begin(deployed)
    deployed.make_table(2000)
    with deployed.connect() as connection:
        connection.execute("UPDATE docs SET title = 'canary-title', body = 'canary-body ' || id")
    deployed.simulator.admin(latency_seconds=0.5)
    deployed.worker()
    deployed.beat()
    deployed.must("start", deployed.spec_file, "--yes", "--skip-provenance", "made-up vectors")

    def told() -> list[str]:
        return [task["result"] for task in tasks_of(url) if "rows/s | ETA" in (task["result"] or "")]

    def done() -> list[str]:
        tasks = tasks_of(url, taskname="migrator.batch")
        return [task["uuid"] for task in tasks if "rows," in (task["result"] or "")]

    deployed.wait(lambda: len(told()) > 2 and done(), log="progress lines and finished batches in Flower")
    page = url.replace("http://", f"http://{':'.join(LOGIN)}@")
    dom, said = browser.look(f"{page}/tasks", "--dump-dom", _DRAWN)
    png = ARTIFACTS / "flower-tasks.png"
    png.unlink(missing_ok=True)
    _, shot = browser.look(f"{page}/tasks", f"--screenshot={png}", f"--window-size={_WIDTH},{_HEIGHT}", _DRAWN)
    detail, _ = browser.look(f"{page}/task/{done()[0]}", "--dump-dom", _DRAWN)
    workers, _ = browser.look(f"{page}/workers", "--dump-dom", _DRAWN)
    assert png.exists(), shot
    assert png.stat().st_size > 20_000
    shown = cells(dom)
    for words in ("migrator.tick", "migrator.batch", "all migrations", "SUCCESS"):
        assert words in shown, (words, shown)
    for pattern in (
        r"docs\.b\d{6}\.a1-[0-9a-f]{4}docs\.b00",  # in full, and what narrow screens show of it
        r"tick-[0-9a-f]{8}tick-[0-9a-f]{3}",
        r"docs pages \d+\.\.\d+",
        r"docs \d+\.\d % \d+/2000 \| \d+ rows/s \| ETA .+ \| \$0\.\d\d of \$1\.00.*",
        r"[\d,]+ rows, [\d,]+ tokens, 0 quarantined",
    ):
        assert any(re.fullmatch(pattern, cell) for cell in shown), (pattern, shown)
    assert "docs pages" in detail
    assert "w1@test" in workers
    for text in (dom, detail, workers, str(tasks_of(url))):
        assert "canary" not in text
        assert KEY not in text
    assert [line for line in complaints(said) if "favicon" not in line] == []
    assert browser.asked() == {"127.0.0.1"}, "Flower brings all that its pages need"
