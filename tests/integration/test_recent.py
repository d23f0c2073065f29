"""While it is ready: what was written since the look at every vector is looked at by itself, and before a cutover."""

from __future__ import annotations

import pytest

from migrator.cutover.readiness import VerdictsMissing
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.spending.worker import Worker
from migrator.validation import recent
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration.columns import SHADOW
from tests.integration.steps import drain, ready, stored
from tests.integration.swaps import cut_over

S = MigrationStatus
ROWS = 150


def write(deployment: Deployment, *statements: str) -> None:
    """What a superuser, a bug or a restore writes: behind the triggers, and counted by PostgreSQL."""
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs DISABLE TRIGGER USER")
        for statement in statements:
            connection.execute(statement.encode())
        connection.execute("ALTER TABLE docs ENABLE TRIGGER USER")
        connection.execute("ALTER TABLE docs ENABLE ALWAYS TRIGGER zzzz_capture__migrator")
        connection.execute("SELECT pg_stat_force_next_flush()")


def row(deployment: Deployment, number: int, model: str = V4) -> str:
    title, body = deployment.words(number)
    vectors = [literal(embed(each, f"{title}\n{body}")) for each in (V3, model)]
    values = ", ".join(f"'{each}'" for each in (title, body, *vectors))
    return f"INSERT INTO docs (title, body, embedding, {SHADOW}) VALUES ({values})"


async def looked(worker: Worker) -> list[str]:
    """What a tick offers to be looked at, and finds."""
    tickets = (await tick(worker.engine, actor="test")).tickets
    return [await perform(worker, ticket) for ticket in tickets if ".recent." in ticket.label]


def later(deployment: Deployment) -> None:
    deployment.query("UPDATE migrator.duties SET leased_at = leased_at - interval '11 min' RETURNING 1")


def failed(deployment: Deployment) -> list[tuple[str, str]]:
    return deployment.query("SELECT gate, detail FROM migrator.verdicts WHERE NOT passed ORDER BY id")


async def test_what_was_written_since_is_looked_at_while_ready(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS, anew=True)
    assert await looked(worker) == [], "nothing was written"
    write(deployment, row(deployment, 1000))
    (said,) = await looked(worker)
    assert said.endswith(" rows written since, 0 gates failed")
    assert int(said.split()[1]) < ROWS, "not the whole table"
    assert await looked(worker) == [], "it was looked at a moment ago"
    count = deployment.value("SELECT count(*) FROM migrator.verdicts")
    write(
        deployment,
        f"UPDATE docs SET {SHADOW} = array_fill(0::real, ARRAY[64])::vector WHERE id = 5",
        row(deployment, 1001, V3),
    )
    later(deployment)
    assert (await looked(worker))[0].endswith(" rows written since, 2 gates failed")
    structure, sentinel = failed(deployment)
    assert structure[0] == "structure"
    assert "written since the last look at all: 0 wordless, 0 misshapen, 1 zero [5]" in structure[1]
    assert sentinel[0] == "sentinel"
    assert f"look like {V3}@64; keys: {ROWS + 2}" in sentinel[1]
    assert deployment.value("SELECT count(*) FROM migrator.verdicts") == count + 2, "what is sound changes nothing"
    assert deployment.status == "ready"
    later(deployment)
    assert await looked(worker) == [], "somebody has to look first"
    with pytest.raises(VerdictsMissing, match="structure did not pass"):
        await cut_over(worker)


async def test_cutover_looks_at_what_was_written_since(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS, anew=True)
    write(deployment, row(deployment, 1000))
    assert (await recent.look(worker, await stored(worker))).failed == []
    write(deployment, row(deployment, 1001, V3))
    with pytest.raises(VerdictsMissing, match="sentinel did not pass: it is 1 against 0"):
        await cut_over(worker)
    assert deployment.status == "ready"


async def test_what_the_application_writes_and_catch_up_embeds_is_sound(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS, anew=True)
    deployment.query("UPDATE docs SET body = body || ' edited' WHERE id < 20 RETURNING 1")
    await drain(worker)
    found = await recent.look(worker, await stored(worker))
    assert found.rows >= 19
    assert found.failed == []
    await cut_over(worker)
    assert deployment.mismatches("embedding", V4) == []
