"""H30: our own triggers hurt the application. They are taken off at once, and nothing written meanwhile is believed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from migrator.cutover import capture_off, recapture
from migrator.cutover.recapture import TriggersWouldFail
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended
from migrator.orchestrator.perform import perform
from migrator.spending.worker import Worker
from migrator.state.connection import MovedMeanwhile
from migrator.state.migrations import CaptureOff
from tests.deployment import V3, V4, Deployment, embed, literal, until
from tests.integration.bystanders import bystander, holding
from tests.integration.steps import begin, first_tickets, ready, start, to
from tests.integration.swaps import cut_over, quiet, resume, roll_back, unblock

S = MigrationStatus
TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'docs'::regclass AND tgname LIKE '%%migrator'"
OFF = "SELECT capture_off_at IS NOT NULL FROM migrator.migrations"
#: Taking a vector back takes a while.
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
CREATE TRIGGER a_slow BEFORE UPDATE ON docs FOR EACH ROW
  WHEN (OLD.embedding__migrator IS NOT NULL AND NEW.embedding__migrator IS NULL) EXECUTE FUNCTION slow();
ALTER TABLE docs ENABLE ALWAYS TRIGGER a_slow;
"""
DIRTY = "SELECT count(*) FROM migrator.dirty"


async def until_searchable(deployment: Deployment, worker: Worker) -> None:
    """Work until no row lacks the live generation's vector; what a rollback owes stays."""

    async def whole() -> bool:
        for ticket in await first_tickets(worker):
            await perform(worker, ticket)
        return bool(deployment.value(f"{DIRTY} WHERE side = 'to'") == 0)

    await until(whole)


async def until_live_is_whole(deployment: Deployment, worker: Worker) -> None:
    async def whole() -> bool:
        for ticket in await first_tickets(worker):
            await perform(worker, ticket)
        return bool(deployment.value(DIRTY) == 0)

    await until(whole)


def write_unseen(deployment: Deployment) -> None:
    """One of each: an edit, a text taken away, a new row, another key, a row gone, an old writer's vector."""
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'unseen edit' WHERE id = 2")
        connection.execute("UPDATE docs SET title = NULL, body = NULL WHERE id = 3")
        connection.execute("INSERT INTO docs (title, body) VALUES ('new', 'unseen row')")
        connection.execute("UPDATE docs SET id = 1000 WHERE id = 4")
        connection.execute("DELETE FROM docs WHERE id = 5")
        vector = literal(embed(V3, "t\nof the old writer"))
        connection.execute(
            "UPDATE docs SET title = 't', body = 'of the old writer', embedding = %s WHERE id = 6", [vector]
        )


async def test_h30_a_trigger_that_fails_is_out_of_the_way_at_once(deployment: Deployment, worker: Worker) -> None:
    """Also while a long reader holds the table, which no DROP TRIGGER would get past."""
    await ready(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("""
            CREATE OR REPLACE FUNCTION migrator.on_update_1() RETURNS trigger LANGUAGE plpgsql AS
              $$ BEGIN RAISE EXCEPTION 'a defect of ours'; END $$""")
        with pytest.raises(psycopg.errors.RaiseException, match="a defect of ours"):
            connection.execute("UPDATE docs SET body = 'x' WHERE id = 1")
        with holding(deployment.url, "SELECT count(*) FROM docs", 2):
            going = asyncio.create_task(unblock(worker))
            await until(lambda: asyncio.to_thread(deployment.value, OFF))
            assert len(deployment.query(TRIGGERS)) == 3, "they are still there, and do nothing"
            connection.execute("UPDATE docs SET body = 'x' WHERE id = 1")
            await going
    assert deployment.query(TRIGGERS) == []
    assert deployment.value(DIRTY) == 0
    assert deployment.status == "paused"
    await unblock(worker)  # a second time there is nothing to do
    assert await resume(worker) == "backfilling"
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'y' WHERE id = 2")
    assert deployment.value(f"{DIRTY} WHERE key = '{{2}}'") == 1, "and it is ours again, not the broken one"


async def test_h30_what_was_written_before_the_cutover_is_proved_again(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 30)
    await unblock(worker)
    write_unseen(deployment)
    refused = deployment.run("cutover", "docs", "--yes", "--readers-ready")
    assert refused.returncode == 2
    before = deployment.billed()
    assert await resume(worker) == "backfilling"
    assert deployment.query("SELECT id FROM docs WHERE embedding__migrator IS NULL AND id <> 3 ORDER BY id") == [
        (2,), (6,), (31,), (1000,)
    ]  # fmt: skip
    await to(worker, S.READY)
    await until_live_is_whole(deployment, worker)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.value("SELECT embedding__migrator IS NULL FROM docs WHERE id = 3")
    assert deployment.billed() > before
    await cut_over(worker)
    assert deployment.mismatches("embedding", V4) == []


async def test_h30_before_the_cutover_the_searched_column_is_looked_at(deployment: Deployment, worker: Worker) -> None:
    """No fence kept a writer of the new generation out of the old column: the watch finds what it left."""
    await ready(deployment, worker, 40)
    await unblock(worker)
    deployment.half_moved(range(1, 4))
    await resume(worker)
    noted = deployment.query("SELECT side, key FROM migrator.written ORDER BY key")
    assert noted == [("from", [str(key)]) for key in (1, 2, 3)]


async def test_p1_h30_no_vector_of_the_old_writer_is_searched_after_resume(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 30)
    await cut_over(worker)
    told = deployment.must("unblock", "docs", "--yes")
    assert f"a writer of {V3}@64 that is still there" in told
    write_unseen(deployment)
    assert 6 in deployment.mismatches("embedding", V4), "nobody kept it out"
    with pytest.raises(CaptureOff, match="seen by nobody"):
        await roll_back(worker)
    assert deployment.must("resume", "docs").count("completed") == 1
    await until_searchable(deployment, worker)
    assert deployment.mismatches("embedding", V4) == []
    swapped = await roll_back(worker)
    assert swapped.absent_rows == 0
    assert deployment.mismatches("embedding", V3) == []


async def test_h30_a_resume_that_is_killed_is_done_again(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 20)
    await unblock(worker)
    write_unseen(deployment)
    with deployment.connect() as connection:
        connection.execute(SLOW)
    killed = deployment.spawn(sys.executable, "-m", "migrator", "resume", "docs", log="resume.log")
    deployment.wait(lambda: deployment.query(TRIGGERS), seconds=30)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert deployment.value(OFF)
    assert deployment.mismatches("embedding__migrator", V4) != []
    assert deployment.run("validate", "docs").returncode == 2
    with deployment.connect() as connection:
        connection.execute("DROP TRIGGER a_slow ON docs")
    deployment.wait(lambda: deployment.run("resume", "docs").returncode == 0, seconds=30)
    await to(worker, S.READY)
    await until_live_is_whole(deployment, worker)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_h30_unblock_wins_over_a_resume_that_is_under_way(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The triggers hurt again while their rows are taken back: `resume` must not say afterwards that all is well."""
    await ready(deployment, worker, 10)
    await unblock(worker)
    write_unseen(deployment)
    take_back = recapture.take_back

    async def and_again(*words: Any) -> int:
        rows = await take_back(*words)
        await unblock(worker)
        return rows

    monkeypatch.setattr(recapture, "take_back", and_again)
    with pytest.raises(CaptureOff):
        await resume(worker)
    assert deployment.value(OFF)
    assert deployment.status == "paused"
    assert deployment.query(TRIGGERS) == []
    monkeypatch.setattr(recapture, "take_back", take_back)
    assert await resume(worker) == "backfilling"
    assert len(deployment.query(TRIGGERS)) == 3


async def test_h30_a_drop_that_was_overtaken_leaves_the_new_triggers(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    silenced = await capture_off.silence(worker.engine, "docs", actor="test")
    await resume(worker)
    with pytest.raises(MovedMeanwhile):
        await capture_off.drop(worker.engine, silenced, on_wait=quiet)
    assert len(deployment.query(TRIGGERS)) == 3


async def test_h30_rows_are_taken_back_under_an_application_that_goes_on(
    deployment: Deployment, worker: Worker
) -> None:
    """It touches every row all the time, moves them, and changes their keys: each of them is seen, none for ever."""
    await ready(deployment, worker, 60)
    await cut_over(worker)
    await unblock(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'unseen ' || id")
    touch = ["UPDATE docs SET n = n + 1 WHERE id % 3 = 0", "UPDATE docs SET id = id + 10000 WHERE id BETWEEN 50 AND 55"]
    with bystander(deployment.url, touch) as seen:
        assert await resume(worker) == "completed"
    assert [error for _, error in seen if error] == []
    await until_searchable(deployment, worker)
    assert deployment.mismatches("embedding", V4) == []
    await roll_back(worker)
    assert deployment.mismatches("embedding", V3) == []


async def test_p6_h30_a_row_that_had_no_text_and_got_one_is_embedded(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(10)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET title = NULL, body = NULL WHERE id = 7")
    await start(deployment, worker)
    await to(worker, S.READY)
    assert deployment.query("SELECT key FROM migrator.dispositions") == [(["7"],)]
    await unblock(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'a text' WHERE id = 7")
    await resume(worker)
    await to(worker, S.READY)
    await until_live_is_whole(deployment, worker)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.query("SELECT key FROM migrator.dispositions") == []


async def test_p1_h30_after_a_rollback_writers_of_the_new_generation_are_taken_back_too(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 20)
    await cut_over(worker)
    await roll_back(worker)
    await unblock(worker)
    assert deployment.status == "rolled_back"
    deployment.half_moved(range(1, 4))
    with pytest.raises(CaptureOff):
        await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="test", tell=quiet)
    assert await resume(worker) == "backfilling"
    await to(worker, S.READY)
    await until_live_is_whole(deployment, worker)
    assert deployment.mismatches("embedding", V3) == []
    assert deployment.mismatches("embedding__migrator", V4) == []


async def out_of_scope(deployment: Deployment, worker: Worker) -> None:
    """Cut over; rows 1 and 2 are none of ours."""
    deployment.spec_data["target"]["where"] = "id > 2"
    await begin(deployment, worker, 100)
    await to(worker, S.READY)
    await cut_over(worker)


async def test_h30_p10_an_old_vector_that_nobody_would_embed_again_is_kept(
    deployment: Deployment, worker: Worker
) -> None:
    """After a rollback it is searched, and its row is none of ours: no hint would ever bring it back."""
    await out_of_scope(deployment, worker)
    await roll_back(worker)
    await unblock(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET n = n + 1 WHERE id < 5")
    await resume(worker)
    assert deployment.query("SELECT id FROM docs WHERE embedding IS NULL ORDER BY id") == [(3,), (4,)]
    assert deployment.query("SELECT DISTINCT key[1] FROM migrator.dirty ORDER BY 1") == [("3",), ("4",)]


async def test_h30_p10_before_a_rollback_it_is_kept_for_it(deployment: Deployment, worker: Worker) -> None:
    await out_of_scope(deployment, worker)
    await unblock(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET n = n + 1 WHERE id < 5")
    await resume(worker)
    await until_searchable(deployment, worker)
    await roll_back(worker)
    assert deployment.mismatches("embedding", V3) == []


async def test_p1_h30_what_is_kept_of_a_row_out_of_scope_is_looked_at(deployment: Deployment, worker: Worker) -> None:
    """A writer of the new generation, unseen, among the old vectors that are searched again: it is told."""
    await out_of_scope(deployment, worker)
    await roll_back(worker)
    await unblock(worker)
    deployment.half_moved([1, 2])
    await resume(worker)
    assert deployment.query("SELECT side, key FROM migrator.written ORDER BY key") == [("from", ["1"]), ("from", ["2"])]


async def test_h30_triggers_that_would_break_the_writes_again_stay_off(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    await unblock(worker)
    with deployment.connect() as connection:
        connection.execute("""
            CREATE FUNCTION meets_ours() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
              IF EXISTS (SELECT FROM pg_trigger WHERE tgname = 'zzzz_capture__migrator') THEN
                RAISE EXCEPTION 'no';
              END IF;
              RETURN NEW; END $$;
            CREATE TRIGGER a_user BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION meets_ours()""")
    with pytest.raises(TriggersWouldFail, match=r"every UPDATE fails in meets_ours\(\)"):
        await resume(worker)
    assert deployment.query(TRIGGERS) == []
    assert deployment.status == "paused"


async def test_unblock_says_what_it_means_and_waits_for_a_yes(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    foretold = json.loads(deployment.must("unblock", "docs", "--dry-run", "--json"))
    assert "measured again" in foretold["consequences"][1]
    declined: subprocess.CompletedProcess[str] = deployment.run("unblock", "docs")
    assert declined.returncode == 2
    assert len(deployment.query(TRIGGERS)) == 3
    done = json.loads(deployment.run("unblock", "docs", "--yes", "--json").stdout)
    assert done["status"] == "paused"
    assert "capture" in deployment.must("status", "docs")
    deployment.must("cancel", "docs", "--yes")
    deployment.must("cleanup", "docs", "--yes")
    assert deployment.status == "cleaned"
