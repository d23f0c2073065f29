"""Catch-up: edits are debounced, and what can't be kept up with is said, with both rates, until it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.backfill import catch_up
from migrator.backfill.classify import Work
from migrator.backfill.embedding import Progress
from migrator.backfill.landing import Landing
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import progress, verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.orchestrator.verbs import NewLimits
from migrator.orchestrator.work import CameToRest
from migrator.provider.embedder import Embedder
from migrator.spending.worker import Worker
from migrator.state import dirty, leases, migrations
from migrator.state.budget import Purpose
from migrator.state.connection import transaction
from migrator.state.leases import Duty
from migrator.state.migrations import Migration
from tests.deployment import V3, V4, Deployment, until
from tests.integration.steps import begin, drain, first_tickets, ready, stored, to
from tests.integration.swaps import cut_over, roll_back

S = MigrationStatus


async def _shift(worker: Worker) -> None:
    for ticket in await first_tickets(worker):
        await perform(worker, ticket)


async def test_many_edits_of_a_row_within_the_window_are_one_embedding(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, rows=20)
    before = len(deployment.entries())
    working = asyncio.create_task(_shift(worker))
    with deployment.connect() as connection:
        for number in range(12):  # 1.2 s of keystrokes, and catch-up looks all the time
            connection.execute("UPDATE docs SET title = 't', body = %s WHERE id = 7", [f"keystroke {number:02d}"])
            await asyncio.sleep(0.1)
    await working
    await drain(worker)
    assert deployment.mismatches("embedding__migrator", V4) == []
    # Without the canary's texts: where the table was made `ready` long ago it is due again.
    assert len(deployment.entries()) - before == 1, "one request, for the last of them"


@pytest.mark.parametrize("paused", [False, True])
async def test_p2_work_that_has_got_there_lands_what_catch_up_asked_for(
    deployment: Deployment, worker: Worker, *, paused: bool
) -> None:
    """The status does not wait for a late edit; its answer is paid for, and whoever leaves waits, and looks again."""
    await ready(deployment, worker, rows=20)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET status = 'validating'")
        connection.execute("DELETE FROM migrator.verdicts")
        connection.execute("UPDATE docs SET body = 'edited late' WHERE id = 7")
        connection.execute("UPDATE migrator.dirty SET at = at - interval '2 s'")
    deployment.simulator.admin(latency_seconds=4.0)
    working = asyncio.create_task(to(worker, S.READY))

    async def asked() -> bool:
        return bool(deployment.query("SELECT FROM migrator.reservations WHERE purpose = 'catch-up'"))

    await until(asked)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET status = 'ready'")
    if paused:
        # While it waits for catch-up: a look at the status is at most a second old.
        await asyncio.sleep(1.5)
        with deployment.connect() as connection:
            connection.execute(
                "UPDATE migrator.migrations SET status = 'paused', paused_from = 'ready', reason = 'meanwhile'"
            )
        with pytest.raises(CameToRest, match="meanwhile"):
            await working
    else:
        await working
    deployment.simulator.admin(latency_seconds=0.0)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.query("SELECT purpose FROM migrator.reservations WHERE purpose = 'catch-up'") == []
    assert deployment.query("SELECT purpose FROM migrator.ledger WHERE unwritten_tokens > 0") == []


async def test_a_row_that_is_edited_all_the_time_is_not_put_off_for_ever(
    deployment: Deployment, worker: Worker
) -> None:
    found = await ready(deployment, worker, rows=5)
    with deployment.connect() as connection:
        for _ in range(3):
            connection.execute("UPDATE docs SET body = body || 'x' WHERE id = 2")
        connection.execute(
            "UPDATE migrator.dirty SET at = at - interval '11 s' WHERE id = (SELECT min(id) FROM migrator.dirty)"
        )
    async with transaction(worker.engine) as connection:
        assert not await dirty.read(connection, found.id, Side.FROM, limit=9, quiet_seconds=1.0)
        assert list((await dirty.read(connection, found.id, Side.TO, limit=9, quiet_seconds=1.0)).by_key) == [("2",)]
        assert not await dirty.read(connection, found.id, Side.TO, limit=0, quiet_seconds=1.0)


async def test_not_converging_is_said_with_both_rates_and_passes(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["hooks"] = {"command": ["true"], "on": ["not_converging"]}
    await ready(deployment, worker, rows=300)
    await verbs.set_limits(worker.engine, "docs", NewLimits(requests_per_minute=30), actor="test")
    stop = asyncio.Event()

    def edit(number: int) -> None:
        with deployment.connect() as connection:
            connection.execute(
                "UPDATE docs SET body = %s || id WHERE id BETWEEN %s AND %s",
                [f"edit {number} ", 1 + number * 15 % 300, 15 + number * 15 % 300],
            )

    async def write() -> None:
        number = 0
        while not stop.is_set():
            await asyncio.to_thread(edit, number)
            number += 1
            await asyncio.sleep(0.5)

    writing, line = asyncio.create_task(write()), ""

    async def said() -> bool:
        nonlocal line
        made = await tick(worker.engine, actor="test")
        line = str(made)
        working.extend(asyncio.create_task(perform(worker, ticket)) for ticket in made.tickets)
        await asyncio.sleep(0.5)
        return "not converging" in line

    working: list[asyncio.Task[str]] = []
    await until(said, seconds=60)
    assert " rows/s arrive, " in line
    assert line.endswith(" rows/s are embedded")
    found = await stored(worker)
    async with transaction(worker.engine) as connection:
        seen = await progress.read(connection, found)
    told = progress.as_json(seen)["catch_up"]
    assert told["converging"] is False
    ((event, reason),) = deployment.query("SELECT event, reason FROM migrator.hook_events")
    assert (event, reason[:15]) == ("not_converging", "not converging:"), "told once, however many ticks see it"
    assert told["arrivals_per_second"] > told["embeddings_per_second"] > 0
    shown = deployment.run("status", "docs", "--exit-code")
    assert shown.returncode == 75
    assert "not converging" in shown.stdout
    stop.set()
    await writing
    await verbs.set_limits(worker.engine, "docs", NewLimits(requests_per_minute=0), actor="test")
    await asyncio.gather(*working)
    await drain(worker)
    with deployment.connect() as connection:  # two samples of a falling backlog, as the next ticks take them
        connection.execute("UPDATE migrator.flows SET at = at - interval '3 s'")
    assert "not converging" not in str(await tick(worker.engine, actor="test"))
    assert json.loads(deployment.must("status", "docs", "--json"))["catch_up"]["converging"] is True
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_h19_the_proof_finds_a_vector_where_there_is_no_text(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 20)
    (ticket,) = await first_tickets(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET title = NULL, body = '  ' WHERE id = 4")
    await perform(worker, ticket)
    with deployment.connect() as connection:
        connection.execute("SET session_replication_role = replica; ALTER TABLE docs DISABLE TRIGGER USER")
        connection.execute(
            "UPDATE docs SET embedding__migrator = (SELECT embedding__migrator FROM docs WHERE id = 5) WHERE id = 4"
        )
        connection.execute(
            "ALTER TABLE docs ENABLE ALWAYS TRIGGER zzzz_capture__migrator;"
            "DELETE FROM migrator.dirty; DELETE FROM migrator.dispositions"
        )
    with pytest.raises(CameToRest, match="1 rows of docs have no text, and a vector in embedding__migrator"):
        await to(worker, S.READY)
    assert deployment.status == "paused"


async def test_r9_nothing_is_given_again_while_nobody_takes_it(deployment: Deployment, worker: Worker) -> None:
    """A weekend without workers must not fill the broker."""
    await begin(deployment, worker, 60)
    assert len((await tick(worker.engine, actor="beat", ticket_seconds=0)).tickets) == 1
    for _ in range(3):
        assert (await tick(worker.engine, actor="beat", ticket_seconds=0)).tickets == []
    with deployment.connect() as connection:
        connection.execute(
            "INSERT INTO migrator.workers (name, host, pid, slots, queues, version, keys_present)"
            " VALUES ('w', 'h', 1, 2, '{}', '1', '{}')"
        )
    assert len((await tick(worker.engine, actor="beat", ticket_seconds=0)).tickets) == 1


class Killed(BaseException):
    """What stands for SIGKILL: nothing is caught, nothing is given back."""


@pytest.mark.parametrize("when", ["before the cutover", "after it", "after the rollback"])
async def test_r8_a_row_that_kills_whoever_keeps_the_live_column_is_given_up(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Else it would be the oldest hint for ever, and no row behind it would get its vector."""
    await ready(deployment, worker, rows=8)
    if when != "before the cutover":
        await cut_over(worker)
    if when == "after the rollback":
        await roll_back(worker)
    migration = await stored(worker)
    side, model = (Side.TO, V4) if when == "after it" else (Side.FROM, V3)
    with deployment.connect() as connection:
        connection.execute("SELECT set_config('migrator.generation', %s, false)", [f"qwen/{V4}@64"])
        connection.execute("UPDATE docs SET body = 'poison' WHERE id = 3")
        connection.execute("UPDATE docs SET body = 'after it' WHERE id = 4")
        if when == "after it":  # a writer of the old generation leaves the live column to us
            connection.execute("RESET migrator.generation; UPDATE docs SET body = body || '!' WHERE id IN (3, 4)")

    embed_and_land = catch_up.embed_and_land

    async def deadly(worker: Worker, embedder: Embedder, landing: Landing, work: Sequence[Work]) -> Progress:
        if any("poison" in each.text for each in work):
            raise Killed
        return await embed_and_land(worker, embedder, landing, work)

    monkeypatch.setattr(catch_up, "embed_and_land", deadly)
    died = 0
    while deployment.value("SELECT count(*) FROM migrator.dirty WHERE side = %s", side.value):
        async with transaction(worker.engine) as connection:
            lease = await leases.take(connection, migration.id, Duty.CATCH_UP, holder=worker.holder, seconds=30)
            assert lease is not None
        try:
            while await catch_up.once(worker, migration, lease, side, Purpose.CATCH_UP) is not None:
                pass
            async with transaction(worker.engine) as connection:
                await leases.finish(connection, lease)
        except Killed:
            died += 1
            assert died < 12, "it goes on for ever"
            with deployment.connect() as connection:
                connection.execute(
                    "UPDATE migrator.duties SET lease_until = now() - interval '1 s' WHERE duty = 'catch-up'"
                )
            async with transaction(worker.engine) as connection:
                await leases.rescue(connection, migration.id)
    assert died == 4 + 3, "500, 125, 31, 7 at once, and then three times alone"
    assert deployment.mismatches("embedding", model) == [3]
    where = "migrator.dispositions" if side is Side.TO else "migrator.transitions"
    assert deployment.value(f"SELECT count(*) FROM {where} WHERE reason LIKE 'worker_died%%'") == 1


async def test_h4_hints_are_held_against_a_column_that_no_swap_can_change(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolved before the lock, a hint could be held against the other column, which is full, and be forgotten."""
    await ready(deployment, worker, rows=5)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'new' WHERE id = 3")
    locked = []
    get_by_id = migrations.get_by_id

    async def look(connection: AsyncConnection, migration_id: int) -> Migration:
        query = """SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'RowExclusiveLock'
                    AND relation = 'public.docs'::regclass"""
        locked.append((await connection.execute(text(query))).scalar_one())
        return await get_by_id(connection, migration_id)

    found = await stored(worker)
    async with transaction(worker.engine) as connection:
        lease = await leases.take(connection, found.id, Duty.CATCH_UP, holder="test", seconds=60)
    assert lease is not None
    with monkeypatch.context() as patched:
        patched.setattr(catch_up.migrations, "get_by_id", look)
        await catch_up.once(worker, found, lease, Side.TO, Purpose.CATCH_UP)
    assert locked[0] == 1
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_p2_a_row_that_the_application_holds_is_not_paid_for_until_it_is_free(
    deployment: Deployment, worker: Worker
) -> None:
    found = await ready(deployment, worker, rows=5)
    async with transaction(worker.engine) as connection:
        lease = await leases.take(connection, found.id, Duty.CATCH_UP, holder="test", seconds=60)
    assert lease is not None
    with deployment.connect() as writer, deployment.connect() as holder:
        writer.execute("UPDATE docs SET body = 'held' WHERE id = 3")
        writer.execute("UPDATE docs SET body = 'free' WHERE id = 4")
        before = len(deployment.entries())
        with holder.transaction():
            holder.execute("SELECT FROM docs WHERE id = 3 FOR UPDATE")
            assert await catch_up.once(worker, found, lease, Side.TO, Purpose.CATCH_UP) is not None
            for _ in range(3):
                assert await catch_up.once(worker, found, lease, Side.TO, Purpose.CATCH_UP) is None
            assert [len(entry["digests"]) for entry in deployment.entries()[before:]] == [1]
        assert await catch_up.once(worker, found, lease, Side.TO, Purpose.CATCH_UP) is not None
    assert deployment.mismatches("embedding__migrator", V4) == []
