"""Vectors that writers bring themselves: looked at once they are there, told with their writer, condition of a swap."""

from __future__ import annotations

import json
from collections.abc import Iterable

import psycopg
import pytest

from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attendance, attended, suspicious, verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.suspicious import NothingSuspect, SuspectsWritten
from migrator.orchestrator.tick import tick
from migrator.spending.worker import Worker
from migrator.state import discriminants
from migrator.state.connection import transaction
from migrator.target import taking_back
from migrator.target.taking_back import RowsHeld
from migrator.validation import written
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration.steps import ready, stored, to
from tests.integration.swaps import cut_over, quiet, roll_back

S = MigrationStatus
ROWS = 150
WHO = "the application (role postgres)"
NEW = f"qwen/{V4}@64"


def bring(deployment: Deployment, keys: Iterable[int], model: str, declared: str = "") -> None:
    """What a writer does that embeds with a model: the vectors of other rows' texts, so that none is an echo."""
    with deployment.connect() as connection:
        connection.execute("SELECT set_config('migrator.generation', %s, false)", [declared])
        for key in keys:
            put(connection, key, model, key + 1)


def put(connection: psycopg.Connection, key: int, model: str, number: int) -> None:
    title, body = Deployment.words(number)
    vector = literal(embed(model, f"{title}\n{body}"))
    connection.execute("UPDATE docs SET embedding = %s WHERE id = %s", [vector, key])


def mend(deployment: Deployment, keys: Iterable[int], model: str, declared: str = "") -> None:
    """The right vectors, by the same writer."""
    with deployment.connect() as connection:
        connection.execute("SELECT set_config('migrator.generation', %s, false)", [declared])
        for key in keys:
            put(connection, key, model, key)


async def watched(worker: Worker) -> list[str]:
    """What a tick offers to be looked at, and finds."""
    tickets = (await tick(worker.engine, actor="test")).tickets
    return [await perform(worker, ticket) for ticket in tickets if ".watch." in ticket.label]


async def embedded(worker: Worker) -> None:
    """Let catch-up fill the live column: its other side is a debt of the rollback's."""
    migration = await stored(worker)
    while await attendance.dirty_rows(worker, migration, migration.live_side):
        await attendance.help_catch_up(worker, migration, migration.live_side)


def listed(deployment: Deployment) -> list[tuple[str, int]]:
    return [
        (side, int(key))
        for side, key in deployment.query("SELECT side, key[1] FROM migrator.suspects ORDER BY side, key[1]::int")
    ]


def left(deployment: Deployment) -> int:
    return int(deployment.value("SELECT count(*) FROM migrator.written"))


async def test_h3_cutover_refuses_old_vectors_of_a_writer_that_declared_the_new_generation(
    deployment: Deployment, worker: Worker
) -> None:
    """The gates passed before; what is diverted into the shadow afterwards is looked at by the cutover itself."""
    await ready(deployment, worker, ROWS)
    bring(deployment, (20, 21, 22), V3, NEW)
    with pytest.raises(SuspectsWritten) as caught:
        await cut_over(worker)
    assert caught.value.exit_code == 3
    said = str(caught.value)
    assert f"{WHO} wrote 3 vectors into the column of {NEW} that look like {V3}@64" in said
    assert "`migrator retry docs --suspects`" in said
    assert deployment.status == "ready"
    assert deployment.value("SELECT live_side FROM migrator.migrations") == "from"
    assert listed(deployment) == [("to", 20), ("to", 21), ("to", 22)]
    assert (await suspicious.look(worker.engine, "docs")).absent == 0, "nobody reads the shadow"
    assert await suspicious.take_back(worker.engine, "docs", actor="test") == 3
    await cut_over(worker)
    assert deployment.mismatches("embedding", V4) == []
    assert listed(deployment) == []


@pytest.mark.timeout(180)
async def test_h3_a_writer_of_the_wrong_space_is_named_after_the_swap(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    assert await watched(worker) == [], "the swap itself wrote no vector"
    bring(deployment, (7, 8), V3, NEW)
    assert await watched(worker) == ["2 written vectors looked at, 2 suspect"]
    assert left(deployment) == 0
    found = json.loads(deployment.must("status", "docs", "--json"))
    assert found["suspects"] == [{"writer": WHO, "generation": NEW, "rows": 2}]
    deployment.must("status", "docs", "--exit-code", code=3)
    assert f"{WHO} wrote 2 vectors into the column of {NEW} that look like {V3}@64" in deployment.must("status", "docs")
    notes = deployment.query("SELECT reason FROM migrator.transitions WHERE actor = 'sentinel'")
    assert notes == [(f"sentinel: {WHO} wrote 2 vectors into the column of {NEW} that look like {V3}@64; keys: 7; 8",)]
    report = json.loads(deployment.must("report", "docs", "--json"))
    assert [each["reason"] for each in report["moves"] if each["actor"] == "sentinel"] == [
        f"sentinel: {WHO} wrote 2 vectors into the column of {NEW} that look like {V3}@64 [keys: `migrator status`]"
    ], "P11: no key"
    assert report["progress"]["suspects"] == found["suspects"]
    rows = json.loads(deployment.must("rows", "docs", "--suspects", "--json"))
    assert [(row["key"], row["generation"], row["role"]) for row in rows] == [
        (["7"], NEW, "postgres"),
        (["8"], NEW, "postgres"),
    ]
    bring(deployment, (10,), V3, NEW)
    assert await watched(worker) == ["1 written vectors looked at, 1 suspect"]
    assert len(deployment.query("SELECT 1 FROM migrator.transitions WHERE actor = 'sentinel'")) == 1, "once a writer"
    assert (await suspicious.look(worker.engine, "docs")).absent == 3
    said = deployment.must("retry", "docs", "--suspects", "--yes")
    assert "3 vectors were taken back" in said
    assert deployment.value("SELECT count(*) FROM docs WHERE embedding IS NULL") == 3, "absent, not wrong"
    await embedded(worker)
    assert deployment.mismatches("embedding", V4) == []
    assert json.loads(deployment.must("status", "docs", "--json"))["suspects"] == []


async def test_h3_rollback_refuses_new_vectors_of_an_undeclared_writer(deployment: Deployment, worker: Worker) -> None:
    """An application that was deployed without its declaration: its v4 vectors are diverted to the old column."""
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    bring(deployment, (30, 31), V4)
    await embedded(worker)
    with pytest.raises(SuspectsWritten) as caught:
        await roll_back(worker)
    assert f"{WHO} wrote 2 vectors into the column of {V3}@64 that look like {NEW}" in str(caught.value)
    assert caught.value.exit_code == 3
    assert deployment.status == "completed"
    assert await suspicious.take_back(worker.engine, "docs", actor="test") == 2
    await roll_back(worker)
    assert deployment.mismatches("embedding", V3) == []
    declared = f"{V3}@64"
    bring(deployment, (40,), V4, declared)
    assert await watched(worker) == ["1 written vectors looked at, 1 suspect"], "after the rollback too"
    assert listed(deployment) == [("from", 40)]


async def test_h3_a_suspect_that_somebody_holds_is_told_and_taken_back_later(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_back, "_ROUNDS", 2)
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    bring(deployment, (30, 31, 32), V3, NEW)
    assert await watched(worker) == ["3 written vectors looked at, 3 suspect"]
    with deployment.connect() as holder, holder.transaction():
        holder.execute("SELECT FROM docs WHERE id = 31 FOR NO KEY UPDATE")
        with pytest.raises(RowsHeld) as caught:
            await suspicious.take_back(worker.engine, "docs", actor="test")
    happened, state, following = caught.value.sentences()
    assert happened == "Rows of docs whose vectors are to be taken back are held by open transactions: 1 of them."
    assert state == (
        "2 vectors were taken back, the others are as they were; rows without their live vector are absent from "
        "search until it is made again."
    )
    assert "run the same command again" in following
    assert deployment.query("SELECT id FROM docs WHERE embedding IS NULL ORDER BY id") == [(30,), (32,)]
    assert await suspicious.take_back(worker.engine, "docs", actor="test") == 1
    await embedded(worker)
    assert deployment.mismatches("embedding", V4) == []


async def test_h3_a_suspect_that_is_written_anew_is_none(deployment: Deployment, worker: Worker) -> None:
    """Bounded: one line for a row, however often it is written; mended rows leave the list by themselves."""
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    for _ in range(3):
        bring(deployment, (5, 6), V3, NEW)
        mend(deployment, (5, 6), V4, NEW)
    bring(deployment, (5, 6), V3, NEW)
    await watched(worker)
    assert listed(deployment) == [("to", 5), ("to", 6)]
    mend(deployment, (5,), V4, NEW)
    assert await watched(worker) == ["1 written vectors looked at, 0 suspect"]
    assert listed(deployment) == [("to", 6)]
    deployment.query("DELETE FROM docs WHERE id = 6 RETURNING 1")
    assert await watched(worker) == [], "it was looked at a moment ago"
    deployment.query("UPDATE migrator.suspects SET looked_at = looked_at - interval '61 s' RETURNING 1")
    assert await watched(worker) == ["0 written vectors looked at, 0 suspect"]
    assert listed(deployment) == [], "the row is gone"
    assert await watched(worker) == []
    with pytest.raises(NothingSuspect):
        await suspicious.look(worker.engine, "docs")


async def test_h3_what_an_operator_accepts_stays_and_is_signed(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    bring(deployment, (20,), V3, NEW)
    await watched(worker)
    deployment.must("retry", "docs", "--accept-suspects", " ", code=2)
    deployment.must("retry", "docs", "--suspects", "--accept-suspects", "x", code=2)
    assert "1 suspect vectors stay" in deployment.must("retry", "docs", "--accept-suspects", "odd recipes, OPS-123")
    assert deployment.query("SELECT reason FROM migrator.transitions WHERE reason LIKE '%%accepted%%'") == [
        ("1 suspect vectors accepted: odd recipes, OPS-123",)
    ]
    await cut_over(worker)
    assert listed(deployment) == []


async def test_h3_what_we_write_ourselves_and_what_undeclared_sessions_write_natively_is_not_noted(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, ROWS)
    bring(deployment, (3,), V3)
    assert left(deployment) == 0, "before the cutover an undeclared writer's vector is its own business"
    await cut_over(worker)
    deployment.query("UPDATE docs SET body = 'another text', n = n + 1 WHERE id = 3 RETURNING 1")
    deployment.query("UPDATE docs SET n = n + 1 RETURNING 1")
    await embedded(worker)
    assert deployment.mismatches("embedding", V4) == []
    assert left(deployment) == 0


async def test_h3_inserts_and_copies_are_noted_wherever_their_vector_goes(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    for declared in ("", NEW):
        with deployment.connect() as connection:
            connection.execute("SELECT set_config('migrator.generation', %s, false)", [declared])
            deployment.insert(connection, 3, first=ROWS + 1)  # the old model's vectors
            connection.execute("INSERT INTO docs (title, body) VALUES ('no', 'vector')")
    notes = deployment.query("SELECT side, application, role, count(*)::int FROM migrator.written GROUP BY 1, 2, 3")
    assert sorted(notes) == [
        ("from", "the application", "postgres", 3),
        ("to", "the application", "postgres", 3),
    ]
    await watched(worker)
    assert [side for side, _ in listed(deployment)] == ["to"] * 3, "the diverted ones are where they belong"


async def test_h3_a_look_that_was_killed_goes_on_where_it_stopped(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written, "HANDFUL", 2)
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    bring(deployment, (1, 2, 3, 4, 5), V3, NEW)
    migration = await stored(worker)
    assert await written.once(worker.engine, migration) == written.Looked(2, 2)
    assert (left(deployment), len(listed(deployment))) == (3, 2)
    assert await written.catch_up(worker.engine, migration, Side.TO) == [(Side.TO, WHO, 5)]
    assert left(deployment) == 0


async def test_h3_without_a_rule_nobody_can_say_and_nothing_is_kept(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    async with transaction(worker.engine) as connection:
        await discriminants.forget(connection, (await stored(worker)).id)
    bring(deployment, (1, 2), V3, NEW)
    assert left(deployment) == 2
    assert await watched(worker) == ["2 written vectors looked at, 0 suspect"]
    assert (left(deployment), listed(deployment)) == (0, [])


async def test_h3_cleanup_takes_the_notes_along(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    bring(deployment, (1, 2), V3, NEW)
    await watched(worker)
    bring(deployment, (3,), V3, NEW)
    await verbs.cancel(worker.engine, "docs", actor="test")
    await attended.clean_up(worker, "docs", close_window=False, strays_gone=True, actor="test", tell=quiet)
    assert (left(deployment), listed(deployment)) == (0, [])


async def test_h3_a_resumed_migration_looks_again(deployment: Deployment, worker: Worker) -> None:
    """Cutover, rollback, cutover: what is found between is a condition each time."""
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    await roll_back(worker)
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    bring(deployment, (50,), V3, NEW)
    with pytest.raises(SuspectsWritten, match="wrote 1 vectors"):
        await cut_over(worker)
