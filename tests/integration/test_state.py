"""State: guarded moves, leases with fences, a budget that holds under concurrency, a pace for everybody."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from decimal import Decimal
from itertools import product

import psycopg
import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.backfill import suspects
from migrator.errors import Defect, MigratorError, StatusConflict
from migrator.lifecycle import TRANSITIONS, MigrationStatus, is_allowed
from migrator.orchestrator import brakes
from migrator.state import batches, budget, leases, migrations, pace, splits, tables, tallies
from migrator.state import connection as connections
from migrator.state.batches import Heap
from migrator.state.budget import Purpose, price
from migrator.state.connection import DatabaseGone, LockBusy, transaction
from migrator.state.leases import Duty, Kind, LeaseLost
from migrator.state.migrations import NameTaken
from tests.integration import stored

S = MigrationStatus


async def test_moves_of_all_pairs_follow_the_table_and_are_logged(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        made = await stored.plan(connection)
        for old, new in product(S, S):
            migration = await stored.force(connection, made, old)
            values = (
                {"live_side": "to"} if new is S.COMPLETED else {"live_side": "from"} if new is S.ROLLED_BACK else {}
            )
            if not is_allowed(old, new):
                with pytest.raises(Defect):
                    await migrations.move(connection, migration, new, actor="test", reason="because")
                continue
            if old is S.PAUSED and new is S.COMPLETED:
                values = {"live_side": "to"}
            await migrations.move(connection, migration, new, actor="test", values=values)
            found = await migrations.get_by_id(connection, made.id)
            assert found.status is new
            assert found.paused_from is (old if new is S.PAUSED else None)
            assert (await migrations.history(connection, made.id))[-1].reason == TRANSITIONS[old][new]


async def test_two_who_move_at_once_cannot_both_succeed(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        made = await stored.force(connection, await stored.plan(connection), S.READY)

    async def cancel() -> bool:
        try:
            async with transaction(engine) as connection:
                await migrations.move(connection, made, S.CANCELLED, actor="test")
        except StatusConflict:
            return False
        return True

    assert sorted(await asyncio.gather(*(cancel() for _ in range(4)))) == [False, False, False, True]


async def test_one_open_migration_per_target_column(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        first = await stored.plan(connection, "first")
        second = await stored.plan(connection, "second")
        await stored.force(connection, first, S.CANCELLED)
    with pytest.raises(Defect, match="23505"):
        async with transaction(engine) as connection:
            await stored.force(connection, second, S.BACKFILLING)


@pytest.mark.parametrize(
    "values",
    [
        {"status": "paused"},
        {"paused_from": "ready"},
        {"status": "completed"},
        {"status": "nonsense"},
        {"status": "cleaned"},
        {"live_side": "to"},
        {"to_generation": "v3@2"},
    ],
)
async def test_the_database_itself_refuses_what_must_never_be(engine: AsyncEngine, values: dict[str, str]) -> None:
    async with transaction(engine) as connection:
        await stored.plan(connection)
    with pytest.raises(Defect, match="23514"):
        async with transaction(engine) as connection:
            await connection.execute(update(tables.migrations).values(**values))


async def test_a_name_is_used_once_but_a_plan_may_be_made_again(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        first = await stored.plan(connection)
        again = await stored.plan(connection)
        assert again.id == first.id
        await stored.force(connection, first, S.CANCELLED)
    with pytest.raises(NameTaken, match="cancelled"):
        async with transaction(engine) as connection:
            await stored.plan(connection)


async def _one_batch(engine: AsyncEngine) -> tuple[migrations.Migration, leases.Ticket]:
    async with transaction(engine) as connection:
        made = await stored.force(connection, await stored.plan(connection), S.BACKFILLING)
        assert await batches.plan_pass(connection, made, Heap(1, 1, 10), 10) == 1
        (ticket,) = await batches.offer(connection, made, 10)
    return made, ticket


async def test_p3_a_ticket_delivered_twice_is_claimed_once(engine: AsyncEngine) -> None:
    _, ticket = await _one_batch(engine)

    async def claim(holder: str) -> leases.Lease | None:
        async with transaction(engine) as connection:
            return await leases.claim(connection, ticket, holder=holder, seconds=30)

    claimed = [lease for lease in await asyncio.gather(*(claim(f"w{n}") for n in range(4))) if lease is not None]
    assert len(claimed) == 1
    assert ticket.label == "docs.b000001.a1"
    assert ticket.arguments == "docs pages 0..9"


async def test_a_worker_that_slept_past_its_lease_is_fenced(engine: AsyncEngine) -> None:
    made, ticket = await _one_batch(engine)
    async with transaction(engine) as connection:
        slept = await leases.claim(connection, ticket, holder="slept", seconds=0)
    assert slept is not None
    async with transaction(engine) as connection:
        assert [(lease.kind, lease.fence) for lease in await leases.rescue(connection, made.id)] == [(Kind.BATCH, 1)]
        (again,) = await batches.offer(connection, made, 10)
        taken = await leases.claim(connection, again, holder="awake", seconds=30)
    assert taken is not None
    for late in (leases.hold, leases.finish):
        with pytest.raises(LeaseLost):
            async with transaction(engine) as connection:
                await late(connection, slept)
    async with transaction(engine) as connection:
        assert not await leases.give_back(connection, slept)
        await leases.hold(connection, taken)
        await leases.finish(connection, taken, finished_at=await migrations.database_now(connection))


async def test_a_shutdown_is_not_an_attempt(engine: AsyncEngine) -> None:
    made, ticket = await _one_batch(engine)
    async with transaction(engine) as connection:
        lease = await leases.claim(connection, ticket, holder="w", seconds=30)
        assert lease is not None
        await leases.give_back(connection, lease, counts_as_attempt=False)
        row = await batches.get(connection, ticket.row_id)
        assert (row.status, row.attempts, row.fence) == ("pending", 0, 1)
        (again,) = await batches.offer(connection, made, 10)
        assert again.fence == 1


async def test_exhausted_batches_are_split_and_a_single_page_fails(engine: AsyncEngine) -> None:
    made, ticket = await _one_batch(engine)
    async with transaction(engine) as connection:
        worn = update(tables.batches).values(attempts=splits.MAX_ATTEMPTS, fence=tables.batches.c.fence + 1)
        for _ in range(4):
            await connection.execute(worn.where(tables.batches.c.status == "pending"))
            await suspects.divide(connection, made)
        windows = [
            (row.first_page, row.last_page, row.status)
            for row in await batches.listed(connection, made.id, failed_only=False, limit=99)
        ]
        assert sorted(page for first, last, _ in windows for page in range(first, last + 1)) == list(range(10))
        await connection.execute(worn.where(tables.batches.c.status == "pending"))
        await suspects.divide(connection, made)
        assert (await tallies.counts(connection, made.id)).failed > 0
        assert await leases.claim(connection, ticket, holder="late", seconds=1) is None


async def test_r27_counts_are_exact_whatever_was_folded(engine: AsyncEngine) -> None:
    dice = random.Random(7)  # noqa: S311 - dice
    async with transaction(engine) as connection:
        made = await stored.plan(connection)
        await batches.plan_pass(connection, made, Heap(1, 1, 60), 1)
    for _ in range(25):
        async with transaction(engine) as connection:
            for ticket in await batches.offer(connection, made, dice.randint(1, 9)):
                lease = await leases.claim(connection, ticket, holder="w", seconds=dice.choice([0, 30]))
                assert lease is not None
                await batches.count_written(connection, lease.row_id, written=dice.randint(0, 9), tokens=3)
                if dice.random() < 0.5:
                    await leases.finish(connection, lease, finished_at=await migrations.database_now(connection))
                elif dice.random() < 0.5:
                    await leases.give_back(connection, lease, failure="Busy", counts_as_attempt=dice.random() < 0.5)
            await leases.rescue(connection, made.id)
        async with transaction(engine) as connection:
            if dice.random() < 0.5:
                await tallies.fold(connection, made.id)
            found = await tallies.counts(connection, made.id)
            true = await connection.execute(
                text("SELECT status, count(*), sum(rows_written), sum(tokens) FROM migrator.batches GROUP BY status")
            )
            rows = {status: (count, written, tokens) for status, count, written, tokens in true}
        by_status = {name: getattr(found, name) for name in ("done", "leased", "pending", "failed")}
        assert by_status == {name: rows.get(name, (0,))[0] for name in by_status}
        assert (found.total, found.rows_done) == (60, sum(written for _, written, _ in rows.values()))
        assert found.tokens == sum(tokens for _, _, tokens in rows.values())


async def _try_batches(engine: AsyncEngine, made: migrations.Migration, count: int, *, fail: bool) -> None:
    """Claim so many batches and finish them, or give them back as failed."""
    async with transaction(engine) as connection:
        for ticket in await batches.offer(connection, made, count):
            lease = await leases.claim(connection, ticket, holder="w", seconds=30)
            assert lease is not None
            if fail:
                await leases.give_back(connection, lease, failure="Defect", after_seconds=600)
            else:
                await leases.finish(connection, lease, finished_at=await migrations.database_now(connection))


async def test_the_breaker_looks_at_the_last_fifty_not_at_yesterday(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        made = await stored.force(connection, await stored.plan(connection), S.BACKFILLING)
        await batches.plan_pass(connection, made, Heap(1, 1, 900), 1)
        await migrations.change(connection, made.id, pass_number=1)
    await _try_batches(engine, made, 500, fail=False)
    await _try_batches(engine, made, 25, fail=True)
    async with transaction(engine) as connection:
        counts = await tallies.counts(connection, made.id)
        assert await brakes.broken(connection, made, counts) is None, "25 of the last 50 are no more than half"
    await _try_batches(engine, made, 1, fail=True)
    async with transaction(engine) as connection:
        counts = await tallies.counts(connection, made.id)
        assert await brakes.broken(connection, made, counts) == (
            "26 of the last 50 batches failed (migrator batches docs --failed)"
        )


async def test_h27_a_lease_from_another_timeline_commits_nothing(engine: AsyncEngine) -> None:
    _, ticket = await _one_batch(engine)
    async with transaction(engine) as connection:
        lease = await leases.claim(connection, ticket, holder="w", seconds=30)
        assert lease is not None
        assert lease.timeline == 1
        await leases.hold(connection, lease)
    before = dataclasses.replace(lease, timeline=2)
    for late in (leases.hold, leases.finish):
        with pytest.raises(LeaseLost):
            async with transaction(engine) as connection:
                await late(connection, before)
    async with transaction(engine) as connection:
        assert not await leases.is_held(connection, before)
        assert await leases.is_held(connection, lease)


async def test_offers_never_exceed_their_number_and_are_not_repeated(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        made = await stored.plan(connection)
        assert await batches.plan_pass(connection, made, Heap(1, 1, 20), 1) == 20
        first = await batches.offer(connection, made, 8)
        assert len(first) == 8
        assert await batches.offer(connection, made, 8) == []
        more = await batches.offer(connection, made, 12)
        assert {ticket.row_id for ticket in more}.isdisjoint(ticket.row_id for ticket in first)


async def test_an_attended_step_has_one_holder(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        made = await stored.plan(connection)
        first = await leases.take(connection, made.id, Duty.ATTEND, holder="a", seconds=30)
        assert first is not None
        assert await leases.take(connection, made.id, Duty.ATTEND, holder="b", seconds=30) is None
        await leases.finish(connection, first)
        assert await leases.take(connection, made.id, Duty.ATTEND, holder="b", seconds=30) is not None
        assert (await leases.duty_row(connection, made.id, Duty.ATTEND)).holder == "b"


async def test_p7_eight_who_reserve_at_once_never_pass_the_cap(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        made = await stored.plan(connection)  # cap 1 USD, price 1 USD per million tokens

    async def spend(worker: int) -> int:
        granted = 0
        for number in range(20):
            async with transaction(engine) as connection:
                granted += await budget.reserve(
                    connection,
                    made.id,
                    request_id=f"{worker}-{number}",
                    purpose=Purpose.BACKFILL,
                    bound=price(30_000, 1.0),
                    lease="batch:1#1",
                )
        return granted

    granted = sum(await asyncio.gather(*(spend(worker) for worker in range(8))))
    assert granted == 33  # 33 x 0.03 = 0.99
    async with transaction(engine) as connection:
        account = await budget.account(connection, made.id)
        assert account.committed_usd == account.reserved_usd == Decimal("0.99")


async def test_p7_a_reservation_is_settled_refunded_or_stays_counted(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        made = await stored.plan(connection)
        for name in ("settled", "refunded", "lost", "rescued"):
            bound = price(100_000, 1.0)
            assert await budget.reserve(
                connection, made.id, request_id=name, purpose=Purpose.BACKFILL, bound=bound, lease=f"lease-of-{name}"
            )
        await budget.settle(connection, "settled", price(40_000, 1.0))
        await budget.settle(connection, "settled", price(40_000, 1.0))
        await budget.refund(connection, "refunded")
        await budget.write_off(connection, request_id="lost")
        await budget.refund(connection, "lost")
        assert await budget.write_off(connection, lease="lease-of-rescued") == 1
        account = await budget.account(connection, made.id)
        assert account.spent_usd == Decimal("0.04")
        assert account.possibly_billed_usd == Decimal("0.2")
        assert account.committed_usd == Decimal("0.24")
        assert (account.spent_tokens, account.possibly_billed_tokens) == (40_000, 200_000)
        assert await budget.purposes(connection, made.id) == [("backfill", 1, 40_000, 0.04)]


async def test_a_learnt_limit_only_goes_down(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        assert await pace.learnt_max_texts(connection, "a") is None
        for learnt, known in ((20, 20), (10, 10), (25, 10)):
            await pace.learn_max_texts(connection, "a", learnt)
            assert await pace.learnt_max_texts(connection, "a") == known


async def test_every_limit_is_learnt_apart_and_the_first_norm_stands(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        assert await pace.learnt(connection, "a") == pace.Learnt()
        for name, value in (("max_text_tokens", 8192), ("max_text_tokens", 9000), ("max_request_tokens", 33_000)):
            await pace.learn_limit(connection, "a", name, value)
        for dims, norm in ((1024, 1.0), (512, 0.8), (1024, 3.0)):
            await pace.learn_norm(connection, "a", dims, norm)
        known = pace.Learnt(None, 8192, 33_000, {"1024": 1.0, "512": 0.8})
        assert await pace.learnt(connection, "a") == known
        assert await pace.learnt(connection, "other") == pace.Learnt()


async def test_p11_a_driver_error_never_quotes_a_row(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    sql.execute("CREATE TABLE secrets (t text UNIQUE); INSERT INTO secrets VALUES ('canary-text')")
    with pytest.raises(MigratorError) as caught:
        async with transaction(engine) as connection:
            await connection.execute(text("INSERT INTO public.secrets VALUES ('canary-text')"))
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_p8_a_process_that_freezes_inside_a_transaction_gives_its_rows_back(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends what stands still; nothing is left to the kernel's idea of a dead connection."""
    async with transaction(engine) as connection:
        made = await stored.plan(connection)
    change = update(tables.migrations).where(tables.migrations.c.id == made.id).values(binding="test")
    with monkeypatch.context() as patched:
        patched.setattr(connections, "IDLE_TIMEOUT_SECONDS", 0.3)
        frozen = transaction(engine)
        held = await frozen.__aenter__()
    await held.execute(change)
    async with transaction(engine, lock_timeout_seconds=5) as connection:
        await connection.execute(change)
    with pytest.raises(DBAPIError) as ended:
        await held.execute(change)
    with pytest.raises((DatabaseGone, LockBusy)):
        await frozen.__aexit__(type(ended.value), ended.value, None)
