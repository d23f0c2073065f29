"""What stops the backfill by itself: a provider that fails, one that refuses too many texts; and cancelled requests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.demo.simulator.app import POISON
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import brakes, progress, verbs, work
from migrator.orchestrator.tick import tick
from migrator.orchestrator.work import CameToRest
from migrator.spending.worker import Worker
from migrator.state import breaker, migrations, pace, tallies
from migrator.state.connection import transaction
from tests.deployment import V4, Deployment, until
from tests.integration.steps import begin, start, to

S = MigrationStatus


async def fail(engine: AsyncEngine, source: str, *, answers: int = 0) -> bool:
    async with transaction(engine) as connection:
        return await breaker.count_failure(connection, "a", "HTTP 503", source=source, answers=answers)


async def probe(engine: AsyncEngine) -> float:
    async with transaction(engine) as connection:
        return await breaker.take_probe(connection, "a")


async def test_r19_it_opens_for_a_share_of_enough_failures_from_several_batches(engine: AsyncEngine) -> None:
    opened = [await fail(engine, f"batch:{number % 3}") for number in range(12)]
    assert opened == [False] * 9 + [True] + [False] * 2, "the tenth opens it, once"


async def test_r19_one_text_that_fails_is_no_outage(engine: AsyncEngine) -> None:
    assert not any([await fail(engine, f"batch:{number % 2}") for number in range(30)])


async def test_r19_failures_among_answers_do_not_open_it(engine: AsyncEngine) -> None:
    assert not any([await fail(engine, f"batch:{number % 5}", answers=2) for number in range(30)])


async def test_r19_failures_of_long_ago_do_not_count(engine: AsyncEngine) -> None:
    for number in range(9):
        await fail(engine, f"batch:{number}")
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE migrator.paces SET counting_since = now() - interval '1 min'"))
    assert not await fail(engine, "batch:9")


async def test_r19_one_probe_an_interval_and_its_answer_closes_it(engine: AsyncEngine) -> None:
    for number in range(10):
        await fail(engine, f"batch:{number}")
    waits = await asyncio.gather(*(probe(engine) for _ in range(8)))
    assert all(0 < wait <= breaker.PROBE_SECONDS for wait in waits)
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE migrator.paces SET probe_at = now()"))
    waits = await asyncio.gather(*(probe(engine) for _ in range(8)))
    assert sorted(waits)[:2] == [0, pytest.approx(breaker.PROBE_SECONDS, abs=2)], "one may, the others wait"
    async with transaction(engine) as connection:
        await breaker.close(connection, "a")
        assert (await pace.read(connection, "a")).breaker_since is None
    assert await probe(engine) == 0


async def test_r19_a_storm_is_waited_out_with_probes_and_no_attempt_is_burned(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 1.0)
    monkeypatch.setattr(breaker, "FLOOR", 6)
    monkeypatch.setattr(breaker, "SOURCES", 1)
    await begin(deployment, worker, 400)
    deployment.simulator.admin(faults=[{"count": 10_000, "status": 503, "body": {}}])
    loop = asyncio.get_running_loop()
    lines: list[str] = []
    working = asyncio.create_task(work.work(worker, "docs", until=S.READY, on_line=lines.append))

    async def is_open() -> bool:
        return bool(deployment.query("SELECT 1 FROM migrator.paces WHERE breaker_since IS NOT NULL"))

    await until(is_open)

    def refused() -> int:
        return int(deployment.simulator.ledger()["refused"]["fault 503"])

    before, since = refused(), loop.time()
    await until(lambda: asyncio.to_thread(lambda: refused() >= before + 6))
    assert refused() - before <= loop.time() - since + 5, "what was in flight, and one a second"
    lines = [line for line in lines if "binds" in line]
    assert "binds: breaker open since 20" in lines[-1]
    assert "provider overloaded (HTTP 503)" in lines[-1]
    assert deployment.value("SELECT max(attempts) FROM migrator.batches") <= 1, "the one that holds it now"
    assert deployment.status == "backfilling"
    async with transaction(worker.engine) as connection:
        found = await progress.read(connection, await migrations.get(connection, "docs"))
    assert progress.as_json(found)["throttle"]["binding"].startswith("breaker open since")
    deployment.simulator.admin(no_faults=True)
    await working
    assert not await is_open()
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.value("SELECT max(attempts) FROM migrator.batches WHERE status = 'done'") == 1
    assert "the breaker opened" in str(deployment.query("SELECT reason FROM migrator.transitions"))


async def test_r21_too_many_quarantined_rows_pause_and_resume_accepts_them(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brakes, "QUARANTINE_ROWS", 100)
    deployment.make_table(300)
    with deployment.connect() as sql:
        sql.execute(f"UPDATE docs SET body = '{POISON}' WHERE id % 20 = 0".encode())
    await start(deployment, worker)
    with pytest.raises(CameToRest, match="rows were quarantined, more than 1 %"):
        await to(worker, S.INDEXING)
    assert deployment.status == "paused"
    deployment.must("rows", "docs")
    monkeypatch.setattr(brakes, "QUARANTINE_ROWS", 1000)
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.INDEXING)
    quarantined = deployment.value("SELECT count(*) FROM migrator.dispositions WHERE kind = 'quarantined'")
    assert quarantined == 15


async def test_r21_resume_counts_from_what_was_seen(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    async with transaction(worker.engine) as connection:
        made = await migrations.get(connection, "docs")
        await connection.execute(
            text(
                "INSERT INTO migrator.dispositions (migration_id, key, kind, reason)"
                " SELECT :id, ARRAY[n::text], 'quarantined', 'content' FROM generate_series(1, :count) n"
            ),
            {"id": made.id, "count": 1000},
        )
        counts = await tallies.counts(connection, made.id)
        assert "1,000 of 1,000" in str(await brakes.too_many_quarantined(connection, made, counts))
        again = await migrations.get(connection, "docs")
        assert await brakes.too_many_quarantined(connection, again, counts) is None
        await connection.execute(
            text(
                "INSERT INTO migrator.dispositions (migration_id, key, kind, reason)"
                " SELECT :id, ARRAY[n::text], 'quarantined', 'content' FROM generate_series(1001, 1999) n"
            ),
            {"id": made.id},
        )
        assert await brakes.too_many_quarantined(connection, again, counts) is None, "999 more are no share yet"


async def test_a_request_that_a_minute_can_not_grant_is_an_error_and_no_wait(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 30)
    asked = deployment.simulator.ledger()["requests"]
    committed = deployment.value("SELECT committed_usd FROM migrator.budgets")
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(tokens_per_minute=20), actor="test")
    with pytest.raises(CameToRest, match="the limit grants 20 tokens in a whole minute"):
        await to(worker, S.READY)
    assert deployment.simulator.ledger()["requests"] == asked
    assert deployment.value("SELECT committed_usd FROM migrator.budgets") == committed
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(tokens_per_minute=0), actor="test")
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)


async def test_r16_after_a_429_no_process_sends_until_the_pause_is_over(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 600)
    deployment.simulator.admin(latency_seconds=0.05)
    processes = [deployment.work(log=f"work-{number}.log") for number in range(2)]
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["requests"] >= 10))
    fault = {"status": 429, "body": {"error": {"code": "limit_requests"}}, "headers": {"retry-after": "4"}}
    deployment.simulator.admin(faults=[{"count": 1, **fault}])
    await until(lambda: asyncio.to_thread(lambda: "fault 429" in deployment.simulator.ledger()["refused"]))
    deployment.wait_for("ready")
    for process in processes:
        await asyncio.to_thread(process.wait, 60)
    moments = sorted(entry["at"] for entry in deployment.simulator.ledger(entries=True)["entries"])
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert max(gaps) > 3.7
    assert deployment.simulator.ledger()["refused"] == {"fault 429": 1}, "nobody asked meanwhile"


async def test_p7_who_is_cancelled_while_reserving_keeps_no_money(deployment: Deployment, worker: Worker) -> None:
    """Nothing was sent yet: at whatever await it is cancelled, the reservation is gone or the request was sent."""
    await begin(deployment, worker, 100)
    deployment.simulator.admin(latency_seconds=0.02)
    for step in range(16):
        working = asyncio.create_task(to(worker, S.READY))
        await asyncio.sleep(0.1 + 0.02 * step)
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
        with deployment.connect() as sql:  # tickets and leases that nobody has any more
            sql.execute("UPDATE migrator.batches SET ticket_until = NULL, lease_until = lease_until - interval '9 s'")
            sql.execute("UPDATE migrator.duties SET ticket_until = NULL, lease_until = lease_until - interval '9 s'")
    await tick(worker.engine, actor="test")
    with deployment.connect() as sql:
        sql.execute("UPDATE migrator.batches SET ticket_until = NULL")
        sql.execute("UPDATE migrator.duties SET ticket_until = NULL")
    opened = deployment.value("SELECT count(*) FROM migrator.reservations WHERE NOT possibly_billed")
    assert opened == 0
    spent, possibly = deployment.query(
        "SELECT (SELECT coalesce(sum(spent_tokens), 0) FROM migrator.ledger)::int,"
        " (SELECT coalesce(sum(tokens), 0) FROM migrator.reservations)::int"
    )[0]
    billed = deployment.simulator.ledger()["tokens"]
    assert 0 < spent <= billed <= spent + possibly
    await to(worker, S.READY)


async def test_p7_what_a_lease_left_behind_is_counted_however_it_ended(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    await tick(worker.engine, actor="test")
    deployment.query(
        "INSERT INTO migrator.reservations (id, migration_id, purpose, tokens, usd, lease)"
        " SELECT name, 1, 'backfill', 7, 0.000007, name FROM unnest(ARRAY['batch:1#99', 'duty:12345#1']) AS name"
        " RETURNING 1"
    )
    await tick(worker.engine, actor="test")
    assert deployment.query("SELECT DISTINCT possibly_billed FROM migrator.reservations") == [(True,)]
