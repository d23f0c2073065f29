"""Who stands in the way of a step's lock, and what is cancelled of it where the operator said so.

Floor 3. Promise (P8, P11): each statement that is cancelled is told at the terminal and written down with the step, by
whom it was and its fingerprint, never its text; each that is not is told with the reason, once.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.cutover import readiness, swapping
from migrator.cutover.swapping import Direction
from migrator.orchestrator.attendance import Tell
from migrator.spending.worker import Worker
from migrator.state import migrations
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.target import cancelling, facts, message
from migrator.target.cancelling import Outcome
from migrator.target.message import Blocker, Cancel


def canceller(
    engine: AsyncEngine, migration: Migration, verb: str, actor: str, tell: Tell, *, asked: bool
) -> Cancel | None:
    """Return what cancels blockers behind a try of `verb` that failed, tells of each and writes it down, if asked."""
    if not asked:
        return None
    left_alone: set[tuple[int, str | None]] = set()

    async def cancel(held: list[Blocker]) -> int:
        done = 0
        for each in await cancelling.cancel(engine, held):
            if each.cancelled:
                done += 1
                text = f"cancelled what {each.blocker} ran"
                tell(text)
                async with transaction(engine) as connection:
                    now = await migrations.get_by_id(connection, migration.id)
                    await migrations.note(connection, migration.id, now.status, f"{verb} {text}", actor)
            elif (each.blocker.pid, each.why_not) not in left_alone:
                left_alone.add((each.blocker.pid, each.why_not))
                tell(f"not cancelled: {each.blocker}: {each.why_not}")
        return done

    return cancel


async def in_the_way(worker: Worker, name: str, direction: Direction | None) -> list[Outcome]:
    """Return whom a swap (or cleanup, without a direction) would cancel if it tried the lock now, and whom not.

    Raises: MigrationUnknown, NotSwappable.
    """
    async with transaction(worker.engine, read_only=True) as connection:
        migration = await migrations.get(connection, name)
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
    if relation is None:
        return []
    if direction is not None:
        looked = await readiness.look(worker.engine, migration, verb=direction.verb)
        return cancelling.foreseen(await swapping.holders(worker.engine, looked))
    async with transaction(worker.engine, read_only=True) as connection:
        return cancelling.foreseen(await message.find_blockers(connection, [relation.oid]))
