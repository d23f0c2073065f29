"""What every attended step stands on: the migration's lease, and catch-up done in somebody's terminal.

Floor 3. Promise: one attended step at a time per migration; whoever stood still for longer than the lease learns that
the right has ended. Rows that lack a vector are waited for while a worker embeds them, and embedded here otherwise.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from migrator.backfill import catch_up
from migrator.errors import MigratorError, OperatorError, TransientError
from migrator.generation import Side
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.spending.renewal import renewed
from migrator.spending.worker import Worker
from migrator.state import dirty, leases, migrations
from migrator.state.budget import Purpose
from migrator.state.connection import transaction
from migrator.state.leases import Duty, Lease, LeaseLost
from migrator.state.migrations import Migration
from migrator.target.message import Blocker
from migrator.target.swap import Bounds

S = MigrationStatus
Tell = Callable[[str], None]
#: Seconds without fewer rows than ever before, after which catch-up is said not to converge.
PATIENCE_SECONDS = 120.0


@dataclass(eq=False)
class Attended(OperatorError):
    """Somebody else is doing an attended step of this migration."""

    name: str
    verb: str

    runbook = "worker-died"
    happened = "Somebody else is doing a step of {name} in another terminal, or did a moment ago and died."
    state = "Nothing was changed; a dead one's lease ends by itself within half a minute."
    next = "Wait for it, then run `migrator {verb} {name}` again."


@dataclass(eq=False)
class Overtaken(TransientError):
    """An attended step fell silent for longer than its lease: somebody else may have begun another."""

    name: str
    verb: str
    seconds: float

    runbook = "worker-died"
    happened = "`{verb}` of {name} stood still for longer than its lease of {seconds:.0f} s, so its right has ended."
    state = "It stopped where it was: each of its transactions is done as a whole, or not at all."
    next = "Run `migrator status {name}` to see where it stands, then `migrator {verb} {name}` again."


@dataclass(eq=False)
class NotConverging(TransientError):
    """Rows become dirty as fast as they are embedded."""

    name: str
    verb: str
    dirty_rows: int

    runbook = "not-converging"
    happened = "{dirty_rows} rows of {name} still lack a vector: they come as fast as they are embedded."
    state = "The live column is as it was, and catch-up goes on."
    next = "Raise the limits (`migrator limits {name} --rpm N --tpm N`), then run `migrator {verb} {name}` again."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences; cleanup knows no bound: nobody catches up after it, and maybe not before."""
        happened, state, following = MigratorError.sentences(self)
        if self.verb == "cleanup":
            state = "The live column is as it was, and what was embedded stays: cleanup goes on from there."
        if self.verb != "cleanup":
            following += f" Or `migrator {self.verb} {self.name} --max-dirty-rows N` with a larger number."
        return happened, state, following


@asynccontextmanager
async def attending(worker: Worker, migration: Migration, verb: str) -> AsyncIterator[Lease]:
    """Hold the migration's own lease during an attended step."""
    async with transaction(worker.engine) as connection:
        lease = await leases.take(
            connection, migration.id, Duty.ATTEND, holder=worker.holder, seconds=worker.lease_seconds
        )
    if lease is None:
        raise Attended(migration.name, verb)
    try:
        async with renewed(worker, lease):
            yield lease
    except LeaseLost:
        raise Overtaken(migration.name, verb, lease.seconds) from None
    finally:
        async with transaction(worker.engine) as connection:
            await leases.give_back(connection, lease)


async def fresh(worker: Worker, migration: Migration, side: Side, bounds: Bounds, verb: str, tell: Tell) -> None:
    """Wait, or work, until few enough rows lack that side's vector: what was there at first is all embedded.

    Raises: NotConverging, CapReached and other failures of the work.
    """
    loop = asyncio.get_running_loop()
    until, told, fewest = loop.time() + PATIENCE_SECONDS, False, math.inf
    async with transaction(worker.engine) as connection:
        first = await dirty.newest_id(connection, migration.id, side)
    while True:
        async with transaction(worker.engine) as connection:
            count, oldest = await dirty.count(connection, migration.id, side)
            old = first is not None and await dirty.any_up_to(connection, migration.id, side, first)
        few = count <= bounds.max_dirty_rows and oldest <= bounds.max_dirty_seconds
        if count == 0 or (few and not old):
            return
        if count < fewest:
            until, fewest = loop.time() + PATIENCE_SECONDS, count
        if loop.time() > until:
            raise NotConverging(migration.name, verb, count)
        if not told:
            tell(f"{count:,} rows lack their {migration.generation(side)} vector; catching up")
            told = True
        if not await help_catch_up(worker, migration, side):
            await asyncio.sleep(0.2)


async def help_catch_up(worker: Worker, migration: Migration, side: Side) -> bool:
    """Do a round of catch-up ourselves, unless a worker is at it; says whether we did."""
    async with transaction(worker.engine) as connection:
        found = await migrations.get_by_id(connection, migration.id)
        # The workers' catch-up keeps the live side and the new one; a rollback's debt is nobody's but ours.
        kept = catch_up.sides(found, deferred=False)
        duty = Duty.CATCH_UP if side in kept else Duty.SETTLE
        lease = await leases.take(connection, migration.id, duty, holder=worker.holder, seconds=worker.lease_seconds)
    if lease is None:
        return False
    try:
        async with renewed(worker, lease):
            # What was at rest when the step began may be worked on; a pause or a cancel meanwhile stops it.
            await settle(worker, migration, lease, side, UNATTENDED | {migration.status})
    except LeaseLost:
        # The round was too slow for its lease (a loaded machine): what landed stays, the rest is looked at again.
        await asyncio.sleep(0.2)
    finally:
        async with transaction(worker.engine) as connection:
            await leases.give_back(connection, lease, counts_as_attempt=False)
    return True


async def settle(
    worker: Worker, migration: Migration, lease: Lease, side: Side, allowed: frozenset[MigrationStatus]
) -> None:
    """Embed a handful of what is dirty now: writers may go on for ever, so whoever calls looks again."""
    purpose = Purpose.CATCH_UP if side is Side.TO else Purpose.ROLLBACK_DEBT
    progress = await catch_up.once(worker, migration, lease, side, purpose, allowed=allowed)
    if progress is None:
        await asyncio.sleep(0.1)  # what is left is held by the application
    elif progress.failure is not None:
        raise progress.failure


async def until_embedded(worker: Worker, migration: Migration, side: Side) -> float | None:
    """Wait for the rows that were absent at the swap; None when that takes too long, or can't be done from here.

    The swap is done: nothing that fails here may look as if it were not.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with transaction(worker.engine) as connection:
            last = await dirty.newest_id(connection, migration.id, side)
        while loop.time() < began + PATIENCE_SECONDS:
            async with transaction(worker.engine) as connection:
                if last is None or not await dirty.any_up_to(connection, migration.id, side, last):
                    return loop.time() - began
            await help_catch_up(worker, migration, side)
            await asyncio.sleep(0.05)
    except MigratorError:
        return None
    return None


def on_wait(tell: Tell) -> Callable[[int, list[Blocker], float], None]:
    """Return what tells of each try for the lock that failed."""

    def told(number: int, held: list[Blocker], pause: float) -> None:
        who = "; ".join(map(str, held)) or "nobody any more"
        tell(f"try {number}: the lock was not to be had (holding it: {who}); next try in {pause:.1f} s")

    return told


async def dirty_rows(worker: Worker, migration: Migration, side: Side) -> int:
    """Return how many rows lack that side's vector."""
    async with transaction(worker.engine) as connection:
        return (await dirty.count(connection, migration.id, side))[0]
