"""Starting the simulator as a process of its own, and asking it for its bill.

Floor 4.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from migrator.demo import processes


class SwitchRefused(Exception):
    """What was asked of the simulator can't be set."""


@dataclass(slots=True)
class Simulator:
    """A running simulator; its log lies in `home`."""

    home: Path
    backend: Literal["deterministic", "models"] = "deterministic"
    latency_seconds: float = 0.0
    port: int = field(default_factory=processes.free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """What a spec's base_url says."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it; waits until it answers (real models take a second to load)."""
        self.home.mkdir(parents=True, exist_ok=True)
        log = self.home / "simulator.log"
        command = [sys.executable, "-m", "migrator.demo.simulator", "--port", str(self.port)]
        command += ["--backend", self.backend, "--latency", str(self.latency_seconds)]
        self._process = processes.spawn(command, log)
        processes.wait_until(lambda: processes.accepts(self.port), self._process, log, seconds=60)

    def ledger(self, *, entries: bool = False) -> dict[str, Any]:
        """Return the bill: totals, and every request where `entries` are asked for."""
        url = f"http://127.0.0.1:{self.port}/ledger"
        answer = httpx.get(url, params={"entries": "1"} if entries else {}, timeout=30)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def seen(self) -> dict[str, int]:
        """Return how often each text arrived, by its digest, answered or not."""
        answer = httpx.get(f"http://127.0.0.1:{self.port}/seen", timeout=30)
        found: dict[str, int] = answer.raise_for_status().json()
        return found

    def admin(self, **wanted: Any) -> None:
        """Turn switches at run time (see `simulator.behaviour`), add `faults`, or schedule `steps`.

        Raises: SwitchRefused, and nothing was changed.
        """
        answer = httpx.post(f"http://127.0.0.1:{self.port}/admin", json=wanted, timeout=30)
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise SwitchRefused("; ".join(" ".join(each.values()) for each in answer.json()["problems"]))
        answer.raise_for_status()

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            processes.stop(self._process)
            self._process = None
