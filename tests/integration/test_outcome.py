"""P9 for `unblock`, the resume behind it and the last of `cleanup`: done as a whole or not at all, and truly told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql as psql

from migrator.cutover import capture_off, not_null, recapture
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended
from migrator.spending.worker import Worker
from migrator.state.connection import DatabaseUnreachable, MovedMeanwhile
from migrator.state.migrations import Migration
from migrator.target import message
from migrator.target.outcome import Undone
from tests.deployment import V4, Deployment
from tests.integration.killing import DIE, cut_over_by_a_way_that_breaks, sweep
from tests.integration.steps import ready, start, stored, to
from tests.integration.swaps import cut_over, quiet, resume, unblock
from tests.pgbouncer import pooler

pytestmark = pytest.mark.timeout(240)
S = MigrationStatus
ROWS = 12
TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'docs'::regclass AND tgname LIKE '%%migrator'"
COMMIT = psql.SQL("COMMIT")
STRICT = "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname = 'embedding'"
#: server_version_num of a server where NOT NULL can't be NOT VALID.
BEFORE_18 = 170000


async def silence(worker: Worker) -> Migration:
    return await capture_off.silence(worker.engine, "docs", actor="test")


async def dropping(worker: Worker, migration: Migration) -> list[psql.Composable]:
    prepared = await capture_off.prepare(worker.engine, migration)
    assert prepared is not None
    return prepared[1]


async def clean_up(worker: Worker) -> None:
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="test", tell=quiet)


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the session die so many statements before the end of each message that commits: 1 is before COMMIT."""
    original = message.whole

    def die(before_the_end: int) -> None:
        def whole(each: list[psql.Composable]) -> psql.Composed:
            if each[-1] != COMMIT:
                return original(each)
            at = len(each) - before_the_end
            return original([*each[:at], DIE, *each[at:]])

        monkeypatch.setattr(message, "whole", whole)

    return die


# Killed before each statement, and behind the last


async def test_p9_unblock_and_the_resume_behind_it_killed_at_every_statement(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    changed = {"pg_trigger", "migrator.migrations"}
    sweep(deployment, await dropping(worker, await silence(worker)), changed)
    assert deployment.query(TRIGGERS) == []
    _, framed = await recapture.prepare(worker.engine, await stored(worker))
    sweep(deployment, framed, {*changed, "pg_proc"})
    assert len(deployment.query(TRIGGERS)) == 3
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'unseen' WHERE id = 2")
    await resume(worker)
    assert deployment.status == "completed"


@pytest.fixture
async def nearly_strict(deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Migration:
    """Cleaned up as on PostgreSQL 17, but for the last transaction, in which the column becomes NOT NULL again."""
    monkeypatch.setattr(not_null, "_NAMED_SINCE", 10**9)
    deployment.make_table(ROWS)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ALTER embedding SET NOT NULL")
    await start(deployment, worker)
    await to(worker, S.READY)
    await cut_over(worker)

    async def later(*_: object, **__: object) -> None:
        """Nothing yet."""

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(not_null, "finish", later)
        await clean_up(worker)
    return await stored(worker)


async def test_p9_not_null_before_18_killed_at_every_statement(
    deployment: Deployment, worker: Worker, nearly_strict: Migration
) -> None:
    """What an older server is sent, sent to this one: each of its statements is known here, too."""
    with deployment.connect() as connection:
        name = psql.Identifier(nearly_strict.not_null or "")
        connection.execute(psql.SQL("ALTER TABLE docs VALIDATE CONSTRAINT {}").format(name))
    changed = {"pg_attribute", "pg_constraint", "migrator.migrations"}
    sweep(deployment, not_null.put_back(nearly_strict, BEFORE_18), changed)
    assert deployment.value(STRICT)
    await clean_up(worker)
    assert (await stored(worker)).not_null is None


async def test_p9_the_last_of_a_cleanup_that_died_says_what_became_of_it(
    deployment: Deployment, worker: Worker, nearly_strict: Migration, dying: Callable[[int], None]
) -> None:
    dying(1)
    with pytest.raises(Undone, match="What was dropped of docs before stays dropped"):
        await not_null.finish(worker.engine, nearly_strict, on_wait=quiet)
    assert not deployment.value(STRICT)
    dying(0)
    await not_null.finish(worker.engine, nearly_strict, on_wait=quiet)
    assert deployment.value(STRICT)
    assert (await stored(worker)).not_null is None


# What is said of it


async def test_p9_an_unblock_that_died_says_what_became_of_it(
    deployment: Deployment, worker: Worker, dying: Callable[[int], None]
) -> None:
    await ready(deployment, worker, ROWS)
    dying(1)
    with pytest.raises(Undone, match="its last transaction was rolled back") as caught:
        await unblock(worker)
    assert "are still on the table of docs and do nothing: it was looked up" in str(caught.value)
    assert "Run `migrator unblock docs` again." in str(caught.value)
    assert len(deployment.query(TRIGGERS)) == 3
    dying(0)
    await unblock(worker)
    assert deployment.query(TRIGGERS) == []
    dying(1)
    with pytest.raises(Undone, match="Capture of docs stays off, as it was"):
        await resume(worker)
    assert deployment.query(TRIGGERS) == []
    dying(0)
    await resume(worker)
    assert len(deployment.query(TRIGGERS)) == 3
    assert deployment.status == "backfilling"


async def test_p9_a_turn_that_was_anothers_is_not_taken_for_ones_own(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resume's session dies before COMMIT while somebody takes the capture off once more: it is not on."""
    await ready(deployment, worker, ROWS)
    await unblock(worker)
    prepare = recapture.prepare

    async def and_again(*words: Any) -> tuple[int, list[psql.Composable]]:
        made = await prepare(*words)
        await silence(worker)
        return made

    monkeypatch.setattr(recapture, "prepare", and_again)
    with pytest.raises(MovedMeanwhile):
        await resume(worker)
    # Lost for good, so that only the database's word is left.
    monkeypatch.setattr(recapture, "prepare", prepare)

    async def overtaken(*words: Any) -> tuple[int, list[psql.Composable]]:
        oid, framed = await prepare(*words)
        await silence(worker)
        return oid, [DIE, *framed]

    monkeypatch.setattr(recapture, "prepare", overtaken)
    with pytest.raises(MovedMeanwhile):
        await resume(worker)
    assert deployment.query(TRIGGERS) == []
    assert deployment.value("SELECT capture_off_at IS NOT NULL FROM migrator.migrations")


async def test_p9_what_the_server_itself_could_not_do_is_no_lost_connection(
    deployment: Deployment, worker: Worker
) -> None:
    """A full disk is told over a connection that lives on: nothing has to be asked, and nobody to be ended."""
    await ready(deployment, worker, ROWS)
    with deployment.connect() as connection:
        connection.execute("""
            CREATE FUNCTION full_disk() RETURNS event_trigger LANGUAGE plpgsql AS
              $$ BEGIN RAISE 'No space left on device' USING ERRCODE = 'disk_full'; END $$;
            CREATE EVENT TRIGGER full_disk ON ddl_command_end EXECUTE FUNCTION full_disk()""")
        with pytest.raises(DatabaseUnreachable, match="No space left on device"):
            await cut_over(worker)
        assert deployment.status == "ready"
        connection.execute("DROP EVENT TRIGGER full_disk")
    await cut_over(worker)
    assert deployment.mismatches("embedding", V4) == []


@pytest.mark.system
async def test_p9_behind_a_pooler_the_server_that_goes_on_is_waited_for(
    deployment: Deployment, worker: Worker, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pid that a client is told there is the pooler's: no session has it, and ours is still at it."""
    await ready(deployment, worker, ROWS)
    with pooler(deployment.url, scratch) as pooled:
        swapped = await cut_over_by_a_way_that_breaks(deployment, pooled, monkeypatch)
    assert swapped.timing.lost
    assert deployment.status == "completed"
    assert deployment.mismatches("embedding", V4) == []
