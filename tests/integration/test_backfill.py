"""The backfill engine on a real table and a real HTTP provider, in this process."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from migrator.demo.simulator.account import digest
from migrator.errors import GateFailed
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.work import CameToRest
from migrator.spending.worker import Worker
from migrator.state import leases, migrations
from migrator.state.connection import transaction
from migrator.state.leases import Ticket
from tests.deployment import V3, V4, Deployment, embed, literal, until
from tests.integration.steps import begin, drain, first_tickets, held_open, start, to

S = MigrationStatus


async def test_a_table_goes_to_ready_and_bills_every_text_once(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 300)
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.mismatches("embedding", V3) == []
    ledger = deployment.simulator.ledger(entries=True)
    billed = dict(deployment.query("SELECT purpose, spent_tokens FROM migrator.ledger"))
    assert billed["backfill"] == deployment.needed_tokens()
    assert sum(billed.values()) == ledger["tokens"]
    assert deployment.value("SELECT count(*) FROM migrator.reservations") == 0
    spent, committed = deployment.query(
        "SELECT sum(spent_usd), max(committed_usd) FROM migrator.ledger, migrator.budgets"
    )[0]
    assert spent == committed


async def test_p6_every_row_is_accounted_for(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(40)
    with deployment.connect() as connection:
        connection.execute("INSERT INTO docs (title, body) VALUES (NULL, NULL), ('', ''), (' ', E'\\t'), ('', NULL)")
        connection.execute(
            "INSERT INTO docs (title, body) VALUES ('x', 'POISON-CONTENT'), ('y', repeat('long ', 9000))"
        )
        connection.execute("ALTER TABLE docs ADD deleted bool NOT NULL DEFAULT false")
        connection.execute("UPDATE docs SET deleted = true WHERE id <= 3")
    deployment.spec_data["target"]["where"] = "NOT deleted"
    deployment.spec_data["gates"]["max_quarantined_share"] = 0.1
    await start(deployment, worker)
    await to(worker, S.READY)
    found = deployment.query("SELECT kind, reason, count(*) FROM migrator.dispositions GROUP BY 1, 2 ORDER BY 1, 2")
    assert found == [
        ("quarantined", "content", 1),
        ("quarantined", "too_long", 1),
        ("skipped", "null", 1),
        ("skipped", "whitespace", 3),
    ]
    total, embedded, outside = deployment.query(
        "SELECT count(*), count(embedding__migrator), count(*) FILTER (WHERE deleted) FROM docs"
    )[0]
    assert total == embedded + outside + sum(count for _, _, count in found)


async def test_truncated_rows_are_embedded_and_flagged(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(5)
    with deployment.connect() as connection:
        connection.execute("INSERT INTO docs (title, body) VALUES ('y', repeat('long ', 9000))")
    deployment.spec_data["limits"]["too_long"] = "truncate"
    await start(deployment, worker)
    await to(worker, S.READY)
    assert deployment.value("SELECT count(embedding__migrator) FROM docs") == 6
    assert deployment.query("SELECT kind, reason FROM migrator.dispositions") == [("truncated", "too_long")]


async def test_too_long_may_fail_the_migration_before_anything_is_sent(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(0)
    with deployment.connect() as connection:
        connection.execute("INSERT INTO docs (title, body) VALUES ('y', repeat('long ', 9000))")
    deployment.spec_data["limits"]["too_long"] = "fail"
    await start(deployment, worker)
    with pytest.raises(CameToRest, match="too_long = fail"):
        await to(worker, S.READY)
    assert deployment.entries() == []


async def test_p3_the_same_batch_delivered_twice_is_billed_once(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 60)
    (ticket,) = await first_tickets(worker)
    lines = await asyncio.gather(*(perform(worker, ticket) for _ in range(3)))
    assert sorted(lines)[1:] == ["stale ticket", "stale ticket"]
    assert await perform(worker, ticket) == "stale ticket"
    assert deployment.billed() == deployment.needed_tokens()


async def test_p3_a_pass_leaves_alone_what_catch_up_has_at_the_provider(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    (ticket,) = await first_tickets(worker)
    await perform(worker, ticket)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET title = 't', body = 'edited' WHERE id = 5")
    catch_up, prove = await first_tickets(worker)
    deployment.simulator.admin(latency_seconds=1.0)
    asking = asyncio.create_task(perform(worker, catch_up))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["in_flight"] > 0))
    deployment.forget_vector(9)
    assert "1 rows are left" in await perform(worker, prove)
    (window,) = await first_tickets(worker)
    assert await perform(worker, window) == "1 rows, 16 tokens, 0 quarantined"
    await asking
    entries = deployment.simulator.ledger(entries=True)["entries"]
    assert [text for entry in entries for text in entry["digests"]].count(digest("t\nedited")) == 1
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_p5_row_edited_while_being_embedded(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 20)
    deployment.simulator.admin(latency_seconds=0.5)
    (ticket,) = await first_tickets(worker)
    running = asyncio.create_task(perform(worker, ticket))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["in_flight"] > 0))
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'edited' WHERE id IN (1, 7)")
        connection.execute("DELETE FROM docs WHERE id = 3")
    await running
    assert deployment.query("SELECT id FROM docs WHERE embedding__migrator IS NULL ORDER BY id") == [(1,), (7,)]
    deployment.simulator.admin(latency_seconds=0)
    await to(worker, S.READY)
    await drain(worker)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_p4_no_transaction_is_open_while_the_provider_is_asked(
    deployment: Deployment, worker: Worker, sql: psycopg.Connection
) -> None:
    await begin(deployment, worker, 40)
    deployment.simulator.admin(latency_seconds=2)
    (ticket,) = await first_tickets(worker)
    running = asyncio.create_task(perform(worker, ticket))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["in_flight"] == 4))
    await asyncio.sleep(0.3)  # what came before the requests has ended by then
    before = sql.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").fetchone()
    for _ in range(10):
        sql.execute("CREATE TABLE IF NOT EXISTS pulse (n int); INSERT INTO pulse VALUES (1)")
        await asyncio.sleep(0.05)
        assert await held_open(sql) == []
    after = sql.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").fetchone()
    assert before is not None
    assert after is not None
    assert after[0] > before[0], "nothing of ours holds the horizon back"
    assert deployment.simulator.ledger()["in_flight"] == 4, "it was still being asked"
    await running


async def test_a_worker_that_slept_past_its_lease_writes_nothing(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 20)
    (ticket,) = await first_tickets(worker)
    deployment.simulator.admin(latency_seconds=0.5)
    running = asyncio.create_task(perform(worker, ticket))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["in_flight"] > 0))
    async with transaction(worker.engine) as connection:
        found = await migrations.get(connection, "docs")
        await leases.void(connection, found.id)
    assert "was lost" in await running
    assert deployment.value("SELECT count(embedding__migrator) FROM docs") == 0
    counted = deployment.value("SELECT coalesce(sum(spent_tokens), 0) FROM migrator.ledger")
    counted += deployment.value("SELECT coalesce(sum(tokens), 0) FROM migrator.reservations")
    assert counted >= deployment.simulator.ledger()["tokens"], "what was billed for nothing stays counted"


async def test_h4_a_write_that_crosses_the_swap_lands_in_its_own_generation(
    deployment: Deployment, worker: Worker
) -> None:
    from migrator.orchestrator import attended  # noqa: PLC0415

    await begin(deployment, worker, 30)
    await to(worker, S.READY)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'edited before' WHERE id = 1")
    deployment.simulator.admin(latency_seconds=1.0)
    tickets: list[Ticket] = []
    while not tickets:  # the one that `to` was given when it ended may still be trusted to be under way
        tickets = [ticket for ticket in await first_tickets(worker) if "catch-up" in ticket.label]
        await asyncio.sleep(0.1)
    running = asyncio.create_task(perform(worker, tickets[0]))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["in_flight"] > 0))
    await attended.cut_over(worker, "docs", max_dirty_rows=5, actor="test", tell=lambda _: None)
    deployment.simulator.admin(latency_seconds=0)
    await asyncio.wait_for(running, 30)
    assert deployment.mismatches("embedding", V4) == [], "the v4 vector went where v4 lives now"
    row = deployment.query("SELECT embedding__migrator::real[] FROM docs WHERE id = 1")[0][0]
    assert row is not None


async def test_h17_a_row_that_the_application_holds_is_not_waited_for(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    (ticket,) = await first_tickets(worker)
    with psycopg.connect(deployment.url) as holder:
        holder.execute("SELECT 1 FROM docs WHERE id = 5 FOR UPDATE")
        line = await asyncio.wait_for(perform(worker, ticket), 20)
        assert line.startswith("29 rows")
        assert deployment.value("SELECT count(*) FROM docs WHERE embedding__migrator IS NULL") == 1
        # Catch-up has it now, which pays for nothing that is held (test_catch_up); no window reads it again.
        assert deployment.query("SELECT key, side FROM migrator.dirty") == [(["5"], "to")]
    await to(worker, S.READY)
    await drain(worker)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_h17_a_row_that_is_freed_soon_is_not_paid_for_twice(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    (ticket,) = await first_tickets(worker)
    holder = psycopg.connect(deployment.url)
    holder.execute("SELECT 1 FROM docs WHERE id = 5 FOR UPDATE")
    running = asyncio.create_task(perform(worker, ticket))
    await until(
        lambda: asyncio.to_thread(lambda: deployment.value("SELECT count(embedding__migrator) FROM docs") == 29)
    )
    holder.close()
    assert (await running).startswith("30 rows")
    assert deployment.billed() == deployment.needed_tokens()


async def test_p2_a_row_that_moves_while_it_is_in_hand_is_paid_for_once(deployment: Deployment, worker: Worker) -> None:
    """The application moves it, into a window that is read before its vector lands."""
    await begin(deployment, worker, 900)
    first, *_, second = await first_tickets(worker)
    # The last row of its page is the last of its window to be embedded.
    key = deployment.value("SELECT id FROM docs WHERE ctid >= '(5,1)' AND ctid < '(6,0)' ORDER BY ctid DESC LIMIT 1")
    # Nothing lands before it is moved, or its page has room for it.
    deployment.simulator.admin(latency_seconds=2.0)
    one = asyncio.create_task(perform(worker, first))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["in_flight"] > 0))
    page = deployment.value(f"UPDATE docs SET n = n + 1 WHERE id = {key} RETURNING (ctid::text::point)[0]::int")
    assert page >= deployment.value("SELECT max(first_page) FROM migrator.batches"), "it stayed where it was"
    deployment.simulator.admin(latency_seconds=0.1)
    assert not one.done()
    await asyncio.gather(one, perform(worker, second))
    deployment.simulator.admin(latency_seconds=0)
    await to(worker, S.INDEXING)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.billed() == deployment.needed_tokens()
    assert deployment.value("SELECT count(in_hand) FROM migrator.batches") == 0


async def test_h19_a_row_that_moved_between_windows_is_found_by_the_proof(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 50)
    (ticket,) = await first_tickets(worker)
    await perform(worker, ticket)
    deployment.forget_vector(9)
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.value("SELECT pass_number FROM migrator.migrations") == 2


async def test_the_heap_rewritten_in_mid_run(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 80)
    await first_tickets(worker)
    with deployment.connect() as connection:
        connection.execute("VACUUM FULL docs")
        connection.execute("UPDATE migrator.batches SET ticket_until = NULL")
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_live_writes_during_the_backfill(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 150)
    deployment.simulator.admin(latency_seconds=0.05)
    stop = asyncio.Event()

    def write(number: int) -> None:
        with deployment.connect() as connection:
            text = f"t\nnew {number}"
            connection.execute(
                "INSERT INTO docs (title, body, embedding) VALUES ('t', %s, %s)",
                [f"new {number}", literal(embed(V3, text))],
            )
            connection.execute(
                "UPDATE docs SET title = 't', body = %s, embedding = %s WHERE id = %s",
                [f"edit {number}", literal(embed(V3, f"t\nedit {number}")), 1 + number % 140],
            )
            connection.execute("UPDATE docs SET n = n + 1 WHERE id = %s", [1 + number % 100])
            connection.execute("DELETE FROM docs WHERE id = %s", [200 + number])

    async def writer() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await asyncio.to_thread(write, number)

    writing = asyncio.create_task(writer())
    await asyncio.sleep(0.2)
    try:
        await to(worker, S.READY)
    finally:
        stop.set()
        await writing
    await drain(worker)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.mismatches("embedding", V3) == []


async def test_a_shifted_batch_fails_the_assignment_gate(deployment: Deployment, worker: Worker) -> None:
    """Every count is right and every vector is whole: only re-embedding a sample shows it."""
    await begin(deployment, worker, 60)
    await to(worker, S.INDEXING)
    with deployment.connect() as connection:
        connection.execute(
            """UPDATE docs d SET embedding__migrator = s.next FROM (
                 SELECT id, lead(embedding__migrator) OVER (ORDER BY id) AS next FROM docs) s
                WHERE d.id = s.id AND s.next IS NOT NULL"""
        )
    with pytest.raises(GateFailed, match="assignment"):
        await to(worker, S.READY)
    assert deployment.status == "paused"


async def test_h24_too_many_quarantined_rows_fail_a_gate_until_waived(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(20)
    with deployment.connect() as connection:
        connection.execute("INSERT INTO docs (title) VALUES ('POISON-CONTENT')")
    await start(deployment, worker)
    with pytest.raises(GateFailed, match=r"quarantined is 0\.047"):
        await to(worker, S.READY)
    await verbs.waive(worker.engine, "docs", "quarantined", reason="one known row", actor="me")
    assert deployment.status == "ready"
    before_it_asks = deployment.must("cutover", "docs", "--dry-run")
    assert "1 quarantined rows have no new vector: no search finds them" in before_it_asks
    assert "gate quarantined was waived by me (one known row)" in before_it_asks


async def test_a_gate_that_finds_rows_without_a_vector_sends_it_back(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 40)
    await to(worker, S.INDEXING)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET embedding__migrator = NULL WHERE id = 4")
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_h22_rows_hidden_by_row_security_are_an_error_not_a_smaller_count(
    deployment: Deployment, sql: psycopg.Connection
) -> None:
    from sqlalchemy import text  # noqa: PLC0415

    from migrator.state.connection import PrivilegeMissing, make_engine  # noqa: PLC0415

    deployment.make_table(20)
    sql.execute("CREATE ROLE hidden_reader LOGIN; GRANT SELECT ON docs TO hidden_reader")
    sql.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON docs USING (id < 6)")
    engine = make_engine(deployment.url.replace("postgres@", "hidden_reader@"), "test")
    try:
        with pytest.raises(PrivilegeMissing):
            async with transaction(engine) as connection:
                await connection.execute(text("SELECT count(*) FROM public.docs"))
    finally:
        await engine.dispose()
        sql.execute("DROP OWNED BY hidden_reader; DROP ROLE hidden_reader")
