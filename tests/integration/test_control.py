"""Pause, resume, cancel: within one batch, with dead workers, without a broker; and progress that never goes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import progress, verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.progress import Progress
from migrator.orchestrator.tick import tick
from migrator.spending.purse import WorkStopped
from migrator.spending.worker import Worker
from migrator.state.connection import transaction
from tests.deployment import V4, Deployment, until
from tests.integration.steps import begin, first_tickets, ready, start, stored, to
from tests.integration.swaps import cut_over

S = MigrationStatus


async def read(worker: Worker) -> Progress:
    migration = await stored(worker)
    async with transaction(worker.engine) as connection:
        return await progress.read(connection, migration)


def seen_answers(deployment: Deployment, count: int) -> Any:
    return lambda: asyncio.to_thread(lambda: len(deployment.entries()) >= count)


async def test_cancel_takes_effect_with_the_next_request_and_keeps_everything(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 200)
    deployment.simulator.admin(latency_seconds=0.2)
    (ticket,) = await first_tickets(worker)
    running = asyncio.create_task(perform(worker, ticket))
    await until(seen_answers(deployment, 2))
    await verbs.cancel(worker.engine, "docs", actor="test")
    assert progress.status_word(await read(worker)).startswith("cancelling (1 batches")
    assert "docs is cancelled, so no further request" in await running
    entries = deployment.entries()
    assert len(entries) <= 12, "those in flight, and one more of each sender"
    paid = sum(len(entry["digests"]) for entry in entries)
    assert deployment.value("SELECT count(embedding__migrator) FROM docs") == paid > 0
    assert progress.status_word(await read(worker)) == "cancelled"
    assert (await tick(worker.engine, actor="test")).tickets == []


async def test_a_pause_that_waits_for_a_dead_worker_ends_with_its_lease(deployment: Deployment, worker: Worker) -> None:
    """SIGKILL of the only worker in mid-batch; the broker is not there at all."""
    await begin(deployment, worker, 200)
    deployment.simulator.admin(latency_seconds=0.3)
    process = deployment.work()
    deployment.wait(lambda: deployment.simulator.ledger()["in_flight"] > 0, process)
    deployment.kill(process)
    await verbs.pause(worker.engine, "docs", actor="test")
    assert progress.status_word(await read(worker)) == "pausing (1 batches finishing)", "its lease stands a while"

    async def ended() -> bool:
        return progress.status_word(await read(worker)) == "paused"

    await until(ended, seconds=20)
    assert (await tick(worker.engine, actor="test")).tickets == [], "a paused migration is given out to nobody"
    assert deployment.query("SELECT status, failure FROM migrator.batches") == [("pending", "the worker fell silent")]
    lost = deployment.value("SELECT count(*) FROM migrator.reservations WHERE possibly_billed")
    assert lost > 0, "what was in flight stays counted, without waiting for `resume`"
    deployment.simulator.admin(latency_seconds=0)
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_pause_all_goes_on_when_one_comes_to_rest_meanwhile(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.make_table(10)
    with deployment.connect() as connection:
        connection.execute("CREATE TABLE others (LIKE docs INCLUDING ALL)")
    await start(deployment, worker)
    deployment.spec_data["name"] = "second"
    deployment.spec_data["target"]["table"] = "public.others"
    await start(deployment, worker)
    real = verbs.pause

    async def slow(engine: Any, name: str, *, actor: str) -> Any:
        if name == "docs":
            await verbs.cancel(engine, name, actor=actor)  # somebody else, between the list and its turn
        return await real(engine, name, actor=actor)

    monkeypatch.setattr(verbs, "pause", slow)
    assert await verbs.pause_all(worker.engine, actor="test") == ["second"]
    assert dict(deployment.query("SELECT name, status FROM migrator.migrations")) == {
        "docs": "cancelled",
        "second": "paused",
    }


async def test_a_pause_meets_a_move_of_the_workers(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof moves it on between the look and the pause: it is paused from where it stands then."""
    await begin(deployment, worker, 10)
    real, met = verbs.migrations.pause, 0

    async def raced(connection: Any, migration_id: int, **words: Any) -> bool:
        nonlocal met
        met += 1
        if met == 1:
            return False  # what a lost race answers
        return await real(connection, migration_id, **words)

    monkeypatch.setattr(verbs.migrations, "pause", raced)
    found = await verbs.pause(worker.engine, "docs", actor="test")
    assert (found.status, found.paused_from, met) == (S.PAUSED, S.BACKFILLING, 2)


@pytest.mark.timeout(180)
def test_all_on_the_command_line(deployment: Deployment) -> None:
    """`resume --all` takes back `pause --all`, and nothing that stopped for another reason."""
    deployment.make_table(10)
    deployment.must("start", deployment.spec_file, "--yes")
    assert "docs is paused" in deployment.must("pause", "--all")
    assert "nothing to pause" in deployment.must("pause", "--all")
    assert "docs goes on" in deployment.must("resume", "--all")
    assert deployment.status == "backfilling"
    deployment.must("pause", "docs")
    deployment.query("UPDATE migrator.migrations SET reason = 'CapReached: docs reached its cap' RETURNING id")
    assert "nothing that an operator had paused" in deployment.must("resume", "--all")
    assert deployment.status == "paused"
    deployment.must("resume", "docs", "--all", code=2)


async def test_progress_is_monotonic_and_tells_arrivals_apart(deployment: Deployment, worker: Worker) -> None:
    """Rows that arrive, are edited, deleted, quarantined and retried: the share never goes backwards."""
    await begin(deployment, worker, 150)
    deployment.simulator.admin(latency_seconds=0.05)
    shares: list[float] = []

    async def look() -> Progress:
        found = await read(worker)
        shares.append(found.share)
        return found

    assert (await look()).share == 0
    working = asyncio.create_task(to(worker, S.READY))
    for number in range(1, EDITS + 1):
        await asyncio.to_thread(_disturb, deployment, number)
        await look()
        if number % 5 == 0:
            await verbs.retry(worker.engine, "docs", actor="test")
    await working
    assert (await look()).share == 1.0
    assert shares == sorted(shares), "never backwards"
    assert any(0 < share < 1 for share in shares), "it was looked at on the way"
    await until(lambda: _arrived(worker, EDITS))
    said = progress.as_json(await look())
    assert (said["rows"]["arrived"], said["rows"]["share"]) == (EDITS, 1.0)
    assert f"{EDITS} arrived since the start" in deployment.must("status", "docs")


#: Disturbances of one run.
EDITS = 20


def _disturb(deployment: Deployment, number: int) -> None:
    with deployment.connect() as connection:
        deployment.insert(connection, 1, first=1000 + number)
        connection.execute("UPDATE docs SET body = %s WHERE id = %s", [f"edit {number}", number])
        connection.execute("DELETE FROM docs WHERE id = %s", [150 - number])
        if number == 3:
            connection.execute("UPDATE docs SET body = 'POISON-CONTENT' WHERE id = 77")
        connection.execute("SELECT pg_stat_force_next_flush()")


async def _arrived(worker: Worker, count: int) -> bool:
    return (await read(worker)).rows_arrived == count


async def test_no_eta_below_one_percent_and_one_from_the_recent_rate(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 300)
    deployment.query(
        "INSERT INTO migrator.batches (migration_id, number, pass_number, relation_oid, relation_file, first_page,"
        " last_page, status, rows_written, finished_at, leased_at)"
        " SELECT id, 900, 1, 1, 1, 0, 0, 'done', 2, clock_timestamp(), clock_timestamp() - interval '1 s'"
        " FROM migrator.migrations RETURNING id"
    )
    found = await read(worker)
    assert found.share == pytest.approx(2 / 300)
    assert found.eta_seconds is None, "2 of 300 rows are less than one percent"
    deployment.query("UPDATE migrator.batches SET rows_written = 150 WHERE number = 900 RETURNING id")
    found = await read(worker)
    assert found.rows_per_second > 0
    assert found.eta_seconds == pytest.approx(150 / found.rows_per_second)


async def test_status_answers_behind_a_waiting_alter_table(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 10)
    with deployment.connect() as holder, holder.transaction():
        holder.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        assert (await asyncio.wait_for(read(worker), 3)).rows_in_scope == 10


@pytest.mark.parametrize(("verb", "status"), [(verbs.cancel, "cancelled"), (verbs.pause, "paused")])
async def test_a_cutover_that_still_catches_up_is_stopped_with_the_next_request(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch, verb: Any, status: str
) -> None:
    await ready(deployment, worker, 40)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'edited ' || id")
    monkeypatch.setattr("migrator.backfill.catch_up.HINTS", 2)
    deployment.simulator.admin(latency_seconds=0.3)
    before = len(deployment.entries())
    running = asyncio.create_task(cut_over(worker, 0))
    await until(seen_answers(deployment, before + 1))
    await verb(worker.engine, "docs", actor="test")
    with pytest.raises(WorkStopped, match=f"docs is {status}, so no further request"):
        await running
    assert len(deployment.entries()) <= before + 4
    assert deployment.value("SELECT live_side FROM migrator.migrations") == "from"
