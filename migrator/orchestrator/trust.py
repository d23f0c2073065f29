"""What an operator says after the canary moved: take back what is suspect and pay again, or accept what answers now.

Floor 3. Promise: a migration whose canary moved goes on only after one of both was said, or where nothing was written
since it was right last; and whatever was said, the canary is asked again before anything else is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.canary import suspects, watch
from migrator.canary.suspects import SuspectsLive, SuspectVectors
from migrator.errors import StatusConflict
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.planning import calibration
from migrator.spending.worker import Worker
from migrator.state import budget, canary, migrations, tallies
from migrator.state.canary import Canary
from migrator.state.connection import LockBusy, transaction
from migrator.state.migrations import Migration

S = MigrationStatus
#: Seconds for which batches that were in hand at the pause may take to end: longer than any request.
_FINISH_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is suspect, and what paying for it again would take."""

    rows: int
    tokens: int
    usd: float
    since: str


async def refuse_moved(connection: AsyncConnection, migration: Migration) -> None:
    """Make sure that the canary did not move, before a step that trusts what was written.

    Raises: CanaryMoved.
    """
    found = await canary.find(connection, migration.id)
    if found is not None:
        found.refuse_moved(migration.name)


async def refuse_suspects(engine: AsyncEngine, migration: Migration) -> None:
    """Make sure that nothing was written since the canary was right last.

    Cost: one pass over the table, and only where the canary moved.
    Raises: SuspectVectors, SuspectsLive, RowsHeld.
    """
    found = await _moved(engine, migration)
    if found is None:
        return
    if migration.live_side is Side.TO:
        raise SuspectsLive(migration.name)
    seen = await _suspicion(engine, migration, found)
    if seen.rows:
        raise SuspectVectors(migration.name, seen.rows, seen.since, seen.tokens, seen.usd)


async def look(engine: AsyncEngine, name: str) -> Suspicion:
    """Return what `--reembed` would take back.

    Raises: MigrationUnknown, StatusConflict (nothing is suspect), SuspectsLive, RowsHeld.
    """
    migration = await _paused(engine, name, "resume --reembed")
    found = await _moved(engine, migration)
    if found is None:
        raise StatusConflict(
            name, "resume --reembed", "paused because its canary moved", "not suspect", f"migrator resume {name}"
        )
    if migration.live_side is Side.TO:
        raise SuspectsLive(name)
    return await _suspicion(engine, migration, found)


async def reembed(engine: AsyncEngine, name: str, *, actor: str) -> int:
    """Take back what is suspect and go on with the backfill; returns how many rows.

    Raises: as `look`.
    """
    migration = await _paused(engine, name, "resume --reembed")
    found = await _moved(engine, migration)
    rows = await suspects.forget(engine, migration, found.good_xid) if found is not None else 0
    async with transaction(engine) as connection:
        await canary.demand(connection, migration.id)
        reason = f"{rows} suspect vectors were taken back; their rows are embedded again"
        await migrations.note(connection, migration.id, migration.status, reason, actor)
        await migrations.move(connection, migration, S.BACKFILLING, actor=actor)
    return rows


async def accept(worker: Worker, name: str, *, reason: str, actor: str) -> Migration:
    """Take the canary's fingerprint anew, sign it with a reason, and go on.

    Cost: two requests of about a hundred tokens.
    Raises: MigrationUnknown, StatusConflict, OldModelAnswered, and what provider and purse raise.
    """
    migration = await _paused(worker.engine, name, "resume --accept-canary")
    await watch.renew(worker, migration)
    async with transaction(worker.engine) as connection:
        await migrations.note(connection, migration.id, migration.status, f"canary accepted: {reason}", actor)
        assert migration.paused_from is not None  # noqa: S101 - the table's own check
        await migrations.move(connection, migration, migration.paused_from, actor=actor)
        return await migrations.get(connection, name)


async def _paused(engine: AsyncEngine, name: str, verb: str) -> Migration:
    async with transaction(engine, read_only=True) as connection:
        migration = await migrations.get(connection, name)
    if migration.status is not S.PAUSED:
        raise StatusConflict(name, verb, S.PAUSED, migration.status, f"migrator status {name}")
    migration.refuse_unseen()
    return migration


async def _moved(engine: AsyncEngine, migration: Migration) -> Canary | None:
    """Return the canary if it moved, once nothing is in hand any more: what was in flight may land until then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _FINISH_SECONDS
    while True:
        async with transaction(engine) as connection:
            found = await canary.find(connection, migration.id)
            if found is None or found.moved_at is None:
                return None
            if (await tallies.counts(connection, migration.id)).leased == 0:
                return found
        if loop.time() > until:
            raise LockBusy("batches of this migration are still in hand")
        await asyncio.sleep(0.2)


async def _suspicion(engine: AsyncEngine, migration: Migration, found: Canary) -> Suspicion:
    rows = await suspects.count(engine, migration, found.good_xid)
    tokens = int(rows * calibration.tokens_per_row(migration.plan, Side.TO))
    price = migration.spec.model_of(Side.TO).price_usd_per_mtok[1]
    since = f"{found.good_at:%Y-%m-%d %H:%M:%S %Z}"
    return Suspicion(rows, tokens, float(budget.price(tokens, price).usd), since)
