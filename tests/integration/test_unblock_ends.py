"""H30 where a migration ends: `unblock` of what was cancelled, rolled back or is being cleaned up leads somewhere."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from migrator.cutover import cleaning, not_null, recapture, swapping
from migrator.cutover.cleaning import Left
from migrator.cutover.not_null import NotNullUnproved, RowsWithoutVector
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attendance, attended, unblocking, verbs
from migrator.spending.worker import Worker
from migrator.state import migrations
from migrator.state.connection import LockBusy, MovedMeanwhile, run, transaction
from migrator.state.migrations import CaptureOff
from migrator.target import capture, message, readers
from migrator.target.capture import Capture
from migrator.target.message import LockNotObtained
from migrator.target.outcome import OutcomeUnknown
from migrator.target.taking_back import RowsHeld
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration.bystanders import ALLOWED_SECONDS, bystander, holding, worst
from tests.integration.steps import ready, start, stored, to
from tests.integration.swaps import cut_over, quiet, roll_back, swap, unblock

pytestmark = pytest.mark.timeout(120)
S = MigrationStatus
TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'docs'::regclass AND tgname LIKE '%%migrator'"
OFF = "SELECT capture_off_at IS NOT NULL FROM migrator.migrations"


async def clean_up(worker: Worker, *, left: Left = cleaning.NOTHING_LEFT) -> None:
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="test", tell=quiet, left=left)


async def cancelled_after_a_rollback(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 20)
    await cut_over(worker)
    await roll_back(worker)
    await verbs.resume(worker.engine, "docs", actor="test")
    deployment.must("cancel", "docs", "--yes")


async def test_h30_what_was_cancelled_and_unblocked_after_a_cutover_can_be_cleaned_up(
    deployment: Deployment, worker: Worker
) -> None:
    """`cleanup` refuses it, since a writer of the new generation may have written unseen: `resume` leads out."""
    await cancelled_after_a_rollback(deployment, worker)
    told = deployment.must("unblock", "docs", "--yes")
    assert f"a writer of qwen/{V4}@64 that is still there puts its vectors among those of {V3}@64" in told
    assert "it stays cancelled" in told
    assert "Next: `migrator resume docs`." in told
    deployment.half_moved(range(1, 4))
    refused = deployment.run("cleanup", "docs", "--yes", "--strays-gone")
    assert refused.returncode == 2
    assert "migrator resume docs" in refused.stderr
    told = deployment.must("resume", "docs")
    assert "docs stays cancelled" in told
    assert "migrator cleanup docs" in told
    assert (deployment.status, deployment.value(OFF)) == ("cancelled", False)
    assert len(deployment.query(TRIGGERS)) == 3
    deployment.must("cleanup", "docs", "--yes", "--strays-gone")
    assert deployment.status == "cleaned"
    assert deployment.mismatches("embedding", V3) == []


async def test_h30_rows_taken_back_of_what_was_cancelled_are_embedded_however_many(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaning up does a few handfuls under its lock's tries; the rest is done before, as for what was rolled back."""
    await cancelled_after_a_rollback(deployment, worker)
    await unblock(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET n = n + 1")
    await unblocking.resume(worker, "docs", actor="test", tell=quiet)
    # Ten handfuls of more than a tenth of a second each: as long as it gets on, it is not given up.
    monkeypatch.setattr("migrator.backfill.catch_up.HINTS", 2)
    monkeypatch.setattr(attendance, "PATIENCE_SECONDS", 1.0)
    deployment.simulator.admin(latency_seconds=0.2)
    await clean_up(worker)
    assert deployment.mismatches("embedding", V3) == []


async def test_h30_what_was_cancelled_before_a_cutover_is_cleaned_up_without_its_triggers(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    deployment.must("cancel", "docs", "--yes")
    told = deployment.must("unblock", "docs", "--yes")
    assert "needs no trigger" in told
    assert "Next: `migrator cleanup docs`." in told
    deployment.must("cleanup", "docs", "--yes")
    assert deployment.status == "cleaned"
    assert "capture" not in deployment.must("status", "docs")


async def test_p1_h30_before_a_cutover_a_known_writer_of_the_new_generation_bars_cleaning_up(
    deployment: Deployment, worker: Worker
) -> None:
    """Nobody kept it out of the searched column: `resume` has it looked at."""
    await ready(deployment, worker, 10)
    deployment.must("fence", "docs", "--role", "postgres", "--generation", f"qwen/{V4}@64", "--yes")
    deployment.must("cancel", "docs", "--yes")
    deployment.must("unblock", "docs", "--yes")
    refused = deployment.run("cleanup", "docs", "--yes", "--strays-gone")
    assert refused.returncode == 2
    assert "seen by nobody" in refused.stderr
    deployment.must("resume", "docs")
    deployment.must("cleanup", "docs", "--yes", "--strays-gone")
    assert deployment.status == "cleaned"


def test_p9_what_is_unknown_of_a_step_behind_others_is_found_out_by_the_verb_again() -> None:
    for verb in ("unblock", "resume", "cleanup"):
        assert f"Run `migrator {verb} docs` again" in str(OutcomeUnknown("docs", verb, "it does not answer"))
    assert "Run `migrator status docs`" in str(OutcomeUnknown("docs", "cutover", "it does not answer"))


async def test_h30_triggers_that_hurt_while_it_is_cleaned_up_are_taken_off(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaning up waits for the table, and until it has it the triggers fire."""
    await ready(deployment, worker, 10)
    await cut_over(worker)
    drop_the_rest = cleaning.drop_the_rest

    async def dies(*_: object, **__: object) -> None:
        raise LockBusy("killed")

    monkeypatch.setattr(cleaning, "drop_the_rest", dies)
    with pytest.raises(LockBusy):
        await clean_up(worker)
    monkeypatch.setattr(cleaning, "drop_the_rest", drop_the_rest)
    assert deployment.status == "cleaning"
    told = deployment.must("unblock", "docs", "--yes")
    assert "nobody looks at what is written from now on" in told
    assert "Next: `migrator cleanup docs`." in told
    assert deployment.query(TRIGGERS) == []
    await clean_up(worker)
    assert deployment.status == "cleaned"
    assert deployment.run("unblock", "docs", "--yes").returncode == 2, "there is nothing to be taken off"


async def test_h30_an_unblock_in_the_same_moment_as_the_end_of_cleanup(deployment: Deployment, worker: Worker) -> None:
    """Both are at our functions: the one waits for the other, and neither fails over it."""
    await ready(deployment, worker, 10)
    await cut_over(worker)
    silenced = asyncio.Event()

    async def silence() -> None:
        async with transaction(worker.engine) as connection:
            await run(connection, readers.functions_lock())
            for each in capture.blank(Capture.of(await migrations.hold(connection, "docs"))):
                await run(connection, each)
            silenced.set()
            await asyncio.sleep(0.6)

    async with transaction(worker.engine) as connection:
        await migrations.move(connection, await stored(worker), S.CLEANING, actor="test")
    silencing = asyncio.create_task(silence())
    await silenced.wait()
    with bystander(deployment.url, ["SELECT count(*) FROM docs"]) as seen:
        await cleaning.drop_the_rest(worker.engine, await stored(worker), actor="test", on_wait=quiet)
    await silencing
    assert deployment.status == "cleaned"
    assert worst(seen) <= ALLOWED_SECONDS


async def test_h30_an_unblock_while_cleanup_catches_up_is_not_overlooked(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked at before; but catching up, and looking for rows without a vector, take minutes."""
    await ready(deployment, worker, 10)
    await cut_over(worker)
    await roll_back(worker)

    async def meanwhile(*_: object, **__: object) -> None:
        await unblock(worker)

    monkeypatch.setattr(not_null, "refuse", meanwhile)
    with pytest.raises(CaptureOff):
        await clean_up(worker)
    assert deployment.status == "rolled_back"
    assert deployment.value("SELECT count(*) FROM pg_attribute WHERE attname = 'embedding__migrator'") > 0


async def test_h30_a_rollback_that_was_prepared_before_unblock_is_refused(
    deployment: Deployment, worker: Worker
) -> None:
    """Paused already, its status does not change: that the capture is off is all that tells."""
    await ready(deployment, worker, 10)
    await cut_over(worker)
    await verbs.pause(worker.engine, "docs", actor="test")
    paused, look = await stored(worker), swapping.readiness.look

    async def then_unblocked(*words: Any, **more: Any) -> Any:
        looked = await look(*words, **more)
        await unblock(worker)
        return looked

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(swapping.readiness, "look", then_unblocked)
        with pytest.raises(MovedMeanwhile):
            await swap(worker, swapping.ROLLBACK)
    now = await stored(worker)
    assert (now.status, now.epoch) == (paused.status, paused.epoch)


async def test_h30_unblock_comes_through_while_writers_hold_the_table(deployment: Deployment, worker: Worker) -> None:
    """Whom our triggers hurt writes: a lock that only readers let pass would be no way out."""
    await ready(deployment, worker, 10)
    with deployment.connect() as connection, holding(deployment.url, "UPDATE docs SET n = n + 1 WHERE id = 3", 1.5):
        silenced = await unblocking.capture_off.silence(worker.engine, "docs", actor="test")
        held = "SELECT count(*) FROM pg_locks WHERE relation = 'docs'::regclass AND mode = 'RowExclusiveLock'"
        assert connection.execute(held.encode()).fetchone() == (1,), "the writer is still at it"
        connection.execute("UPDATE docs SET body = 'x' WHERE id = 1")
        await unblocking.capture_off.drop(worker.engine, silenced, on_wait=quiet)
    assert deployment.query(TRIGGERS) == []
    assert deployment.value("SELECT count(*) FROM migrator.dirty") == 0


# What is owed, and a column that was NOT NULL


@pytest.fixture
async def owing(deployment: Deployment, worker: Worker) -> Deployment:
    """Cut over; the column was NOT NULL, and a row waits for its vector."""
    deployment.make_table(6)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ALTER embedding SET NOT NULL")
    await start(deployment, worker)
    await to(worker, S.READY)
    await cut_over(worker)
    with deployment.connect() as connection:
        vector = literal(embed(V3, "late\nrow"))
        connection.execute("INSERT INTO docs (title, body, embedding) VALUES ('late', 'row', %s)", [vector])
    return deployment


async def test_h23_rows_that_stay_owed_count_where_the_column_was_not_null(owing: Deployment, worker: Worker) -> None:
    """Nobody embeds them after `--leave-debt`: NOT NULL would not stand, and the column be gone when that is found."""
    with pytest.raises(RowsWithoutVector, match="1 of the rows of docs have no vector"):
        await clean_up(worker, left=Left(debt=True))
    assert owing.status == "completed"
    await clean_up(worker, left=Left(debt=True, nullable=True))
    assert owing.status == "cleaned"
    assert (await stored(worker)).not_null is None


async def test_h23_rows_that_are_awaited_are_embedded_and_keep_nobody(owing: Deployment, worker: Worker) -> None:
    await not_null.refuse(worker.engine, await stored(worker))
    await clean_up(worker)
    assert owing.mismatches("embedding", V4) == []


def test_p13_what_was_cleaned_up_with_not_null_unproved_is_no_refusal() -> None:
    """Exit 2 says that nothing was changed."""
    assert NotNullUnproved("docs", "embedding", 1).exit_code == 75


# What is said where the lock was not to be had


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("cutover", "The columns are as they were: docs stands where it stood"),
        ("unblock", "The triggers are still on the table of docs and do nothing"),
        ("resume", "Capture of docs stays off"),
        ("cleanup", "What was dropped of docs before stays dropped"),
    ],
)
def test_each_verb_says_what_stands_when_it_got_no_lock(verb: str, said: str) -> None:
    _, state, _ = LockNotObtained("docs", verb, 13, []).sentences()
    assert state.startswith(said)
    assert state.endswith(("and nobody was cancelled.", "; nobody was cancelled."))


async def test_unblock_that_gets_no_lock_tells_that_the_triggers_do_nothing(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(deployment, worker, 5)
    climb = message.climb

    async def short(*words: Any, **more: Any) -> Any:
        return await climb(*words, **{**more, "ladder": (0.1,)})

    monkeypatch.setattr(message, "climb", short)
    with holding(deployment.url, "SELECT count(*) FROM docs", 2), pytest.raises(LockNotObtained) as caught:
        await unblock(worker)
    assert "are still on the table of docs and do nothing" in str(caught.value)
    assert len(deployment.query(TRIGGERS)) == 3
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'x' WHERE id = 1")
    assert deployment.value("SELECT count(*) FROM migrator.dirty") == 0


def test_rows_that_are_held_are_said_to_be_absent_from_search() -> None:
    assert "absent from search" in str(RowsHeld("docs", 3, 2))


async def test_h30_rows_that_others_hold_are_told_with_what_it_means(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(deployment, worker, 10)
    await cut_over(worker)
    await unblock(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'unseen ' || id WHERE id <= 3")
    monkeypatch.setattr("migrator.target.taking_back._ROUNDS", 2)
    install = recapture.install
    with psycopg.connect(deployment.url) as other:

        async def and_hold(*words: Any, **more: Any) -> None:
            await install(*words, **more)
            other.execute("SELECT FROM docs WHERE id = 2 FOR UPDATE")

        monkeypatch.setattr(recapture, "install", and_hold)
        with pytest.raises(RowsHeld, match="1 of them") as caught:
            await unblocking.resume(worker, "docs", actor="test", tell=quiet)
    assert "2 vectors were taken back" in str(caught.value)
    assert deployment.value("SELECT count(*) FROM docs WHERE embedding IS NULL") == 2
    monkeypatch.setattr(recapture, "install", install)
    await unblocking.resume(worker, "docs", actor="test", tell=quiet)
