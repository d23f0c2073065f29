"""Written vectors: what the application brought itself, looked at by the sentinel after it was written (H3).

Floor 2. Promise: a session's declaration is not its vector's origin, so every vector that was diverted, or that a
session with a declaration wrote, is looked at once, in handfuls, from where the last one stopped; what looks like the
other generation's is listed with who wrote it, and no more than that is done to it before somebody says so. Nothing of
a row leaves the database but its key and its vector.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.events import Event
from migrator.generation import Side
from migrator.spending.worker import Worker
from migrator.state import dirty, discriminants, leases, migrations, outbox
from migrator.state import written as notes
from migrator.state.connection import run, transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.written import Note
from migrator.statements import compose
from migrator.target import taking_back
from migrator.target.declaration import declare
from migrator.target.lanes import Lanes
from migrator.target.relation import Target
from migrator.validation import every_vector, sentinel
from migrator.validation.every_vector import Key

#: Vectors that are looked at in one transaction: some 2 MB and a few tens of milliseconds at 1,024 dimensions.
HANDFUL = 500
#: Seconds for which one holder looks before `tick` offers the rest anew.
SHIFT_SECONDS = 10.0
#: Keys that the history names, as a verdict does.
_TOLD_KEYS = 5


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look found: how many vectors were looked at, and how many of them are suspect."""

    vectors: int = 0
    suspects: int = 0


async def shift(worker: Worker, migration: Migration, lease: Lease) -> Looked:
    """Look at what was written until now, and once more at what was suspect, unless the shift is over before.

    Raises: LeaseLost.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + SHIFT_SECONDS
    await again(worker.engine, migration, limit=HANDFUL)
    vectors = suspects = 0
    while loop.time() < until:
        found = await once(worker.engine, migration, lease)
        if found is None:
            break
        vectors, suspects = vectors + found.vectors, suspects + found.suspects
        if found.vectors < HANDFUL:
            break  # the rest came meanwhile: writers may go on for ever, and the slot is others' too
    async with transaction(worker.engine) as connection:
        await leases.finish(connection, lease)
    return Looked(vectors, suspects)


async def once(engine: AsyncEngine, migration: Migration, lease: Lease | None = None) -> Looked | None:
    """Look at the oldest handful of notes, and forget them; None where there is none.

    While no rule is learnt nobody can say: the gate looks at the whole new column as soon as there is one, and what the
    old one holds is what readers had before.

    Raises: LeaseLost.
    """
    async with transaction(engine) as connection:
        # The columns keep their places until this is over (H4).
        await Lanes.of(migration, Side.TO).lock_table(connection)
        migration = await migrations.get_by_id(connection, migration.id)
        if lease is not None:
            await leases.hold(connection, lease)
        found = await notes.read(connection, migration.id, limit=HANDFUL)
        if not found:
            return None
        accused: list[Note] = []
        for side in sorted({each.side for each in found}):
            accused += await _judged(connection, migration, side, [each for each in found if each.side is side])
        await notes.settle(connection, found)
    return Looked(len(found), len(accused))


async def _judged(connection: AsyncConnection, migration: Migration, side: Side, found: list[Note]) -> list[Note]:
    """List those that are suspect, and take off the list what was written anew; returns the former."""
    latest = {each.key: each for each in found}
    bad = await sentinel.suspects(connection, migration, list(latest), side)
    if bad is None:
        return []
    known = {who for at, who, _ in await notes.writers(connection, migration.id) if at is side}
    accused = [latest[key] for key in bad]
    await notes.clear(connection, migration.id, side, sorted(latest.keys() - set(bad)))
    await notes.suspect(connection, migration.id, accused)
    strangers = {who: each for each in accused if (who := f"{each.application} (role {each.role})") not in known}
    for who in sorted(strangers):
        # Once for each writer: one that is never mended would fill the history.
        keys = [each.key for each in accused if f"{each.application} (role {each.role})" == who]
        shown = "; ".join(", ".join(key) for key in keys[:_TOLD_KEYS])
        told = (
            f"sentinel: {who} wrote {len(keys):,} vectors into the column of {migration.generation(side)} that look"
            f" like {migration.generation(side.other)}; keys: {shown}{' ...' if len(keys) > _TOLD_KEYS else ''}"
        )
        await migrations.note(connection, migration.id, migration.status, told, "sentinel")
    if strangers:
        first, others = min(strangers), " and others" if len(strangers) > 1 else ""
        told = (
            f"{len(accused):,} vectors in the column of {migration.generation(side)} look like"
            f" {migration.generation(side.other)}, written by {first}{others}"
        )
        hooks = migration.spec.hooks
        await outbox.write(connection, migration.id, hooks, Event.SUSPECTS, status=migration.status, reason=told)
    return accused


async def again(engine: AsyncEngine, migration: Migration, *, limit: int, side: Side | None = None) -> int:
    """Look once more at suspects, oldest look first; returns how many of them still are."""
    left = 0
    async with transaction(engine) as connection:
        await Lanes.of(migration, Side.TO).lock_table(connection)
        migration = await migrations.get_by_id(connection, migration.id)
        listed = await notes.listed(connection, migration.id, side, limit=limit)
        for each in sorted({Side(row["side"]) for row in listed}):
            keys = sorted(tuple(row["key"]) for row in listed if row["side"] == each.value)
            bad = await sentinel.suspects(connection, migration, keys, each)
            still = set(keys if bad is None else bad)
            await notes.clear(connection, migration.id, each, [key for key in keys if key not in still])
            await notes.touch(connection, migration.id, each, sorted(still))
            left += len(still)
    return left


async def catch_up(engine: AsyncEngine, migration: Migration, side: Side) -> list[tuple[Side, str, int]]:
    """Look at everything that was written to a column until now; returns who wrote what is suspect in it."""
    async with transaction(engine, read_only=True) as connection:
        last = await notes.newest_id(connection, migration.id, side)
    while True:
        async with transaction(engine, read_only=True) as connection:
            behind = await notes.any_up_to(connection, migration.id, side, last)
        if not behind or await once(engine, migration) is None:
            break
    async with transaction(engine, read_only=True) as connection:
        suspects = sum(rows for _, _, rows in await notes.writers(connection, migration.id, side))
    # Oldest look first, so as many looks of a handful as there are handfuls reach every one of them.
    for _ in range(0, suspects, HANDFUL):
        await again(engine, migration, limit=HANDFUL, side=side)
    async with transaction(engine, read_only=True) as connection:
        return await notes.writers(connection, migration.id, side)


async def take_back(engine: AsyncEngine, migration: Migration, side: Side) -> int:
    """Take back the suspects of one column, and mark their rows for catch-up; returns how many.

    Locks: a handful of rows at a time, for milliseconds.
    Raises: RowsHeld.
    """

    async def left() -> int:
        async with transaction(engine, read_only=True) as connection:
            return sum(rows for _, _, rows in await notes.writers(connection, migration.id, side))

    async def take() -> int:
        return sum([await _handful(engine, migration, side) for _ in range(0, await left(), HANDFUL)])

    return await taking_back.rounds(take, left, name=migration.name)


async def _handful(engine: AsyncEngine, migration: Migration, side: Side) -> int:
    async with transaction(engine) as connection:
        await Lanes.of(migration, side).lock_table(connection)
        migration = await migrations.get_by_id(connection, migration.id)
        await declare(connection, migration, side)
        listed = await notes.listed(connection, migration.id, side, limit=HANDFUL)
        keys = sorted(tuple(row["key"]) for row in listed)
        there, _ = await every_vector.of_keys(connection, migration, keys, side)
        taken, vectors = await every_vector.of_keys(connection, migration, keys, side, taking=True)
        rule = await discriminants.read(connection, migration.id)
        accused = sentinel.accuses(rule, side, vectors) if rule is not None else None
        bad = taken if accused is None else [key for key, wrong in zip(taken, accused, strict=True) if wrong]
        held = set(there) - set(taken)
        await _null(connection, migration, side, bad)
        await dirty.mark(connection, migration.id, side, bad)
        await notes.clear(connection, migration.id, side, [key for key in keys if key not in held])
        await notes.touch(connection, migration.id, side, sorted(held))
    return len(bad)


async def _null(connection: AsyncConnection, migration: Migration, side: Side, keys: list[Key]) -> None:
    if keys:
        names = every_vector.parts_of(migration, side)
        statement = compose("validation/every_vector.sql", "forget", names)
        await run(connection, statement, Target.of(migration).key_values(keys))
