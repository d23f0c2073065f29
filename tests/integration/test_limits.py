"""What stops or slows a migration: the provider, its limits, the cap, windows, a pause."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.orchestrator.work import CameToRest
from migrator.spending.worker import Worker
from migrator.state import migrations
from tests.deployment import V4, Deployment, until
from tests.integration.steps import begin, first_tickets, to

S = MigrationStatus


async def test_p7_the_cap_is_hard_and_resume_goes_on(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["limits"]["max_cost_usd"] = 0.003
    await begin(deployment, worker, 400)
    with pytest.raises(CameToRest, match="CapReached"):
        await to(worker, S.READY)
    usd = deployment.simulator.ledger()["tokens"] * 1.0 / 1e6
    assert 0 < usd <= 0.003
    assert deployment.status == "paused"
    (committed, cap) = deployment.query("SELECT committed_usd, max_usd FROM migrator.budgets")[0]
    assert committed <= cap
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(max_cost_usd=1.0), actor="test")
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_pause_takes_effect_with_the_next_request(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 200)
    deployment.simulator.admin(latency_seconds=0.2)
    (ticket,) = await first_tickets(worker)
    running = asyncio.create_task(perform(worker, ticket))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["requests"] >= 4))
    await verbs.pause(worker.engine, "docs", actor="test")
    assert "WorkStopped" in await running
    written = deployment.value("SELECT count(embedding__migrator) FROM docs")
    ledger = deployment.simulator.ledger()
    assert written == sum(len(entry["digests"]) for entry in deployment.entries())
    assert ledger["requests"] <= 12
    batch = deployment.query("SELECT status, attempts FROM migrator.batches")
    assert batch == [("pending", 0)], "a pause is no attempt"
    deployment.simulator.admin(latency_seconds=0)
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 401, "body": {"error": {"code": "invalid_api_key", "message": "no"}}}, "key refused"),
        ({"status": 400, "body": {"code": "Arrearage", "message": "Access denied"}}, "account in arrears"),
        ({"status": 200, "body": {"code": "Arrearage", "message": "Access denied"}}, "account in arrears"),
        (
            {"status": 404, "body": {"error": {"code": "model_not_found", "message": "x"}}},
            "model or endpoint not found",
        ),
        ({"status": 302, "body": {}, "headers": {"location": "http://127.0.0.1:1/"}}, "moved elsewhere"),
    ],
)
async def test_a_provider_that_refuses_pauses_with_the_reason(
    deployment: Deployment, worker: Worker, fault: dict[str, Any], reason: str
) -> None:
    await begin(deployment, worker, 30)
    deployment.simulator.admin(faults=[{"count": 50, **fault}])
    with pytest.raises(CameToRest, match=reason):
        await to(worker, S.READY)
    assert deployment.query("SELECT * FROM migrator.dispositions") == [], "no row is blamed"
    asked = deployment.value("SELECT sum(spent_usd) FROM migrator.ledger WHERE purpose = 'canary'")
    assert deployment.value("SELECT committed_usd FROM migrator.budgets") == asked, "refused requests were refunded"
    deployment.simulator.admin(no_faults=True)
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)


@pytest.mark.parametrize(
    ("fault", "possibly_billed"),
    [
        ({"status": 429, "body": {"error": {"code": "limit_requests"}}, "headers": {"retry-after-ms": "20"}}, False),
        ({"status": 429, "body": {"error": {"code": "insufficient_quota"}}, "headers": {"retry-after": "0.02"}}, False),
        ({"status": 503, "body": {}}, False),
        ({"status": 500, "body": {}}, True),
        ({"status": 200, "body": {"data": [], "usage": {"prompt_tokens": 7}}}, False),
    ],
)
async def test_a_provider_that_stumbles_is_asked_again(
    deployment: Deployment,
    worker: Worker,
    fault: dict[str, Any],
    possibly_billed: bool,  # noqa: FBT001
) -> None:
    await begin(deployment, worker, 30)
    deployment.simulator.admin(faults=[{"count": 1, **fault}])
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.value("SELECT count(*) FROM migrator.reservations WHERE possibly_billed") == int(possibly_billed)
    assert deployment.query("SELECT attempts FROM migrator.batches") == [(1,)]


async def test_the_batch_size_limit_is_learnt_from_the_refusal(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 60)
    deployment.simulator.admin(max_texts=4)
    await to(worker, S.READY)
    assert deployment.query("SELECT DISTINCT max_texts FROM migrator.paces WHERE max_texts IS NOT NULL") == [(4,)]
    entries = deployment.entries()
    assert max(len(entry["digests"]) for entry in entries) == 4
    assert deployment.simulator.ledger()["refused"] == {"InvalidParameter": pytest.approx(4, abs=4)}


async def test_the_requests_limit_paces_and_says_that_it_binds(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["limits"]["requests_per_minute"] = 600
    await begin(deployment, worker, 300)
    loop = asyncio.get_running_loop()
    began, seen = loop.time(), set()
    working = asyncio.create_task(to(worker, S.INDEXING))
    while not working.done():
        seen |= {
            row[0] for row in deployment.query("SELECT binding FROM migrator.migrations WHERE binding IS NOT NULL")
        }
        await asyncio.sleep(0.1)
    await working
    assert loop.time() - began > 1.8, "30 requests at 10 a second, ten of them at once"
    assert deployment.simulator.ledger()["refused"] == {}
    assert "requests/min (slow start)" in seen
    assert seen <= {"requests/min", "requests/min (slow start)"}


async def test_outside_its_window_the_migration_rests(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["limits"]["window"] = "00:00-00:01 Pacific/Kiritimati"
    await begin(deployment, worker, 30)
    made = await tick(worker.engine, actor="test")
    if made.tickets:
        pytest.fail("it is midnight in Kiritimati: run the test again in a minute")
    assert "binds: window" in str(made)
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(windows=()), actor="test")
    await to(worker, S.READY)


class Clock:
    """The database's clock, as if a window of the night ended so many seconds after work began to look at it."""

    WINDOW = "mon 22:00-06:00 UTC"
    _END = datetime(2026, 11, 24, 6, tzinfo=UTC)

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.seconds = seconds
        self.watched = False
        self.began: float | None = None
        monkeypatch.setattr(migrations, "database_now", self.now)

    @property
    def left(self) -> float:
        """Seconds until the window's end."""
        assert self.began is not None
        return self.began + self.seconds - time.monotonic()

    async def now(self, _: AsyncConnection) -> datetime:
        if not self.watched:
            return self._END - timedelta(hours=1)
        self.began = self.began or time.monotonic()
        return self._END - timedelta(seconds=self.left)


async def test_nothing_new_is_sent_shortly_before_a_window_ends(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops is not asked again until it is closed."""
    await begin(deployment, worker, 2000)
    deployment.simulator.admin(latency_seconds=1.0)
    clock = Clock(monkeypatch, 5)
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(windows=(clock.WINDOW,)), actor="test")
    tickets = await first_tickets(worker)
    clock.watched = True
    ended = await asyncio.gather(*[perform(worker, each) for each in tickets])
    assert all("WindowCloses: docs sends nothing new" in each for each in ended)
    requests = deployment.simulator.ledger()["requests"]
    assert requests > 0
    assert deployment.value("SELECT count(*) FROM migrator.reservations") == 0, "all that was sent was answered"
    if clock.left > 0:
        assert await first_tickets(worker) == [], "no hot loop until it is closed"
    await asyncio.sleep(max(0, clock.left))
    assert "binds: window" in str(await tick(worker.engine, actor="test"))
    assert deployment.simulator.ledger()["requests"] == requests
    assert deployment.query("SELECT DISTINCT attempts FROM migrator.batches") == [(0,)], "no attempt"


async def test_p7_a_request_that_outlasts_its_window_is_given_up_and_stays_counted(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(deployment, worker, 10)
    deployment.simulator.admin(latency_seconds=60)
    clock = Clock(monkeypatch, 4)
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(windows=(clock.WINDOW,)), actor="test")
    (ticket,) = await first_tickets(worker)
    clock.watched = True
    assert "OutsideWindow" in await perform(worker, ticket)
    # Four seconds later; a busy machine may need some for the rest. The answer would have come after sixty.
    assert -4 - 10 < clock.left < -4
    assert deployment.value("SELECT count(*) FROM migrator.reservations WHERE possibly_billed") > 0
    assert deployment.status == "backfilling"
