"""The way back: what it owes, settled as it comes or before the swap, or left where the old model can't be asked."""

from __future__ import annotations

import json

import pytest

from migrator.errors import OperatorError
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, progress
from migrator.orchestrator.perform import perform
from migrator.planning import calibration
from migrator.planning.calibration import Calibration
from migrator.spending.worker import Worker
from migrator.state import migrations
from migrator.state.connection import transaction
from tests.deployment import V3, V4, Deployment, embed, literal, until
from tests.integration.steps import drain, first_tickets, ready, settled, start, to
from tests.integration.swaps import quiet, roll_back

S = MigrationStatus
#: What a provider says of a model that it withdrew.
WITHDRAWN = {
    "model": V3,
    "count": None,
    "status": 404,
    "body": {"error": {"code": "model_not_found", "message": "no such model"}},
}


async def cut_over_fresh(deployment: Deployment, worker: Worker, rows: int = 20) -> None:
    await ready(deployment, worker, rows)
    await attended.cut_over(worker, "docs", max_dirty_rows=100, actor="test", tell=quiet, keep_fresh=True)


def write_new(deployment: Deployment, key: int, body: str) -> None:
    """What a deployed application does after the cutover: text and vector of the new generation."""
    with deployment.connect() as connection:
        connection.execute("SELECT set_config('migrator.generation', %s, false)", [f"qwen/{V4}@64"])
        connection.execute(
            "UPDATE docs SET title = 't', body = %s, embedding = %s WHERE id = %s",
            [body, literal(embed(V4, f"t\n{body}")), key],
        )


def spent(deployment: Deployment, purpose: str) -> int:
    query = "SELECT coalesce(sum(spent_tokens), 0)::bigint FROM migrator.ledger WHERE purpose = %s"
    return int(deployment.value(query, purpose))


async def test_p10_a_column_that_is_kept_fresh_owes_nothing_and_goes_back_without_its_model(
    deployment: Deployment, worker: Worker
) -> None:
    await cut_over_fresh(deployment, worker)
    for key in range(1, 6):
        write_new(deployment, key, f"since {key}")
    await drain(worker)
    assert spent(deployment, "keep-fresh") > 0, "counted, and by its own name (P7)"
    status = json.loads(deployment.must("status", "docs", "--json"))
    assert status["rollback"] == {"window_open": True, "debt_rows": 0, "debt_usd": 0.0, "kept_fresh": True}
    deployment.simulator.admin(faults=[WITHDRAWN])
    swapped = await roll_back(worker)
    assert swapped.absent_rows == 0
    assert deployment.mismatches("embedding", V3) == []


async def test_without_keep_fresh_the_debt_stands_and_is_told_in_money(deployment: Deployment, worker: Worker) -> None:
    await cut_over_fresh(deployment, worker)
    deployment.must("limits", "docs", "--no-keep-fresh")
    write_new(deployment, 1, "since")
    for _ in range(3):
        await work_once(worker)
    status = json.loads(deployment.must("status", "docs", "--json"))
    assert status["rollback"]["debt_rows"] == 1
    assert status["rollback"]["debt_usd"] > 0
    assert "debt 1 rows, about" in deployment.must("status", "docs")
    # It is owed to the old model: what a pilot found the new one to bill does not change it.
    plan = deployment.value("SELECT plan FROM migrator.migrations")
    mended = calibration.apply(plan, Calibration(60, 3.0, 2.9, 3.1, None, 7, requests=20), deployment.spec)
    assert mended["tokens"]["estimate"] == 3 * plan["tokens"]["estimate"]
    deployment.query("UPDATE migrator.migrations SET plan = %s::jsonb RETURNING 1", json.dumps(mended))
    async with transaction(worker.engine) as connection:
        found = await progress.read(connection, await migrations.get(connection, "docs"))
    assert progress.debt(found) == status["rollback"]
    assert spent(deployment, "keep-fresh") == 0


async def test_an_old_model_that_is_withdrawn_keeps_no_searched_row_from_its_vector(
    deployment: Deployment, worker: Worker
) -> None:
    """The debt stays, is told, and nothing else stops."""
    await cut_over_fresh(deployment, worker)
    deployment.simulator.admin(faults=[WITHDRAWN])
    with deployment.connect() as connection:  # an old writer: both columns lack a vector of this text
        connection.execute("UPDATE docs SET body = 'edited' WHERE id <= 3")
    await until_live(deployment, worker)
    assert deployment.mismatches("embedding", V4) == []
    assert deployment.status == "completed"
    told = deployment.query("SELECT reason FROM migrator.transitions WHERE reason LIKE 'the old column is not kept%%'")
    assert len(told) == 1
    assert "edited" not in told[0][0]


async def test_p10_a_debt_that_nobody_can_settle_does_not_bar_the_way_back(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 20)
    await attended.cut_over(worker, "docs", max_dirty_rows=100, actor="test", tell=quiet)
    for key in (3, 5):
        write_new(deployment, key, f"since {key}")
    deployment.simulator.admin(faults=[WITHDRAWN])
    with pytest.raises(OperatorError):
        await roll_back(worker)
    assert deployment.status == "completed"
    done = deployment.must("rollback", "docs", "--leave-debt", "--yes")
    assert "2 rows were absent from search" in done
    assert deployment.status == "rolled_back"
    assert deployment.query("SELECT id FROM docs WHERE embedding IS NULL ORDER BY id") == [(3,), (5,)]
    listed = json.loads(deployment.must("rows", "docs", "--debt", "--json"))
    assert [row["key"] for row in listed] == [["3"], ["5"]]
    with pytest.raises(OperatorError):
        await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="test", tell=quiet)
    assert deployment.status == "rolled_back", "what can't be embedded keeps nobody in the middle of cleaning up"
    deployment.simulator.admin(no_faults=True)
    await drain(worker)
    assert deployment.mismatches("embedding", V3) == [], "catch-up goes on until they have their vectors"


async def work_once(worker: Worker) -> None:
    for ticket in await first_tickets(worker):
        await perform(worker, ticket)


async def until_live(deployment: Deployment, worker: Worker) -> None:
    """Work until no searched row lacks its vector."""

    async def whole() -> bool:
        await work_once(worker)
        left = deployment.value("SELECT count(*) FROM migrator.dirty WHERE side = 'to'")
        told = deployment.value("SELECT count(*) FROM migrator.transitions WHERE reason LIKE '%%not kept fresh%%'")
        return bool(left == 0 and told)

    await until(whole)


async def test_a_debt_for_good_is_left_by_cleanup_where_the_operator_says_so(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    await attended.cut_over(worker, "docs", max_dirty_rows=100, actor="test", tell=quiet)
    write_new(deployment, 3, "since")
    deployment.simulator.admin(faults=[WITHDRAWN])
    deployment.must("rollback", "docs", "--leave-debt", "--yes")
    deployment.must("cleanup", "docs", "--leave-debt", "--yes")
    assert deployment.status == "cleaned"
    assert deployment.query("SELECT id FROM docs WHERE embedding IS NULL") == [(3,)]


async def test_p10_only_embedded_loses_nothing_there_and_back(deployment: Deployment, worker: Worker) -> None:
    """Rows that had no vector are left alone; those that had one have one of the right text, whoever edited them."""
    deployment.spec_data["target"]["only_embedded"] = True
    deployment.make_table(20)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET embedding = NULL WHERE id <= 2")
    await start(deployment, worker)
    await to(worker, S.READY)
    await attended.cut_over(worker, "docs", max_dirty_rows=100, actor="test", tell=quiet)
    write_new(deployment, 3, "by the new writer")
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'by an old one' WHERE id = 4")
        connection.execute("UPDATE docs SET body = 'twice' WHERE id = 4")
    await settled(deployment, worker)
    assert deployment.mismatches("embedding", V4) == [1, 2]
    await roll_back(worker)
    assert deployment.mismatches("embedding", V3) == [1, 2]
    assert deployment.query("SELECT id FROM docs WHERE embedding IS NULL ORDER BY id") == [(1,), (2,)]


async def test_p6_p10_only_embedded_finds_rows_again_that_waited_when_they_left_the_scope(
    deployment: Deployment, worker: Worker
) -> None:
    """Both vectors went with an edit; the row is taken out of `where`, caught up with, and brought back."""
    deployment.spec_data["target"] |= {"only_embedded": True, "where": "n = 0"}
    deployment.make_table(20)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET embedding = NULL, n = 1 WHERE id <= 2")
    await start(deployment, worker)
    await to(worker, S.READY)
    await attended.cut_over(worker, "docs", max_dirty_rows=100, actor="test", tell=quiet)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'by an old one', n = 1 WHERE id IN (4, 5)")
        connection.execute("UPDATE docs SET body = 'by an old one' WHERE id = 6")
        connection.execute("UPDATE docs SET n = 1 WHERE id = 6")
    await settled(deployment, worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET id = 50 WHERE id = 5")
        connection.execute("UPDATE docs SET n = 0")
    await settled(deployment, worker)
    assert deployment.mismatches("embedding", V4) == [1, 2]
    await roll_back(worker)
    assert deployment.mismatches("embedding", V3) == [1, 2]
    deployment.must("cleanup", "docs", "--yes")
    assert deployment.query("SELECT * FROM migrator.parked") == []
