"""Migrations of one provider account share its pace and its cap, whoever works for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from migrator.demo.servers import Valkey
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import work
from migrator.spending.worker import Worker
from migrator.state.slots import BURST_SECONDS
from tests.deployment import V4, Deployment
from tests.integration.several import begin_another
from tests.integration.steps import begin

S = MigrationStatus
#: Requests and tokens a minute that both migrations' specs say of their account.
REQUESTS, TOKENS = 240, 60_000
#: Seconds by which a request may come late, on a busy machine, and so closer to the next one.
_LATE_SECONDS = 1.0


def most_over(entries: list[dict[str, Any]], per_minute: float, weight: str | None) -> float:
    """By how much any stretch of the bill passes its limit: rate times its length, a burst, and a request."""
    found = [(entry["at"], 1 if weight is None else entry[weight]) for entry in entries]
    worst = float("-inf")
    for first, (begin_at, _) in enumerate(found):
        total = 0
        for at, amount in found[first:]:
            allowed = per_minute / 60 * (at - begin_at + BURST_SECONDS + _LATE_SECONDS)
            worst = max(worst, total - allowed)
            total += amount
    return worst


@pytest.mark.parametrize("keeper", ["postgres", "redis"])
@pytest.mark.parametrize("binds", ["requests", "tokens"])
async def test_two_migrations_together_keep_their_accounts_limits(
    deployment: Deployment, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, worker: Worker, keeper: str, binds: str
) -> None:
    """Two processes, one migration each: what the provider billed, request by request."""
    name, limit = ("requests_per_minute", REQUESTS) if binds == "requests" else ("tokens_per_minute", TOKENS)
    deployment.spec_data["limits"][name] = limit
    await begin(deployment, worker, 300)
    await begin_another(deployment, worker, "notes", 300)
    if keeper == "redis":
        monkeypatch.setenv("MIGRATOR_BROKER_URL", valkey.url)
    before = len(deployment.entries())
    workers = [Worker.make("one"), Worker.make("two")]
    await asyncio.gather(
        *[
            work.work(each, migration, until=S.INDEXING, on_line=lambda _: None)
            for each, migration in zip(workers, ("docs", "notes"), strict=True)
        ]
    )
    for each in workers:
        await each.close()
    entries = sorted(deployment.entries(), key=lambda entry: float(entry["at"]))[before:]
    assert most_over(entries, limit, None if binds == "requests" else "tokens") <= 0
    seconds = entries[-1]["at"] - entries[0]["at"]
    amount = len(entries) if binds == "requests" else sum(entry["tokens"] for entry in entries)
    assert amount > 0.5 * limit / 60 * seconds, "and they use it"
    assert deployment.mismatches("embedding__migrator", V4) == []
