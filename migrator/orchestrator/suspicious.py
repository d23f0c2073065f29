"""What an operator is told of written vectors that look like the other generation's, and what is done about them (H3).

Floor 3. Promise: no swap makes a column live in which somebody's vector looks wrong, unless a person said that it may;
nothing is taken back, and nothing is paid for again, before a person says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.cutover.swapping import Direction
from migrator.errors import GateFailed, OperatorError, StatusConflict
from migrator.generation import Side
from migrator.lifecycle import UNATTENDED
from migrator.planning import calibration
from migrator.spending.worker import Worker
from migrator.state import budget, migrations
from migrator.state import written as notes
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.validation import written

#: Who wrote how many suspects into which generation's column.
Writers = Sequence[tuple[Side, str, int]]


@dataclass(eq=False)
class SuspectsWritten(GateFailed):
    """Writers brought vectors of the other generation into the column that is to be live."""

    verb: str

    runbook = "suspect-vectors"
    happened = "{name} can't be swapped by `{verb}`: {failures}."
    state = "Nothing was changed, and the rows are where they were."
    next = (
        "`migrator rows {name} --suspects` lists them. Deploy or stop the writers, then run `migrator retry {name}"
        " --suspects`, which takes those vectors back and embeds their rows again."
    )


@dataclass(eq=False)
class NothingSuspect(OperatorError):
    """There is no suspect to take back or to accept."""

    name: str

    runbook = "suspect-vectors"
    happened = "No vector that writers brought to {name} is suspect."
    state = "Nothing was changed."
    next = "Run `migrator status {name}`."


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is suspect, and what embedding those rows again would take. `absent`: rows that readers would miss."""

    writers: Writers
    absent: int
    tokens: int
    usd: float

    @property
    def rows(self) -> int:
        """How many vectors, over both columns."""
        return sum(rows for _, _, rows in self.writers)


async def refuse(worker: Worker, migration: Migration, direction: Direction) -> None:
    """Look at every vector that was diverted or declared into the column that is to be live.

    What is written from here until the lock is had is looked at within seconds after the swap.

    Raises: SuspectsWritten.
    """
    found = await written.catch_up(worker.engine, migration, direction.side)
    if found:
        raise SuspectsWritten(migration.name, "; ".join(lines(migration, found)), direction.verb)


def lines(migration: Migration, found: Writers) -> list[str]:
    """Return a line for each writer."""
    return [
        f"{who} wrote {rows:,} vectors into the column of {migration.generation(side)} that look like"
        f" {migration.generation(side.other)}"
        for side, who, rows in found
    ]


def as_json(migration: Migration, found: Writers) -> list[dict[str, Any]]:
    """Return the shape of `suspects` in `status --json`; its keys stay."""
    return [{"writer": who, "generation": str(migration.generation(side)), "rows": rows} for side, who, rows in found]


async def look(engine: AsyncEngine, name: str) -> Suspicion:
    """Return what is suspect now.

    Raises: MigrationUnknown, StatusConflict, NothingSuspect.
    """
    migration = await _carried_on(engine, name, "retry --suspects")
    found: list[tuple[Side, str, int]] = []
    for side in Side:
        found += await written.catch_up(engine, migration, side)
    if not found:
        raise NothingSuspect(name)
    absent = sum(rows for side, _, rows in found if side is migration.live_side)
    tokens = [(side, int(rows * calibration.tokens_per_row(migration.plan, side))) for side, _, rows in found]
    price = {side: migration.spec.model_of(side).price_usd_per_mtok[1] for side in Side}
    usd = sum(float(budget.price(count, price[side]).usd) for side, count in tokens)
    return Suspicion(found, absent, sum(count for _, count in tokens), usd)


async def take_back(engine: AsyncEngine, name: str, *, actor: str) -> int:
    """Take back every suspect vector; catch-up embeds the rows again. Returns how many.

    Raises: MigrationUnknown, StatusConflict, RowsHeld.
    """
    migration = await _carried_on(engine, name, "retry --suspects")
    rows = sum([await written.take_back(engine, migration, side) for side in Side])
    async with transaction(engine) as connection:
        told = f"retry: {rows} suspect vectors were taken back; their rows are embedded again"
        await migrations.note(connection, migration.id, migration.status, told, actor)
    return rows


async def accept(engine: AsyncEngine, name: str, *, reason: str, actor: str) -> int:
    """Sign that what is suspect may stay; returns how many vectors that is. What is written later is looked at anew.

    Raises: MigrationUnknown, StatusConflict, NothingSuspect.
    """
    migration = await _carried_on(engine, name, "retry --accept-suspects")
    async with transaction(engine) as connection:
        rows = sum([await notes.forget(connection, migration.id, side) for side in Side])
        if not rows:
            raise NothingSuspect(name)
        told = f"{rows} suspect vectors accepted: {reason}"
        await migrations.note(connection, migration.id, migration.status, told, actor)
    return rows


async def _carried_on(engine: AsyncEngine, name: str, verb: str) -> Migration:
    """Return a migration that workers carry on: nobody would embed the rows of another."""
    async with transaction(engine, read_only=True) as connection:
        migration = await migrations.get(connection, name)
    if migration.status not in UNATTENDED:
        raise StatusConflict(name, verb, "carried on by workers", migration.status, f"migrator status {name}")
    return migration


async def listed(connection: AsyncConnection, migration: Migration, *, limit: int) -> list[dict[str, Any]]:
    """Return suspects for `migrator rows --suspects`."""
    return [
        {**each, "generation": str(migration.generation(Side(each["side"])))}
        for each in await notes.listed(connection, migration.id, limit=limit)
    ]
