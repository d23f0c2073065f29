"""The report in a real browser: it renders in light, dark and print, says nothing on the console, and asks nobody.

Screenshots are kept in artifacts/, to be looked at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from migrator.report import page
from migrator.report.gather import Report
from tests import reports
from tests.acceptance.browser import ARTIFACTS, MAKER, Browser, complaints
from tests.integration.test_report_page import hostile

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
_WIDTH, _HEIGHT = 1200, 5000
#: Blink's name for dark: 0 is dark, 1 is light.
_DARK, _LIGHT = "--blink-settings=preferredColorScheme=0", "--blink-settings=preferredColorScheme=1"


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    ARTIFACTS.mkdir(exist_ok=True)
    return Browser(tmp_path)


def shot(browser: Browser, report: Report, name: str, *options: str) -> NDArray[np.float32]:
    """A screenshot's pixels (height x width x channels), kept under that name."""
    file, png = browser.home / f"{name}.html", ARTIFACTS / f"report-{name}.png"
    file.write_text(page.render(report), encoding="utf-8")
    png.unlink(missing_ok=True)
    _, said = browser.look(file, f"--screenshot={png}", f"--window-size={_WIDTH},{_HEIGHT}", *options)
    assert complaints(said) == []
    return np.asarray(imread(png), dtype=np.float32)


def share_near(pixels: NDArray[np.float32], colour: str) -> float:
    """The share of the pixels that have that colour, or nearly."""
    wanted = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return float((np.abs(pixels[:, :, :3] - wanted).max(axis=2) < 0.02).mean())


def test_report_renders_light_and_dark_and_asks_nobody(browser: Browser) -> None:
    light = shot(browser, reports.whole(), "light", _LIGHT)
    dark = shot(browser, reports.whole(), "dark", _DARK)
    assert light.shape[:2] == dark.shape[:2] == (_HEIGHT, _WIDTH)
    assert share_near(light, "#ffffff") > 0.4, "cards are white"
    assert share_near(dark, "#151c24") > 0.4, "cards are dark"
    assert share_near(dark, "#ffffff") < 0.01
    # The plots follow: what is drawn for the new model has the page's own blue in both.
    assert share_near(light, "#0b62bd") > 0.001
    assert share_near(dark, "#63adf8") > 0.001
    assert browser.asked() == set()


def test_report_shows_every_section_and_plot(browser: Browser) -> None:
    file = browser.home / "docs.html"
    file.write_text(page.render(reports.whole()), encoding="utf-8")
    dom, said = browser.look(file, "--dump-dom")
    assert complaints(said) == []
    assert dom.count("<svg") == len(page.ALTERNATIVES)
    for heading in ("How it went", "Both spaces", "Every row accounted for", "Money", "Who did what, and when"):
        assert f"<h2>{heading}</h2>" in dom


def test_report_prints_on_paper_in_light_colours(browser: Browser) -> None:
    file, pdf = browser.home / "docs.html", ARTIFACTS / "report.pdf"
    file.write_text(page.render(reports.whole()), encoding="utf-8")
    pdf.unlink(missing_ok=True)
    _, said = browser.look(file, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", _DARK)
    assert complaints(said) == []
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert pdf.stat().st_size > 40_000


def test_report_of_a_plan_renders(browser: Browser) -> None:
    light = shot(browser, reports.unstarted(), "planned", _LIGHT)
    assert share_near(light, "#ffffff") > 0.1


def test_report_runs_nothing_whatever_its_strings_say(browser: Browser) -> None:
    """The policy alone would stop a script; escaping leaves it nothing to stop, so the console stays silent."""
    file = browser.home / "hostile.html"
    file.write_text(page.render(hostile()), encoding="utf-8")
    dom, said = browser.look(file, "--dump-dom")
    assert complaints(said) == []
    assert "<script" not in dom
    assert "<img" not in dom
    assert not [maker for maker in MAKER if maker in dom], "so what is asked there is not for the page"
    assert browser.asked() == set()


def test_the_browser_s_console_and_requests_would_be_seen(browser: Browser) -> None:
    """What the others find silent does speak where there is something to say."""
    file = browser.home / "loud.html"
    file.write_text(
        '<!DOCTYPE html><script>console.error("loud")</script><img src="http://asked.example/x.png">', encoding="utf-8"
    )
    _, said = browser.look(file, "--dump-dom")
    assert "loud" in "".join(complaints(said))
    assert browser.asked() == {"asked.example"}
