"""P12, every signal made for real: a lagging standby, a failing archiver, an old snapshot, a waiting lock, a vacuum."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import update

from migrator.demo.servers import Postgres
from migrator.lifecycle import MigrationStatus
from migrator.signals import Signal
from migrator.state import signals, tables
from migrator.state.connection import make_engine, transaction
from migrator.state.signals import Weighed
from migrator.target import index, lanes
from migrator.target.signals import table_oid
from migrator.throttle import weigh
from tests.deployment import until
from tests.integration import stored

_TABLE = """
CREATE TABLE IF NOT EXISTS docs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text, n int DEFAULT 0)
  WITH (autovacuum_enabled = off);
INSERT INTO docs (title) SELECT 'title ' || i FROM generate_series(1, 1000) i;
VACUUM ANALYZE docs;
"""


class Watch:
    """A stored migration over a table, and its signals read now."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = make_engine(url, "migrator test")

    async def prepare(self, **throttle: Any) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in _TABLE.split(";"):
                connection.execute(statement.encode())
        async with transaction(self.engine) as connection:
            made = await stored.plan(connection)
            await stored.force(connection, made, MigrationStatus.BACKFILLING)
            self.id = made.id
        await self.set(**throttle)

    async def set(self, **throttle: Any) -> None:
        async with transaction(self.engine) as connection:
            row = tables.migrations.c.id == self.id
            await connection.execute(update(tables.migrations).where(row).values(throttle=throttle))

    async def read(self) -> dict[Signal, Weighed]:
        async with transaction(self.engine) as connection:
            await signals.forget_age(connection, self.id)
        found = await weigh.look(self.engine, self.id)
        return {each.signal: each for each in found.signals}

    async def until(self, signal: Signal, condition: Callable[[Weighed], bool], seconds: float = 30) -> Weighed:
        deadline = time.monotonic() + seconds
        while not condition(found := (await self.read())[signal]):
            assert time.monotonic() < deadline, found
        return found

    async def binding(self) -> str | None:
        await self.read()
        async with transaction(self.engine) as connection:
            return (await signals.reading(connection, self.id)).binding


@pytest.fixture
async def watch(database: str) -> Any:
    made = Watch(database)
    await made.prepare()
    yield made
    await made.engine.dispose()


@contextlib.contextmanager
def session(url: str, name: str) -> Iterator[psycopg.Connection]:
    """A session of the application."""
    with psycopg.connect(url, application_name=name) as connection:
        yield connection
        with contextlib.suppress(psycopg.Error):
            connection.rollback()


async def test_a_healthy_database_binds_nothing(watch: Watch) -> None:
    found = await watch.read()
    assert set(found) == set(Signal) - {Signal.SIZE, Signal.SQL, Signal.HTTP}, "those have no threshold"
    assert [str(each) for each in found.values() if each.binds] == []
    assert await watch.binding() is None


async def test_p12_an_old_snapshot_of_somebody_else_binds_and_is_named(watch: Watch) -> None:
    await watch.set(snapshot_seconds=0.2)
    with session(watch.url, "nightly report") as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM docs")
        found = await watch.until(Signal.SNAPSHOT, lambda each: each.binds)
        assert found.detail == f"pid {other.info.backend_pid}, nightly report"
        assert str(found).startswith("oldest transaction 0.")
    assert not (await watch.read())[Signal.SNAPSHOT].binds, "it is over with the transaction"


async def test_h18_our_own_sessions_and_our_own_index_build_are_not_blamed(watch: Watch) -> None:
    await watch.set(snapshot_seconds=0.0, hot_share=1.0)
    with session(watch.url, "migrator index docs") as ours:
        ours.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        ours.execute("SELECT count(*) FROM docs")
        found = await watch.read()
        assert (found[Signal.SNAPSHOT].value, found[Signal.SNAPSHOT].binds) == (0.0, False)


async def test_p12_a_prepared_transaction_binds(scratch_server: Callable[..., Postgres]) -> None:
    server = scratch_server(max_prepared_transactions="5")
    watch = Watch(server.database_url("app"))
    await watch.prepare(snapshot_seconds=0.1)
    with psycopg.connect(watch.url) as connection:
        connection.execute("UPDATE docs SET n = 1 WHERE id = 1")
        connection.execute("PREPARE TRANSACTION 'forgotten'")
    found = await watch.until(Signal.SNAPSHOT, lambda each: each.binds)
    assert found.detail == "prepared transaction"
    await watch.engine.dispose()


async def test_p12_a_session_that_waits_for_the_table_binds(watch: Watch) -> None:
    with session(watch.url, "the writer") as writer:
        writer.execute("UPDATE docs SET n = 1 WHERE id = 1")

        def alter() -> None:
            with session(watch.url, "the release") as other, contextlib.suppress(psycopg.errors.QueryCanceled):
                other.execute("SET statement_timeout = '60s'")
                other.execute("ALTER TABLE docs ADD COLUMN m int")

        waiting = threading.Thread(target=alter)
        waiting.start()
        found = await watch.until(Signal.LOCK_WAITERS, lambda each: each.binds)
        assert found.value == 1
        assert "pid " in found.detail
        writer.rollback()
        waiting.join()
    assert not (await watch.read())[Signal.LOCK_WAITERS].binds


async def test_p12_a_vacuum_of_the_table_binds(watch: Watch) -> None:
    await watch.set(vacuum_seconds=0.0)
    with vacuuming(watch.url, "docs"):
        found = await watch.until(Signal.VACUUM, lambda each: each.binds)
        assert found.detail.startswith("pid ")
    assert not (await watch.read())[Signal.VACUUM].binds


def churn(url: str, times: int) -> None:
    """Update rows of a narrow table, whose pages have room: HOT, unless a snapshot keeps the old versions."""
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(times):
            connection.execute("UPDATE docs SET n = n + 1")
        connection.execute("SELECT pg_stat_force_next_flush()")


async def test_p12_updates_that_are_no_longer_hot_name_the_old_snapshot(watch: Watch, monkeypatch: Any) -> None:
    monkeypatch.setattr("migrator.target.signals._CULPRIT_SECONDS", 0.2)
    await watch.set(hot_share=0.8, dead_share="off")
    await watch.read()
    with session(watch.url, "pg_dump") as dump:
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT count(*) FROM docs")
        churn(watch.url, 4)
        found = await watch.until(Signal.HOT, lambda each: each.binds)
        assert found.value is not None
        assert found.value < 0.8
        assert "pg_dump, its snapshot is" in found.detail
        assert str(found).startswith("HOT updates ")
        assert " < 80.0 % (pid " in str(found)
    found = (await watch.read())[Signal.HOT]
    assert (found.binds, found.detail) == (False, "no old snapshot"), "nobody is to blame: waiting would mend nothing"


async def test_h18_hot_updates_are_not_missed_while_our_own_index_is_built(watch: Watch, monkeypatch: Any) -> None:
    """CREATE INDEX CONCURRENTLY pins xmin for as long as it lasts: the share falls, and nobody is stopped for it."""
    monkeypatch.setattr("migrator.target.signals._CULPRIT_SECONDS", 0.2)
    await watch.set(hot_share=0.8, dead_share="off")
    await watch.read()

    def build() -> None:
        with psycopg.connect(watch.url, autocommit=True, application_name="migrator index docs") as ours:
            ours.execute("CREATE INDEX CONCURRENTLY docs_title_idx ON docs (title)")

    with session(watch.url, "a reader") as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM docs")
        churn(watch.url, 4)
        await watch.until(Signal.HOT, lambda each: each.binds)
        building = threading.Thread(target=build)  # waits for the reader's snapshot at its end
        building.start()
        found = await watch.until(Signal.HOT, lambda each: each.detail == "our own index build")
        assert found.value is not None
        assert found.value < 0.8
        assert not found.binds
        reader.rollback()
        building.join()


PARTED = """
DROP TABLE docs;
CREATE TABLE docs (id bigint, title text, n int DEFAULT 0, kind int, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE docs_a PARTITION OF docs FOR VALUES IN (0) WITH (autovacuum_enabled = off);
CREATE TABLE docs_more PARTITION OF docs FOR VALUES IN (1, 2) PARTITION BY LIST (kind);
CREATE TABLE docs_b PARTITION OF docs_more FOR VALUES IN (1) WITH (autovacuum_enabled = off);
CREATE TABLE docs_c PARTITION OF docs_more FOR VALUES IN (2) WITH (autovacuum_enabled = off);
INSERT INTO docs (id, title, kind) SELECT i, 'title ' || i, i % 3 FROM generate_series(1, 1500) i;
VACUUM ANALYZE docs;
"""


@pytest.fixture
async def parted(watch: Watch) -> Watch:
    """The same over a table with partitions on two levels."""
    with psycopg.connect(watch.url, autocommit=True) as connection:
        for statement in PARTED.split(";"):
            connection.execute(statement.encode())
    return watch


async def test_p12_what_happens_to_one_partition_binds_as_if_it_were_the_table(
    parted: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrator.target.signals.FEWEST_DEAD_ROWS", 400)
    monkeypatch.setattr("migrator.target.signals._CULPRIT_SECONDS", 0.2)
    await parted.set(hot_share=0.8, vacuum_seconds=0.0)
    await parted.read()
    with session(parted.url, "pg_dump") as dump:
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT count(*) FROM docs")
        churn(parted.url, 4)
        found = await parted.until(Signal.HOT, lambda each: each.binds)
        assert "pg_dump" in found.detail
    with session(parted.url, "the release") as holder:
        holder.execute("LOCK TABLE docs_b")
        waiting = threading.Thread(target=_insert_one, args=(parted.url,))
        waiting.start()
        found = await parted.until(Signal.LOCK_WAITERS, lambda each: each.binds)
        assert found.value == 1
        holder.rollback()
        waiting.join()
    with psycopg.connect(parted.url, autocommit=True) as connection:
        connection.execute("DELETE FROM docs WHERE kind = 2")
        connection.execute("SELECT pg_stat_force_next_flush()")
        await parted.until(Signal.DEAD, lambda each: each.binds)


def _insert_one(url: str) -> None:
    with session(url, "the writer") as other:
        other.execute("SET statement_timeout = '60s'")
        other.execute("INSERT INTO docs_b (id, kind) VALUES (9999, 1)")


@contextlib.contextmanager
def vacuuming(url: str, table: str) -> Iterator[None]:
    """A vacuum that goes on for as long as the block."""
    stop = threading.Event()

    def vacuum() -> None:
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                while not stop.is_set():
                    other.execute(f"VACUUM (DISABLE_PAGE_SKIPPING) {table}".encode())

    running = threading.Thread(target=vacuum)
    running.start()
    try:
        yield
    finally:
        stop.set()
        running.join()


async def test_p12_a_vacuum_of_a_partition_or_of_its_toast_table_binds(parted: Watch) -> None:
    await parted.set(vacuum_seconds=0.0)
    with psycopg.connect(parted.url) as connection:
        row = connection.execute(
            "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'docs_a'::regclass"
        ).fetchone()
    assert row is not None
    with vacuuming(parted.url, "docs_c"):
        found = await parted.until(Signal.VACUUM, lambda each: each.binds)
        assert found.detail.startswith("pid ")
    with vacuuming(parted.url, row[0]):
        await parted.until(Signal.VACUUM, lambda each: each.binds)
    assert not (await parted.read())[Signal.VACUUM].binds


async def test_p12_the_size_of_the_database_binds_where_the_operator_says_so(watch: Watch) -> None:
    await watch.set(database_bytes=1e6)
    assert (await watch.binding() or "").startswith("database size 0.0 GB > 0.0 GB")
    await watch.set(database_bytes=1e15)
    assert await watch.binding() is None


async def test_p12_wal_that_the_archiver_does_not_take_binds(scratch_server: Callable[..., Postgres]) -> None:
    server = scratch_server(archive_mode="on", archive_command="false", wal_level="replica")
    watch = Watch(server.database_url("app"))
    await watch.prepare(archive_segments=1)
    with psycopg.connect(watch.url, autocommit=True) as connection:
        for _ in range(3):
            connection.execute("UPDATE docs SET n = n + 1 WHERE id = 1")
            connection.execute("SELECT pg_switch_wal()")
    found = await watch.until(Signal.ARCHIVE, lambda each: each.binds)
    assert found.value is not None
    assert found.value >= 3
    assert found.detail == "archive_command fails"
    await watch.engine.dispose()


async def test_p12_a_standby_that_lags_binds_and_is_named(standby: tuple[Postgres, Postgres]) -> None:
    primary, replica = standby
    watch = Watch(primary.database_url("app"))
    await watch.prepare(lag_seconds=0.5)
    assert not (await watch.until(Signal.LAG, lambda each: each.detail == "standby1")).binds
    with psycopg.connect(replica.database_url("postgres"), autocommit=True) as other:
        other.execute("SELECT pg_wal_replay_pause()")
        with psycopg.connect(watch.url, autocommit=True) as connection:
            connection.execute("UPDATE docs SET n = n + 1")
            found = await watch.until(Signal.LAG, lambda each: each.binds)
        assert found.detail == "standby1"
        assert str(found).startswith("replica lag ")
        assert str(found).endswith(" s > 0.5 s (standby1)")
        grown = await watch.until(Signal.LAG, lambda each: (each.value or 0) > 2 * (found.value or 0))
        assert grown.binds, "it goes on growing while nothing is replayed"
        other.execute("SELECT pg_wal_replay_resume()")
        await watch.until(Signal.LAG, lambda each: not each.binds)
    await watch.engine.dispose()


async def test_p8_the_turn_to_read_waits_for_nobody_and_nobody_for_it(watch: Watch) -> None:
    """Who plans batches holds the migration's row for seconds; who reserves asks it for a foreign key."""
    async with transaction(watch.engine) as connection:
        await signals.forget_age(connection, watch.id)
    with psycopg.connect(watch.url) as planner:
        planner.execute("SELECT 1 FROM migrator.migrations WHERE id = %s FOR NO KEY UPDATE", [watch.id])
        async with transaction(watch.engine, lock_timeout_seconds=0.2) as connection:
            assert await signals.take_turn(connection, watch.id) is None
    async with transaction(watch.engine) as connection:
        assert await signals.take_turn(connection, watch.id) is not None
        with psycopg.connect(watch.url, options="-c lock_timeout=200ms") as reserving:
            reserving.execute("SELECT 1 FROM migrator.migrations WHERE id = %s FOR KEY SHARE", [watch.id])
    async with transaction(watch.engine) as connection:
        assert await signals.take_turn(connection, watch.id) is None, "somebody is at it"


async def test_p8_how_far_it_is_waits_for_no_lock_on_a_partition(watch: Watch) -> None:
    """Whoever watches a migration must not queue behind an ALTER TABLE, with everybody who comes after."""
    with psycopg.connect(watch.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE parts (id int) PARTITION BY RANGE (id)")
        connection.execute("CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)")
        connection.execute("INSERT INTO parts SELECT generate_series(1, 50)")
        connection.execute("SELECT pg_stat_force_next_flush()")

    def build() -> None:
        with psycopg.connect(watch.url, autocommit=True) as connection:
            connection.execute("CREATE INDEX CONCURRENTLY built ON docs (n)")

    builder = threading.Thread(target=build)
    with psycopg.connect(watch.url) as altering, psycopg.connect(watch.url, autocommit=True) as looking:
        altering.execute("LOCK TABLE docs IN ROW EXCLUSIVE MODE; LOCK TABLE ONLY part_1 IN ACCESS EXCLUSIVE MODE")
        builder.start()
        # Whose build it is, is only looked at while there is one; this one waits for us.
        waits = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
        await until(lambda: asyncio.to_thread(lambda: looking.execute(waits).fetchone()))
        async with transaction(watch.engine, lock_timeout_seconds=0.2) as connection:
            counters = await lanes.write_counters(connection, "public", "parts")
            assert (counters["inserts"], counters["updates"]) == (50, 0), "a partition's are its table's"
            oid = await table_oid(connection, "public", "parts")
            assert oid is not None
            assert await index.progress(connection, oid) is None
            assert await lanes.write_counters(connection, "public", "gone") == {}
    builder.join()
