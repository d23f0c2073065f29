"""What was done is told, whatever becomes of the database afterwards."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from migrator.cli import app as cli
from migrator.orchestrator import telling
from migrator.spending.worker import Worker
from migrator.state.connection import DatabaseUnreachable
from tests.deployment import Deployment
from tests.integration.steps import ready


@pytest.fixture
def lost_afterwards(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next connection after a step is refused: a failover, a pooler that restarts."""

    async def refused(*_: Any) -> None:
        raise DatabaseUnreachable("db.example:5432", "the connection was refused")

    monkeypatch.setattr(telling, "waiting", refused)
    for name, value in deployment.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(deployment.home)


def run(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run a command in a thread of its own, since each has its event loop; returns its JSON."""
    code = cli.run([*words, "--yes", "--json"])
    out = capfd.readouterr().out
    assert code == 0, out
    return dict(json.loads(out))


@pytest.mark.usefixtures("lost_afterwards")
async def test_a_swap_is_told_although_the_database_is_gone_behind_it(
    deployment: Deployment, worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    await ready(deployment, worker, 10)
    capfd.readouterr()
    assert (await asyncio.to_thread(run, capfd, "cutover", "docs", "--readers-ready"))["status"] == "completed"
    assert (await asyncio.to_thread(run, capfd, "rollback", "docs"))["status"] == "rolled_back"
    assert (await asyncio.to_thread(run, capfd, "cleanup", "docs"))["status"] == "cleaned"
