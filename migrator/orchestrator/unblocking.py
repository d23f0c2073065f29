"""`unblock`, and the way back from it.

Floor 3. Promise (H30): one command takes everything of ours out of the way of the application's writes, whatever else
is going on, and says what nobody sees from then on. Nothing goes on before `resume` has put the capture on again, and
has had everything proved that was written meanwhile.
"""

from __future__ import annotations

from dataclasses import replace

from migrator.cutover import capture_off, recapture
from migrator.errors import StatusConflict
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs
from migrator.orchestrator.attendance import Tell, attending, on_wait
from migrator.spending.worker import Worker
from migrator.state import capture_turns, looks, migrations, verdicts
from migrator.state.connection import transaction
from migrator.state.migrations import Migration

S = MigrationStatus


async def is_off(worker: Worker, name: str) -> bool:
    """Say whether a migration's capture is off.

    Raises: MigrationUnknown.
    """
    async with transaction(worker.engine, read_only=True) as connection:
        return (await migrations.get(connection, name)).capture_off_at is not None


async def unblock(worker: Worker, name: str, *, actor: str, tell: Tell) -> Migration:
    """Take our triggers out of the way of the application's writes; returns the migration, at rest.

    Raises: MigrationUnknown, StatusConflict, LockNotObtained (the triggers are there and do nothing).
    """
    found = await capture_off.silence(worker.engine, name, actor=actor)
    tell("the triggers do nothing any more; dropping them")
    await capture_off.drop(worker.engine, found, on_wait=on_wait(tell))
    return found


async def resume(worker: Worker, name: str, *, actor: str, tell: Tell) -> Migration:
    """Put the capture on again, take back what was written meanwhile, and go on.

    Before the cutover that is the backfill: the proof, and every gate, are due again. What was cancelled stays so: it
    can be cleaned up then.

    Raises: StatusConflict, Attended, LockNotObtained, TriggersWouldFail, RowsHeld, SuspectVectors, SuspectsLive.
    """
    async with transaction(worker.engine) as connection:
        migration = await migrations.get(connection, name)
    if migration.status not in {S.PAUSED, S.ROLLED_BACK, S.CANCELLED}:
        raise StatusConflict(name, "resume", "paused or rolled_back", migration.status, f"migrator status {name}")
    async with attending(worker, migration, "resume"):
        async with transaction(worker.engine) as connection:
            migration = await migrations.get(connection, name)
        if migration.capture_off_at is not None:
            await _capture_again(worker, migration, actor, tell)
    if migration.status is S.CANCELLED:
        async with transaction(worker.engine, read_only=True) as connection:
            return await migrations.get(connection, name)
    return await verbs.resume(worker.engine, name, actor=actor)


async def _capture_again(worker: Worker, migration: Migration, actor: str, tell: Tell) -> None:
    await recapture.install(worker.engine, migration, on_wait=on_wait(tell))
    migration = replace(migration, capture_turn=migration.capture_turn + 1)  # what `install` left
    tell("the triggers are there again; taking back what was written without them")
    rows = await recapture.take_back(worker.engine, migration)
    tell(f"{rows:,} rows were written without them; those in scope are embedded again")
    async with transaction(worker.engine) as connection:
        await recapture.finished(connection, migration)
        await verdicts.retire(connection, migration.id)
        await looks.forget(connection, migration.id)
        if migration.live_side is Side.FROM:
            await capture_turns.begin_again(connection, migration)
        reason = f"capture is on again: of {rows} rows written without it, those in scope are embedded again"
        await migrations.note(connection, migration.id, migration.status, reason, actor)
