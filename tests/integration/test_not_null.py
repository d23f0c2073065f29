"""H23: a NOT NULL vector column: off from the swap until cleanup, then on again under its own name."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from migrator.cutover import not_null
from migrator.cutover.cleaning import Left
from migrator.cutover.not_null import NotNullUnproved, RowsWithoutVector
from migrator.demo.servers import Postgres
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.spending.worker import Worker
from migrator.state.connection import LockBusy
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration.steps import drain, start, stored, to
from tests.integration.swaps import cut_over, quiet, roll_back
from tests.integration.test_backfill_partitions import PARTITIONED
from tests.integration.test_dependents import both, whole

S = MigrationStatus
NEW = f"qwen/{V4}@64"


@pytest.fixture(params=["plain", "partitioned"])
def strict(deployment: Deployment, request: pytest.FixtureRequest) -> Deployment:
    deployment.make_table(12, PARTITIONED) if request.param == "partitioned" else deployment.make_table(12)
    named = "ADD CONSTRAINT always_there NOT NULL embedding"
    with deployment.connect() as connection:
        connection.execute(
            f"ALTER TABLE docs {named if names(connection) else 'ALTER embedding SET NOT NULL'}".encode()
        )
    return deployment


def names(connection: psycopg.Connection) -> bool:
    """Whether NOT NULL has a name, and may be NOT VALID; before, a CHECK takes its place until the last look."""
    return connection.info.server_version >= 180000


def columns(deployment: Deployment) -> dict[str, bool]:
    return dict(
        deployment.query(
            "SELECT attname, attnotnull FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname ~ 'embedding'"
        )
    )


async def ready(deployment: Deployment, worker: Worker) -> None:
    await start(deployment, worker)
    await to(worker, S.READY)


async def clean_up(worker: Worker, *, leave_nullable: bool = False) -> None:
    await attended.clean_up(
        worker,
        "docs",
        close_window=True,
        strays_gone=True,
        actor="t",
        tell=quiet,
        left=Left(nullable=leave_nullable),
    )


@pytest.mark.timeout(180)
async def test_h23_not_null_is_off_while_the_window_is_open_and_on_again_afterwards(
    strict: Deployment, worker: Worker, postgres: Postgres
) -> None:
    before = whole(postgres, strict.url)
    await ready(strict, worker)
    assert columns(strict) == {"embedding": True, "embedding__migrator": False}
    await cut_over(worker)
    assert columns(strict) == {"embedding": False, "embedding__migrator": False}
    await roll_back(worker)
    assert columns(strict) == {"embedding": False, "embedding__migrator": False}
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    await cut_over(worker)
    with strict.connect() as connection:
        # A forgotten writer: its vector is diverted, and the row has none of the new generation's for a moment.
        vector = literal(embed(V3, "late\nrow"))
        connection.execute("INSERT INTO docs (title, body, embedding) VALUES ('late', 'row', %s)", [vector])
        assert connection.execute("SELECT count(*) FROM docs WHERE embedding IS NULL").fetchone() == (1,)
    await drain(worker)
    await clean_up(worker)
    assert whole(postgres, strict.url) == before
    assert strict.mismatches("embedding", V4) == []
    assert (await stored(worker)).not_null is None


@pytest.mark.timeout(120)
async def test_h23_after_a_rollback_cleanup_puts_it_back_where_it_was(
    strict: Deployment, worker: Worker, postgres: Postgres
) -> None:
    before = both(postgres, strict)
    await ready(strict, worker)
    await cut_over(worker)
    await roll_back(worker)
    await clean_up(worker)
    assert both(postgres, strict) == before


async def test_h23_a_last_look_that_takes_long_is_not_cut_off(
    strict: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a large table it takes minutes, and the step's own lease must last that long: it is renewed each 0.7 s."""
    finish = not_null.finish

    async def slowly(*words: Any, **more: Any) -> None:
        await asyncio.sleep(1.5)
        await finish(*words, **more)

    monkeypatch.setattr(not_null, "finish", slowly)
    await ready(strict, worker)
    await cut_over(worker)
    await roll_back(worker)
    await clean_up(worker)
    assert strict.status == "cleaned"
    assert columns(strict) == {"embedding": True}


async def test_h23_a_writer_of_the_new_generation_before_the_swap_is_told_why_it_fails(
    strict: Deployment, worker: Worker
) -> None:
    await ready(strict, worker)
    vector = literal(embed(V4, "new\nrow"))
    with strict.connect() as connection:
        connection.execute("SELECT set_config('migrator.generation', %s, false)", [NEW])
        for statement in (
            "INSERT INTO docs (title, body, embedding) VALUES ('new', 'row', %s)",
            "UPDATE docs SET title = 'new', body = 'row', embedding = %s WHERE id = 3",
        ):
            with pytest.raises(psycopg.errors.NotNullViolation, match="NOT NULL until the swap") as caught:
                connection.execute(statement.encode(), [vector])
            assert "Deploy it after the swap" in str(caught.value.diag.message_hint)
        connection.execute(
            "UPDATE docs SET embedding = %s WHERE id = 4", [literal(embed(V4, "\n".join(strict.words(4))))]
        )
    assert strict.mismatches("embedding", V3) == [], "a new vector alone goes to its own column"
    await cut_over(worker)
    assert strict.mismatches("embedding", V4) == []


async def test_h23_rows_without_a_vector_keep_cleanup_from_it_until_somebody_decides(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(5)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ALTER embedding SET NOT NULL")
    await ready(deployment, worker)
    await cut_over(worker)
    with deployment.connect() as connection:
        connection.execute("SELECT set_config('migrator.generation', %s, false)", [NEW])
        connection.execute("UPDATE docs SET title = '', body = '', embedding = NULL WHERE id = 2")
    with pytest.raises(RowsWithoutVector, match="1 of the rows of docs have no vector"):
        await clean_up(worker)
    assert deployment.status == "completed"
    await clean_up(worker, leave_nullable=True)
    assert deployment.status == "cleaned"
    assert columns(deployment) == {"embedding": False}


async def test_h23_a_cleanup_that_died_before_the_last_look_is_finished_by_the_next(
    strict: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(strict, worker)
    await cut_over(worker)
    finish = not_null.finish

    async def dies(*_: object, **__: object) -> None:
        raise LockBusy("killed")

    monkeypatch.setattr(not_null, "finish", dies)
    with pytest.raises(LockBusy):
        await clean_up(worker)
    assert strict.status == "cleaned"
    violation = (psycopg.errors.NotNullViolation, psycopg.errors.CheckViolation)
    with strict.connect() as connection, pytest.raises(violation):
        connection.execute("UPDATE docs SET embedding = NULL WHERE id = 1")
    name = (await stored(worker)).not_null
    valid = "SELECT bool_and(convalidated) FROM pg_constraint WHERE conname = %s"
    assert strict.value(valid, name) is False
    monkeypatch.setattr(not_null, "finish", finish)
    with strict.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(f"ALTER TABLE docs DROP CONSTRAINT {name}".encode())
        connection.execute("UPDATE docs SET embedding = NULL WHERE id = 1")
        again = "NOT NULL embedding" if names(connection) else "CHECK (embedding IS NOT NULL)"
        connection.execute(f"ALTER TABLE docs ADD CONSTRAINT {name} {again} NOT VALID".encode())
    with pytest.raises(NotNullUnproved, match="1 of its rows"):
        await clean_up(worker)
    strict.half_moved([1])
    await clean_up(worker)
    assert columns(strict) == {"embedding": True}
    assert strict.value(valid, name) in {True, None}, "the CHECK went when the column was NOT NULL again"
