"""The signal of dead rows: what the table's counters say, and what they say after a crash emptied them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from migrator.signals import Signal
from tests.integration.test_signals import PARTED, Watch


@pytest.fixture
async def watch(database: str) -> AsyncIterator[Watch]:
    made = Watch(database)
    await made.prepare()
    yield made
    await made.engine.dispose()


async def test_p12_dead_rows_bind(watch: Watch, monkeypatch: Any) -> None:
    monkeypatch.setattr("migrator.target.signals.FEWEST_DEAD_ROWS", 500)
    with psycopg.connect(watch.url, autocommit=True) as connection:
        connection.execute("DELETE FROM docs WHERE id > 300")
        connection.execute("SELECT pg_stat_force_next_flush()")
        found = await watch.until(Signal.DEAD, lambda each: each.binds)
        assert found.detail == "700 rows"
        connection.execute("VACUUM docs")
        await watch.until(Signal.DEAD, lambda each: not each.binds)


async def test_p12_counters_that_a_crash_emptied_do_not_bind(watch: Watch, monkeypatch: Any) -> None:
    """The dead rows since then are few, and autovacuum, which asks the same counters, will not come for them."""
    monkeypatch.setattr("migrator.target.signals.FEWEST_DEAD_ROWS", 50)
    with psycopg.connect(watch.url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_reset_single_table_counters('docs'::regclass)")
        connection.execute("UPDATE docs SET n = n + 1 WHERE id <= 100")
        connection.execute("SELECT pg_stat_force_next_flush()")
        assert not (await watch.until(Signal.DEAD, lambda each: bool(each.value))).binds
        connection.execute("UPDATE pg_class SET reltuples = -1 WHERE relname = 'docs'")
        found = await watch.until(Signal.DEAD, lambda each: each.value is None)
        assert (found.binds, found.detail) == (False, "how many rows there are is not known")


async def test_p12_dead_rows_of_partitions_are_held_against_their_rows_once(watch: Watch, monkeypatch: Any) -> None:
    monkeypatch.setattr("migrator.target.signals.FEWEST_DEAD_ROWS", 500)
    with psycopg.connect(watch.url, autocommit=True) as connection:
        # Twice: what the session inserted may be told to the statistics after the first has counted it.
        for statement in [*PARTED.split(";"), "SELECT pg_stat_force_next_flush()", "VACUUM ANALYZE docs"]:
            connection.execute(statement.encode())
        assert connection.execute("SELECT reltuples FROM pg_class WHERE relname = 'docs'").fetchall() == [(1500,)]
        connection.execute("DELETE FROM docs WHERE id > 600")
        connection.execute("SELECT pg_stat_force_next_flush()")
        found = await watch.until(Signal.DEAD, lambda each: each.binds, seconds=5)
        assert found.value == 1.5
