"""H30: while `resume` takes back what was written unseen, the application goes on; no row slips through, none waits."""

from __future__ import annotations

from typing import Any

import pytest

from migrator.cutover import recapture
from migrator.spending.worker import Worker
from migrator.target import taking_back
from tests.deployment import V3, V4, Deployment
from tests.integration.bystanders import ALLOWED_SECONDS, bystander, worst
from tests.integration.steps import ready, settled
from tests.integration.swaps import cut_over, resume, roll_back, unblock

pytestmark = pytest.mark.timeout(180)
ROWS = 200
#: Each row costs its entries in the indexes; here some milliseconds, wherever this runs.
COSTLY = """
CREATE FUNCTION costly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.006); RETURN NEW; END $$;
CREATE TRIGGER a_costly BEFORE UPDATE ON docs FOR EACH ROW
  WHEN (OLD.embedding__migrator IS NOT NULL AND NEW.embedding__migrator IS NULL) EXECUTE FUNCTION costly();
ALTER TABLE docs ENABLE ALWAYS TRIGGER a_costly;
"""


async def test_h20_h30_a_row_that_gets_another_key_while_it_waits_is_taken_back_under_that(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed by the key that it had; the trigger carries it over, since its text is the old one."""
    await ready(deployment, worker, 20)
    await cut_over(worker)
    await unblock(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'unseen ' || id WHERE id IN (3, 4)")
    rounds = taking_back.rounds

    async def moved_first(*words: Any, **more: Any) -> int:
        with deployment.connect() as connection:
            listed = connection.execute("SELECT key[1] FROM migrator.unseen ORDER BY 1").fetchall()
            assert listed == [("3",), ("4",)]
            connection.execute("UPDATE docs SET id = 1003 WHERE id = 3")
            connection.execute("UPDATE docs SET id = id + 1000 WHERE id = 4")
            connection.execute("UPDATE docs SET id = 2004 WHERE id = 1004")
        return await rounds(*words, **more)

    monkeypatch.setattr(recapture.taking_back, "rounds", moved_first)
    assert await resume(worker) == "completed"
    assert deployment.query("SELECT id FROM docs WHERE embedding IS NULL ORDER BY id") == [(1003,), (2004,)]
    await settled(deployment, worker)
    assert deployment.mismatches("embedding", V4) == []
    await roll_back(worker)
    assert deployment.mismatches("embedding", V3) == []


async def test_p8_h30_nobody_waits_long_for_a_row_that_is_taken_back(deployment: Deployment, worker: Worker) -> None:
    """Rows are held by the handful: all of them at once would be held for more than a second here."""
    await ready(deployment, worker, ROWS)
    await unblock(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'unseen ' || id")
        connection.execute(COSTLY)
    touch = [f"UPDATE docs SET n = n + 1 WHERE id = {key}" for key in range(1, ROWS, 7)]
    with bystander(deployment.url, touch) as seen:
        assert await resume(worker) == "backfilling"
    assert worst(seen) <= ALLOWED_SECONDS
    assert deployment.value("SELECT count(*) FROM docs WHERE embedding__migrator IS NOT NULL") == 0
