"""The structure gate: for every fault one table that it alone catches, and clean ones that pass."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.measures import sharing
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import every_vector, structure
from migrator.validation.every_vector import Span, Window
from tests import spaces
from tests.integration import columns
from tests.integration.columns import SHADOW, fill, make, measured, plan, put
from tests.spaces import Vectors

ROWS, DIMS = 600, 64


@pytest.fixture
def vectors() -> tuple[Vectors, Vectors]:
    return spaces.made(1, ROWS, DIMS, mean=0.5), spaces.made(2, ROWS, DIMS, mean=0.5)


@pytest.fixture
def table(sql: psycopg.Connection, vectors: tuple[Vectors, Vectors]) -> psycopg.Connection:
    """A clean table."""
    make(sql, f"vector({DIMS})")
    fill(sql, *vectors)
    return sql


def passed(found: dict[str, Verdict]) -> dict[str, bool]:
    return {gate: each.passed for gate, each in found.items()}


def only_structure_failed(found: dict[str, Verdict], told: str, figure: int) -> None:
    assert passed(found) == {"structure": False, "quarantined": True, "sentinel": True}, found
    assert told in found["structure"].detail
    assert found["structure"].figure == figure


@pytest.mark.parametrize("kind", [f"vector({DIMS})", f"halfvec({DIMS})", "vector", "partitioned"])
async def test_structure_gate_passes_a_clean_table(
    sql: psycopg.Connection,
    engine: AsyncEngine,
    vectors: tuple[Vectors, Vectors],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(every_vector, "WINDOW_ROWS", 100)
    if kind == "partitioned":
        make(sql, f"vector({DIMS})", " PARTITION BY RANGE (id)")
        for first in range(0, ROWS, 200):
            sql.execute(
                f"CREATE TABLE docs_{first} PARTITION OF docs FOR VALUES FROM ({first}) TO ({first + 200})".encode()
            )
    else:
        make(sql, kind)
    fill(sql, *vectors)
    migration = await plan(engine, DIMS, kind="halfvec" if "half" in kind else "vector")
    assert len((await every_vector.frame(columns.make_worker(engine), migration)).spans) > 3
    found = await measured(engine, migration)
    assert passed(found) == {"structure": True, "quarantined": True, "sentinel": True}, found
    assert (found["structure"].sample, found["structure"].figure) == (ROWS, 0)


async def test_structure_gate_finds_one_zero_vector(table: psycopg.Connection, engine: AsyncEngine) -> None:
    put(table, [17], np.zeros((1, DIMS), dtype=np.float32))
    only_structure_failed(await measured(engine, await plan(engine, DIMS)), "1 zero [17]", 1)


async def test_structure_gate_finds_a_vector_without_a_text(table: psycopg.Connection, engine: AsyncEngine) -> None:
    table.execute("UPDATE docs SET title = NULL WHERE id = 5")
    table.execute("UPDATE docs SET title = E' \t\n' WHERE id = 6")
    only_structure_failed(await measured(engine, await plan(engine, DIMS)), "2 wordless", 2)


async def test_structure_gate_finds_a_row_that_nobody_explains(table: psycopg.Connection, engine: AsyncEngine) -> None:
    table.execute(f"UPDATE docs SET {SHADOW} = NULL WHERE id < 4".encode())
    migration = await plan(engine, DIMS)
    values = {"migration": migration.id}
    table.execute("INSERT INTO migrator.dirty (migration_id, side, key) VALUES (%(migration)s, 'to', '{0}')", values)
    table.execute(
        "INSERT INTO migrator.dispositions (migration_id, key, kind, reason)"
        " VALUES (%(migration)s, '{1}', 'quarantined', 'content')", values,
    )  # fmt: skip
    found = await measured(engine, migration)
    only_structure_failed(found, "2 uncovered", 2)
    assert found["quarantined"].figure == pytest.approx(1 / ROWS)


async def test_structure_gate_finds_other_dimensions_in_a_column_without(
    sql: psycopg.Connection, engine: AsyncEngine, vectors: tuple[Vectors, Vectors]
) -> None:
    make(sql, "vector")
    fill(sql, *vectors)
    put(sql, [3, 4], spaces.made(3, 2, DIMS // 2, mean=0))
    only_structure_failed(await measured(engine, await plan(engine, DIMS)), "2 misshapen", 2)


async def test_structure_gate_finds_one_vector_beside_many_texts(
    table: psycopg.Connection, engine: AsyncEngine, vectors: tuple[Vectors, Vectors]
) -> None:
    """What a gateway's cache, or a reply that was taken for another's, leaves: every count is right."""
    put(table, range(100, 110), np.repeat(vectors[1][50:51], 10, axis=0))
    found = await measured(engine, await plan(engine, DIMS))
    only_structure_failed(found, "11 shared [", 11)
    assert "another text has the same vector: 1.833% of 600 looked at, more than 0.100%" in found["structure"].detail


async def test_structure_gate_lets_texts_share_a_vector_that_models_take_for_one(
    table: psycopg.Connection, engine: AsyncEngine, vectors: tuple[Vectors, Vectors]
) -> None:
    """Some models see neither case nor spaces; and a few others are told, but no fault."""
    put(table, range(100, 140), np.repeat(vectors[1][50:51], 40, axis=0))
    table.execute(
        "UPDATE docs SET title = repeat(' ', id::int - 99) || 'Text  50' || E'\n' WHERE id >= 100 AND id < 140"
    )
    table.execute("UPDATE docs SET title = 'text 50' WHERE id BETWEEN 120 AND 130")
    found = await measured(engine, await plan(engine, DIMS))
    assert found["structure"].passed
    assert ", 0 shared" in found["structure"].detail
    table.execute("UPDATE docs SET title = 'another' WHERE id = 139")
    assert not (await measured(engine, await plan(engine, DIMS, name="b")))["structure"].passed
    found = await measured(engine, await plan(engine, DIMS, name="c", max_shared_share=0.1))
    assert found["structure"].passed
    assert "41 shared [" in found["structure"].detail
    assert "no fault up to 10.000%" in found["structure"].detail


async def test_structure_gate_names_keys_and_no_texts(table: psycopg.Connection, engine: AsyncEngine) -> None:
    table.execute("UPDATE docs SET title = 'canary text ' || id")
    put(table, range(20), np.zeros((20, DIMS), dtype=np.float32))
    found = await measured(engine, await plan(engine, DIMS))
    assert "20 zero [" in found["structure"].detail
    assert found["structure"].detail.count(";") == structure._EXAMPLES - 1
    assert "canary" not in str(found)


def at_window(number: int, act: Callable[[], Any]) -> Callable[..., Awaitable[Window]]:
    """Read windows as ever, and do something right after one of them."""
    count = 0

    async def read(connection: AsyncConnection, migration: Migration, span: Span, direction: Vectors) -> Window:
        nonlocal count
        window = await original(connection, migration, span, direction)
        count += 1
        if count == number:
            act()
        return window

    original = every_vector.read
    return read


async def test_h19_a_row_that_moves_behind_the_windows_is_looked_at_all_the_same(
    table: psycopg.Connection, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(every_vector, "WINDOW_ROWS", 100)
    put(table, [ROWS - 1], np.zeros((1, DIMS), dtype=np.float32))
    table.execute("DELETE FROM docs WHERE id < 3")
    table.execute("VACUUM docs")

    def move() -> None:
        table.execute("UPDATE docs SET n = n + 1, title = repeat('longer ', 100) WHERE id = %s", [ROWS - 1])

    page = "SELECT (ctid::text::point)[0]::int FROM docs WHERE id = %s"
    before = table.execute(page, [ROWS - 1]).fetchone()
    monkeypatch.setattr(every_vector, "read", at_window(1, move))
    found = await measured(engine, await plan(engine, DIMS))
    after = table.execute(page, [ROWS - 1]).fetchone()
    assert before is not None
    assert after is not None
    assert after[0] == 0 < before[0], "it did not move to where the windows had been"
    assert f"1 zero [{ROWS - 1}]" in found["structure"].detail


async def test_p12_every_window_is_a_transaction_of_its_own(
    table: psycopg.Connection, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(every_vector, "WINDOW_ROWS", 100)
    starts = []
    query = "SELECT xact_start FROM pg_stat_activity WHERE application_name = 'test' AND state <> 'idle'"

    async def read(*arguments: Any) -> Window:
        window = await original(*arguments)
        starts.append(table.execute(query).fetchall())
        return window

    original = every_vector.read
    monkeypatch.setattr(every_vector, "read", read)
    migration = await plan(engine, DIMS)
    await measured(engine, migration)
    spans = (await every_vector.frame(columns.make_worker(engine), migration)).spans
    assert all(len(each) == 1 for each in starts), "another transaction of ours was open"
    assert len({each[0] for each in starts}) == len(spans) > 5


async def test_structure_gate_keeps_its_memory_on_large_tables(
    table: psycopg.Connection,
    engine: AsyncEngine,
    vectors: tuple[Vectors, Vectors],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond what is kept, a slice of all vectors is looked at, and what shares one is still found."""
    put(table, range(300), vectors[1][300:])
    monkeypatch.setattr(sharing, "MAX_ROWS", 200)
    found = await measured(engine, await plan(engine, DIMS))
    looked_at = re.search(r"100\.000% of (\d+) looked at", found["structure"].detail)
    assert looked_at is not None, found
    assert 40 < int(looked_at[1]) <= 200
    assert "600 shared" in found["structure"].detail, "what was found of a slice stands for all"
