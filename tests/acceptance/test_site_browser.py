"""The site in a real browser, on loopback and without a network: it is drawn, says nothing, and asks nobody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.demo import processes
from tests.acceptance.browser import Browser
from tests.deployment import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
#: As for reports, no name is resolved; but the site itself is.
_OURS = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The site as `./run docs` builds it, on loopback."""
    site = tmp_path / "site"
    words = [str(ROOT / "run"), "docs", "--quiet", "--site-dir", str(site)]
    subprocess.run(words, check=True, capture_output=True, timeout=100)
    port = processes.free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(site)]
    process = processes.spawn(command, tmp_path / "http.log")
    try:
        processes.wait_until(lambda: processes.accepts(port), process, tmp_path / "http.log", seconds=20)
        yield f"http://127.0.0.1:{port}"
    finally:
        processes.kill_group(process)


def test_it_is_drawn_and_asks_nobody(served: str, tmp_path: Path) -> None:
    browser = Browser(tmp_path)
    for name in ("index", "docs/architecture", "reference/cli"):
        shown, said = browser.look(f"{served}/{name}.html", _OURS, "--dump-dom", "--virtual-time-budget=5000")
        assert "focus-visible" in shown, "the theme's script ran"
        assert "CONSOLE" not in said, said
    assert browser.asked() == {"127.0.0.1"}
