"""Chromium without a screen: what a page looks like, what it says on the console, and whom it asks."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.deployment import ROOT

ARTIFACTS = ROOT / "artifacts"
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
#: Where Chromium asks for updates and the time of day, whatever it is told.
MAKER = (".google.com", ".googleapis.com", ".gvt1.com", ".gstatic.com")


@dataclass
class Browser:
    """Chromium with a profile of its own for each look."""

    home: Path
    looks: int = 0

    def look(self, page: Path | str, *options: str) -> tuple[str, str]:
        """Open a page; what it dumped, and what it logged."""
        self.looks += 1
        profile, log = self.home / f"profile-{self.looks}", self.home / f"net-{self.looks}.json"
        done = subprocess.run(
            [
                shutil.which("chromium") or "chromium",
                *_QUIET,
                f"--user-data-dir={profile}",
                f"--log-net-log={log}",
                *options,
                page.as_uri() if isinstance(page, Path) else page,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin"},
        )
        shutil.rmtree(profile, ignore_errors=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    def asked(self) -> set[str]:
        """Every host that the network stack was asked for in all looks, but what Chromium asks its maker by itself.

        None of it left: no name is resolved.
        """
        found = set()
        for log in self.home.glob("net-*.json"):
            told: dict[str, Any] = json.loads(log.read_text())
            assert told["events"], "the log is there, so an empty answer means that nothing was asked"
            found |= {urlsplit(str(event.get("params", {}).get("url", ""))).hostname for event in told["events"]}
        return {host for host in found if host is not None and not host.endswith(MAKER)}


def complaints(said: str) -> list[str]:
    """What the page said on the console: Chromium logs each such line as CONSOLE."""
    return [line for line in said.splitlines() if "CONSOLE" in line]
