"""The look at every vector: killed in the middle it goes on from there, and the database's signals hold it back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended
from migrator.orchestrator.perform import perform
from migrator.spending.worker import Worker
from migrator.state import leases
from migrator.state.connection import transaction
from migrator.state.leases import Duty, Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import every_vector, resuming, structure
from migrator.validation.every_vector import Span, Vectors, Window
from tests import spaces
from tests.deployment import Deployment
from tests.integration import columns
from tests.integration.columns import SEED, fill, make, measured, plan
from tests.integration.steps import begin, first_tickets, ready, stored, to

S = MigrationStatus
ROWS, DIMS = 600, 64


@pytest.fixture
def table(sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> psycopg.Connection:
    """A table of several windows, with faults in the first and in the last, and one vector beside texts of both."""
    monkeypatch.setattr(every_vector, "WINDOW_ROWS", 100)
    monkeypatch.setattr(resuming, "KEEP_SECONDS", 0.0)
    old, new = spaces.made(1, ROWS, DIMS, mean=0.5), spaces.made(2, ROWS, DIMS, mean=0.5)
    new[[2, ROWS - 3]] = 0
    new[[4, ROWS - 5]] = old[[5, ROWS - 4]]
    new[ROWS - 7] = new[6]
    make(sql, f"vector({DIMS})")
    fill(sql, old, new)
    return sql


class Windows:
    """Counts the windows that are read; at one of them something happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = 0, act: Callable[[], object] = bool) -> None:
        self.count, self._number, self._act = 0, number, act
        self._original = every_vector.read
        monkeypatch.setattr(every_vector, "read", self._read)

    async def _read(self, connection: AsyncConnection, migration: Migration, span: Span, direction: Vectors) -> Window:
        self.count += 1
        if self.count == self._number:
            self._act()
        return await self._original(connection, migration, span, direction)


async def held(engine: AsyncEngine, migration: Migration) -> Lease:
    async with transaction(engine) as connection:
        await connection.exec_driver_sql(
            "UPDATE migrator.duties SET status = 'failed', holder = NULL, lease_until = NULL"
        )
        lease = await leases.take(connection, migration.id, Duty.VALIDATE, holder="test", seconds=60)
    assert lease is not None
    return lease


async def look(engine: AsyncEngine, migration: Migration) -> dict[str, Verdict]:
    lease = await held(engine, migration)
    found = await structure.measure(columns.make_worker(engine), migration, seed=SEED, lease=lease)
    return {each.gate: each for each in found.verdicts}


def cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def killed(engine: AsyncEngine, migration: Migration, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Begin, and die in the middle of a window."""
    with monkeypatch.context() as patch:
        Windows(patch, number, cancel)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(look(engine, migration))


def told(found: dict[str, Verdict]) -> dict[str, tuple[bool, float, str]]:
    return {gate: (each.passed, each.figure, each.detail) for gate, each in found.items()}


async def test_a_look_that_was_killed_goes_on_from_there_and_finds_the_same(
    table: psycopg.Connection, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert table.info.dbname, "it is filled"
    whole = await measured(engine, await plan(engine, DIMS, name="whole"))
    assert "2 zero [2; 597]" in whole["structure"].detail
    assert "2 shared" in whole["structure"].detail
    assert "keys: 4; 595" in whole["sentinel"].detail
    migration = await plan(engine, DIMS)
    all_windows = len((await every_vector.frame(columns.make_worker(engine), migration)).spans)
    assert all_windows > 5
    await killed(engine, migration, monkeypatch, 3)
    await killed(engine, migration, monkeypatch, 2)
    windows = Windows(monkeypatch)
    found = await look(engine, migration)
    assert windows.count == all_windows - 3, "two windows of the first look and one of the second are not read again"
    assert told(found) == told(whole)


async def test_h19_a_row_that_moves_while_nobody_looks_is_looked_at_all_the_same(
    table: psycopg.Connection, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await plan(engine, DIMS)
    table.execute("DELETE FROM docs WHERE id IN (0, 1, 3)")
    table.execute("VACUUM docs")
    await killed(engine, migration, monkeypatch, 3)
    table.execute("UPDATE docs SET n = n + 1, title = repeat('longer ', 100) WHERE id = %s", [ROWS - 3])
    page = table.execute("SELECT (ctid::text::point)[0]::int FROM docs WHERE id = %s", [ROWS - 3]).fetchone()
    assert page == (0,), "it moved behind the look"
    assert f"2 zero [2; {ROWS - 3}]" in (await look(engine, migration))["structure"].detail


async def test_a_look_at_a_rewritten_table_begins_anew(
    table: psycopg.Connection, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await plan(engine, DIMS)
    await killed(engine, migration, monkeypatch, 3)
    table.execute("VACUUM FULL docs")
    windows = Windows(monkeypatch)
    await look(engine, migration)
    assert windows.count > 5
    assert windows.count == len((await every_vector.frame(columns.make_worker(engine), migration)).spans)


async def test_what_is_kept_of_rows_is_bounded_and_a_slice_stays_a_slice(
    table: psycopg.Connection, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrator.measures.sharing.MAX_ROWS", 50)
    whole = await measured(engine, await plan(engine, DIMS, name="whole"))
    migration = await plan(engine, DIMS)
    await killed(engine, migration, monkeypatch, 4)
    kept = table.execute("SELECT sum(length(rows)) FROM migrator.look_rows").fetchone()
    assert kept is not None
    assert 0 < kept[0] < ROWS / 2 * 24
    assert told(await look(engine, migration)) == told(whole)


async def test_p12_a_binding_signal_holds_the_look_and_it_goes_on_from_there(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole engine: the duty is given back, no attempt is counted, nothing is read twice."""
    monkeypatch.setattr(every_vector, "WINDOW_ROWS", 20)
    monkeypatch.setattr(resuming, "HEED_SECONDS", 0.0)
    deployment.spec_data["throttle"] = {"sql": "SELECT load FROM public.health", "sql_max": 5}
    with deployment.connect() as connection:
        connection.execute("CREATE TABLE health AS SELECT 0.0 AS load")
    await begin(deployment, worker, 120)
    await to(worker, S.VALIDATING)
    migration = await stored(worker)

    def bind() -> None:
        deployment.query("UPDATE health SET load = 7 RETURNING 1")
        deployment.query("UPDATE migrator.migrations SET signals_at = NULL RETURNING 1")

    with monkeypatch.context() as patch:
        windows = Windows(patch, 2, bind)
        said = [await perform(worker, each) for each in await first_tickets(worker) if ".validate." in each.label]
        assert [each.split(":")[0] for each in said] == ["Throttled"]
        assert windows.count == 2
    assert deployment.status == "validating"
    assert deployment.query("SELECT done FROM migrator.looks") == [(2,)]
    assert deployment.query("SELECT attempts FROM migrator.duties WHERE duty = 'validate'") == [(0,)]
    bound = deployment.query("UPDATE health SET load = 1 RETURNING 1")
    assert bound
    deployment.query("UPDATE migrator.migrations SET signals_at = NULL RETURNING 1")
    windows = Windows(monkeypatch)
    await to(worker, S.READY)
    assert windows.count == len((await every_vector.frame(worker, migration)).spans) - 2
    assert deployment.query("SELECT 1 FROM migrator.looks UNION ALL SELECT 1 FROM migrator.look_rows") == []


async def test_a_validation_that_is_asked_for_anew_looks_at_everything(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(every_vector, "WINDOW_ROWS", 20)
    monkeypatch.setattr(resuming, "KEEP_SECONDS", 0.0)
    migration = await ready(deployment, worker, 120)
    await killed(worker.engine, migration, monkeypatch, 3)
    assert deployment.query("SELECT done FROM migrator.looks") == [(2,)]
    deployment.query("UPDATE migrator.duties SET status = 'done', holder = NULL, lease_until = NULL RETURNING 1")
    windows = Windows(monkeypatch)
    await attended.validate(worker, "docs", actor="test")
    assert windows.count == len((await every_vector.frame(worker, migration)).spans)
