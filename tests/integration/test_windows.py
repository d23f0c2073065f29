"""Windows: work begins in them, ends with them, and what a schedule says is looked at before each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import schedule, verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.schedule import Wanted
from migrator.orchestrator.tick import tick
from migrator.spending.asking import make_embedder
from migrator.spending.hours import OutsideWindow, StartsLater, WindowCloses
from migrator.spending.purse import LeasePurse
from migrator.spending.worker import Worker
from migrator.state import leases, migrations, pace
from migrator.state.budget import Purpose
from migrator.state.connection import transaction
from tests.deployment import V4, Deployment
from tests.integration.steps import begin, first_tickets, ready, start, stored, to

S = MigrationStatus


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


@asynccontextmanager
async def purse(worker: Worker) -> AsyncIterator[LeasePurse]:
    """The purse of a batch that was just claimed."""
    ticket = (await first_tickets(worker))[0]
    async with transaction(worker.engine) as connection:
        lease = await leases.claim(connection, ticket, holder="test", seconds=60)
    assert lease is not None
    embedder = await make_embedder(worker, await stored(worker), Side.TO, lease, Purpose.BACKFILL)
    assert isinstance(embedder.purse, LeasePurse)
    yield embedder.purse
    async with transaction(worker.engine) as connection:
        await leases.give_back(connection, lease, counts_as_attempt=False)


async def test_outside_its_window_the_migration_rests(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.spec_data["limits"]["window"] = Clock.WINDOW
    await begin(deployment, worker, 30)
    clock = Clock(monkeypatch, 0)
    clock.watched = True
    made = await tick(worker.engine, actor="test")
    assert made.tickets == []
    assert "binds: window" in str(made)
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(windows=()), actor="test")
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


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
    failures = deployment.value("SELECT coalesce(sum(failures), 0) FROM migrator.paces")
    assert failures == 0, "it was we who did not wait: the breaker counts the provider's own failures"


async def test_windows_that_are_taken_away_end_no_request(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(deployment, worker, 10)
    clock = Clock(monkeypatch, 60)
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(windows=(clock.WINDOW,)), actor="test")
    async with purse(worker) as mine:
        clock.watched = True
        longest = await mine.admit("r1", bound_tokens=9, likely_tokens=9)
        assert longest is not None
        assert 50 < longest < 65
        await mine.refund("r1")
        await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(windows=()), actor="test")
        assert await mine.admit("r2", bound_tokens=9, likely_tokens=9) is None
        await mine.refund("r2")


@pytest.mark.parametrize("late", ["window", "start at"])
async def test_a_ticket_that_comes_too_late_asks_nobody(deployment: Deployment, worker: Worker, late: str) -> None:
    """Not even the canary."""
    await begin(deployment, worker, 10)
    (ticket,) = await first_tickets(worker)
    deployment.query("UPDATE migrator.canaries SET demanded = true RETURNING 1")
    before = deployment.simulator.ledger()["requests"]
    await close(worker, late)
    said = await perform(worker, ticket)
    assert said.startswith("OutsideWindow: docs rests" if late == "window" else "StartsLater: docs rests: it is not to")
    assert deployment.simulator.ledger()["requests"] == before
    assert deployment.value("SELECT binding FROM migrator.migrations").startswith(late)
    assert deployment.query("SELECT status, attempts FROM migrator.batches") == [("pending", 0)], "no attempt"


async def close(worker: Worker, how: str) -> None:
    """Let a schedule say that nothing is to be done now."""
    now = datetime.now(tz=UTC)
    far = f"{now + timedelta(hours=6):%H:%M}-{now + timedelta(hours=7):%H:%M} UTC"
    wanted = Wanted(windows=(far,)) if how == "window" else Wanted(start_at=now + timedelta(hours=3))
    await schedule.change(worker.engine, "docs", wanted, actor="test")


@pytest.mark.parametrize("late", ["window", "start at"])
async def test_requests_of_a_batch_in_hand_end_with_its_hours(
    deployment: Deployment, worker: Worker, late: str
) -> None:
    await begin(deployment, worker, 10)
    async with purse(worker) as mine:
        await mine.admit("r1", bound_tokens=9, likely_tokens=9)
        await mine.refund("r1")
        await close(worker, late)
        with pytest.raises((OutsideWindow, StartsLater), match="docs rests"):
            await mine.admit("r2", bound_tokens=9, likely_tokens=9)
    assert deployment.value("SELECT count(*) FROM migrator.reservations") == 0


@pytest.mark.parametrize("late", ["window", "start at"])
async def test_no_index_is_begun_outside_the_hours(deployment: Deployment, worker: Worker, late: str) -> None:
    deployment.make_table(10)
    with deployment.connect() as connection:
        connection.execute("CREATE INDEX docs_embedding_l2 ON docs USING hnsw (embedding vector_l2_ops)")
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    (ticket,) = [each for each in await first_tickets(worker) if ".index." in each.label]
    await close(worker, late)
    assert "docs rests" in await perform(worker, ticket)
    built = "SELECT count(*) FROM pg_indexes WHERE indexname LIKE '%%\\_\\_migrator'"
    assert deployment.value(built) == 0
    assert deployment.query("SELECT status, attempts FROM migrator.duties WHERE duty = 'index'") == [("pending", 0)]
    again = Wanted(windows=(), start_now=True)
    await schedule.change(worker.engine, "docs", again, actor="test")
    await to(worker, S.READY)
    assert deployment.value(built) == 2


async def test_a_slow_account_is_known_to_be_slow_by_the_next_lease(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each batch near a window's end would send one request that is given up, and counted as billed."""
    await begin(deployment, worker, 2000)
    clock = Clock(monkeypatch, 5)
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(windows=(clock.WINDOW,)), actor="test")
    async with purse(worker) as mine:
        worker.pacer.answered(mine.account, 10.0)
    async with purse(worker) as mine:
        clock.watched = True
        with pytest.raises(WindowCloses):
            await mine.admit("r1", bound_tokens=9, likely_tokens=9)
        for _ in range(200):
            worker.pacer.answered(mine.account, 0.1)
        assert await mine.admit("r2", bound_tokens=9, likely_tokens=9) is not None, "it is forgotten again"
        await mine.refund("r2")


async def test_a_renewal_near_its_windows_end_waits_until_it_is_closed(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates are measured again while `ready`: whoever would answer too late is not asked once a tick."""
    migration = await ready(deployment, worker, 20)
    deployment.query("UPDATE migrator.verdicts SET at = at - interval '23 h' RETURNING 1")
    clock = Clock(monkeypatch, 60)
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(windows=(clock.WINDOW,)), actor="test")
    worker.pacer.answered(pace.account_of(migration.spec.to), 100.0)
    (ticket,) = [each for each in await first_tickets(worker) if ".validate." in each.label]
    requests = deployment.simulator.ledger()["requests"]
    clock.watched = True
    assert "WindowCloses" in await perform(worker, ticket)
    # One request is the canary's, which no window binds.
    assert (deployment.status, deployment.simulator.ledger()["requests"]) == ("ready", requests + 1)
    waits = deployment.value(
        "SELECT extract(epoch FROM not_before - now()) FROM migrator.duties WHERE duty = 'validate' AND attempts = 0"
    )
    assert 30 < waits <= 60
    assert [each for each in await first_tickets(worker) if ".validate." in each.label] == []
