"""The space sentinel over real columns: what it finds, what it leaves alone, and when it says that it can't tell."""

from __future__ import annotations

import re

import numpy as np
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import GateFailed
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.spending.worker import Worker
from migrator.state import discriminants
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import sentinel
from tests import spaces
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration import columns, steps
from tests.integration.columns import SHADOW, fill, make, measured, plan, put
from tests.spaces import Vectors

ROWS, DIMS = 10_000, 1024
#: A tenth of a percent.
SWAPPED = 10
#: A table for what needs no such size.
FEW, FEW_DIMS = 600, 64


def few(mean: float = 0.5) -> tuple[Vectors, Vectors]:
    return spaces.made(1, FEW, FEW_DIMS, mean=mean), spaces.made(2, FEW, FEW_DIMS, mean=mean)


def only_sentinel_failed(found: dict[str, Verdict]) -> Verdict:
    passed = {gate: each.passed for gate, each in found.items()}
    assert passed == {"structure": True, "quarantined": True, "sentinel": False}, found
    return found["sentinel"]


def swap(old: Vectors, new: Vectors, count: int, seed: int = 3) -> list[int]:
    """Give some rows the old model's vector of another text; returns their numbers."""
    wrong = np.sort(np.random.default_rng(seed).permutation(len(new))[:count])
    new[wrong] = old[np.roll(wrong, 1)]
    return [int(row) for row in wrong]


@pytest.mark.parametrize("mean", [0.0, 0.3], ids=["one mean", "means apart"])
async def test_sentinel_finds_a_tenth_of_a_percent_swapped_at_1024_dimensions(
    sql: psycopg.Connection, engine: AsyncEngine, mean: float
) -> None:
    """Where the means are one, the direction settles nothing and every vector is looked at closely."""
    rows = ROWS if mean else ROWS // 4
    old, new = spaces.made(1, rows, DIMS, mean=mean), spaces.made(2, rows, DIMS, mean=mean)
    wrong = swap(old, new, SWAPPED)
    make(sql, f"vector({DIMS})")
    fill(sql, old, new)
    found = only_sentinel_failed(await measured(engine, await plan(engine, DIMS)))
    assert found.figure == SWAPPED, "every one of them, and nobody else"
    assert found.threshold == 0
    assert f"keys: {'; '.join(map(str, wrong))}" in found.detail
    put(sql, wrong, spaces.made(2, rows, DIMS, mean=mean)[wrong])
    again = (await measured(engine, await plan(engine, DIMS, name="again")))["sentinel"]
    assert (again.passed, again.figure) == (True, 0)


async def test_sentinel_finds_what_real_models_mixed(sql: psycopg.Connection, engine: AsyncEngine) -> None:
    """wordllama turned against USE multilingual, both of 512 dimensions: 1,500 texts of three languages."""
    texts, old, new = spaces.real(1500)
    mixed = new.copy()
    wrong = swap(old, mixed, 3)
    make(sql, f"vector({new.shape[1]})")
    fill(sql, old, mixed, texts)
    found = only_sentinel_failed(await measured(engine, await plan(engine, new.shape[1])))
    assert found.figure == len(wrong), found
    assert f"keys: {'; '.join(map(str, wrong))}" in found.detail


async def test_sentinel_tells_real_models_apart_row_by_row(sql: psycopg.Connection, engine: AsyncEngine) -> None:
    """Recall of at least 99 % and no false alarm, over every vector of both models."""
    texts, old, new = spaces.real(1500)
    make(sql, f"vector({new.shape[1]})")
    fill(sql, old, new, texts)
    migration = await plan(engine, new.shape[1])
    found = (await measured(engine, migration))["sentinel"]
    assert (found.passed, found.figure) == (True, 0), found
    async with transaction(engine) as connection:
        rule = await discriminants.read(connection, migration.id)
    assert rule is not None
    assert rule.accuses(old).mean() >= 0.99
    assert not rule.accuses(new).any()


async def test_sentinel_fails_where_two_spaces_can_not_be_told_apart(
    sql: psycopg.Connection, engine: AsyncEngine
) -> None:
    rows = 2 * FEW
    one = spaces.made(1, 2 * rows, FEW_DIMS, mean=0.5)
    make(sql, f"vector({FEW_DIMS})")
    fill(sql, one[:rows], one[rows:])
    migration = await plan(engine, FEW_DIMS)
    found = only_sentinel_failed(await measured(engine, migration))
    assert found.detail.startswith("the two generations can't be told apart surely: of ")
    assert found.figure == rows, "nobody vouches for any of them"
    assert await later(engine, migration, ["1"]) is None


async def test_sentinel_finds_a_column_that_was_copied_whole(sql: psycopg.Connection, engine: AsyncEngine) -> None:
    old, _ = few()
    make(sql, f"vector({FEW_DIMS})")
    fill(sql, old, old)
    found = only_sentinel_failed(await measured(engine, await plan(engine, FEW_DIMS)))
    assert "none has two vectors that differ" in found.detail


async def test_sentinel_tells_copies_and_lists_a_few_keys(sql: psycopg.Connection, engine: AsyncEngine) -> None:
    old, new = few()
    new[100:150] = old[100:150]
    make(sql, f"vector({FEW_DIMS})")
    fill(sql, old, new)
    found = only_sentinel_failed(await measured(engine, await plan(engine, FEW_DIMS)))
    assert found.figure == 50
    assert "50 are the row's own old vector" in found.detail
    keys = found.detail.split("keys: ")[1]
    assert keys.endswith(" ...")
    assert len(keys.removesuffix(" ...").split("; ")) == sentinel.MAX_KEYS


async def test_sentinel_lets_as_many_pass_as_the_spec_says_but_no_copies(
    sql: psycopg.Connection, engine: AsyncEngine
) -> None:
    old, new = few()
    new[[3, 4]] = old[[4, 3]]
    make(sql, f"vector({FEW_DIMS})")
    fill(sql, old, new)
    for allowed in (1, 2):
        found = await measured(engine, await plan(engine, FEW_DIMS, name=f"a{allowed}", max_suspect_rows=allowed))
        assert (found["sentinel"].passed, found["sentinel"].threshold) == (allowed == 2, allowed)
        assert re.search("keys: (3; 4|4; 3)$", found["sentinel"].detail), "they are told all the same"
    put(sql, [3], old[[3]])
    assert not (await measured(engine, await plan(engine, FEW_DIMS, max_suspect_rows=2)))["sentinel"].passed


async def test_sentinel_leaves_few_rows_to_the_assignment_gate(sql: psycopg.Connection, engine: AsyncEngine) -> None:
    old, new = few()
    make(sql, f"vector({FEW_DIMS})")
    fill(sql, old[:12], new[:12])
    found = (await measured(engine, await plan(engine, FEW_DIMS, assignment_sample=11)))["sentinel"]
    assert (found.passed, found.figure) == (True, 0)
    assert found.detail == "12 rows are too few to learn from; the assignment gate embeds 11 of them again"


async def test_sentinel_has_nothing_to_tell_at_other_dimensions(sql: psycopg.Connection, engine: AsyncEngine) -> None:
    make(sql, "vector")
    fill(sql, spaces.made(1, FEW, 32, mean=0.5), few()[1])
    migration = await plan(engine, FEW_DIMS)
    async with transaction(engine) as connection:
        await connection.exec_driver_sql("UPDATE migrator.migrations SET from_generation = 'v3@32'")
        migration = await columns.stored.migrations.get_by_id(connection, migration.id)
    found = (await measured(engine, migration))["sentinel"]
    assert found.passed
    assert found.detail == "vectors of 32 dimensions can't stand in a column of 64"


async def later(
    engine: AsyncEngine, migration: Migration, keys: list[str], side: Side = Side.TO
) -> list[tuple[str, ...]] | None:
    async with transaction(engine, read_only=True) as connection:
        return await sentinel.suspects(connection, migration, [(key,) for key in keys], side)


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
async def test_h3_sentinel_watches_what_is_written_later(
    sql: psycopg.Connection, engine: AsyncEngine, kind: str
) -> None:
    old, new = few()
    make(sql, f"{kind}({FEW_DIMS})")
    fill(sql, old, new)
    migration = await plan(engine, FEW_DIMS, kind=kind)
    assert await later(engine, migration, ["1"]) is None, "nothing was learnt yet"
    assert (await measured(engine, migration))["sentinel"].passed
    put(sql, [3, 8], old[[4, 9]])
    sql.execute(f"UPDATE docs SET {SHADOW} = NULL WHERE id = 5".encode())
    assert await later(engine, migration, ["1", "3", "5", "8", "9", "4711"]) == [("3",), ("8",)]
    assert await later(engine, migration, []) == []
    assert await later(engine, migration, [str(key) for key in range(FEW)], Side.FROM) == []
    sql.execute(f"UPDATE docs SET embedding = (SELECT {SHADOW} FROM docs WHERE id = 40) WHERE id IN (11, 12)".encode())
    assert await later(engine, migration, ["10", "11", "12", "13"], Side.FROM) == [("11",), ("12",)], (
        "and the old one's"
    )


async def test_sentinel_forgets_a_rule_that_does_not_hold_any_more(
    sql: psycopg.Connection, engine: AsyncEngine
) -> None:
    old, new = few()
    make(sql, f"vector({FEW_DIMS})")
    fill(sql, old, new)
    migration = await plan(engine, FEW_DIMS)
    await measured(engine, migration)
    assert await later(engine, migration, ["1"]) == []
    sql.execute(f"UPDATE docs SET embedding = {SHADOW}".encode())
    assert not (await measured(engine, migration))["sentinel"].passed
    assert await later(engine, migration, ["1"]) is None


async def test_sentinel_pauses_a_migration_and_a_cleared_vector_is_made_again(
    deployment: Deployment, worker: Worker
) -> None:
    """The whole way: a batch that the old model answered, found, cleared by hand, embedded again."""
    deployment.spec_data["gates"]["assignment_sample"] = 20
    await steps.begin(deployment, worker, 150)
    await steps.to(worker, MigrationStatus.VALIDATING)
    wrong = [20, 21, 22]
    for key in wrong:
        title, body = deployment.words(key + 1)
        deployment.query(
            f"UPDATE docs SET {SHADOW} = %s WHERE id = %s RETURNING 1", literal(embed(V3, f"{title}\n{body}")), key
        )
    with pytest.raises(GateFailed) as failed:
        await attended.validate(worker, "docs", actor="test")
    assert "sentinel is 3 against 0" in str(failed.value)
    listed = re.search(r"keys: ([\d; ]+)", str(failed.value))
    assert listed is not None
    assert sorted(map(int, listed[1].split("; "))) == wrong
    assert (await steps.stored(worker)).status is MigrationStatus.PAUSED
    deployment.query(f"UPDATE docs SET {SHADOW} = NULL WHERE id = ANY(%s) RETURNING 1", wrong)
    await verbs.resume(worker.engine, "docs", actor="test")
    await steps.to(worker, MigrationStatus.READY)
    assert deployment.mismatches(SHADOW, V4) == []
    verdicts = deployment.query("SELECT passed FROM migrator.verdicts WHERE gate = 'sentinel' ORDER BY id")
    assert [each[0] for each in verdicts] == [False, True, True]
