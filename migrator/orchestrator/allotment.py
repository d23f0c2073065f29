"""Allotment: how many batches each migration may have under way, where several ask one provider account.

Floor 3. Promise: a migration gets what those of a higher priority leave, and equal ones get the same. What somebody
can't use, since it rests, is throttled, or has no batch to hand out at the moment, is left to the others; so nobody
waits for one that does nothing. Catch-up, indexes and gates are no bulk work, and wait for no priority.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.spending import hours
from migrator.state import batches, pace
from migrator.state.batches import Trust
from migrator.state.migrations import Migration
from migrator.state.schedules import Schedule
from migrator.state.signals import Reading


@dataclass(frozen=True, slots=True)
class Claim:
    """How many batches a migration could have under way now, and its priority."""

    migration_id: int
    priority: int
    wanted: int


def share(limit: int, claims: Collection[Claim]) -> dict[int, int]:
    """Return how many batches each may have under way, by migration.

    All together `limit`, and up to one more for each of the last priority that gets some: 4 among three is 2 for each.
    """
    found: dict[int, int] = {}
    left = limit
    for priority in sorted({each.priority for each in claims}, reverse=True):
        equals = [each for each in claims if each.priority == priority]
        level = next(
            (each for each in range(left) if sum(min(claim.wanted, each) for claim in equals) >= left), max(left, 0)
        )
        found |= {each.migration_id: min(each.wanted, level) for each in equals}
        left = max(0, left - sum(found[each.migration_id] for each in equals))
    return found


@dataclass(frozen=True, slots=True)
class Standing:
    """A migration with its schedule and the last look at its signals."""

    migration: Migration
    schedule: Schedule
    reading: Reading


async def allot(connection: AsyncConnection, found: Sequence[Standing], limit: int, trust: Trust) -> dict[int, int]:
    """Return how many batches each migration that shares its account may have under way; the others have no limit.

    Cost: a small statement for each of them, and none where no account is shared.
    """
    accounts: dict[str, list[Standing]] = {}
    for each in found:
        migration = each.migration
        if migration.status is MigrationStatus.BACKFILLING and migration.capture_off_at is None:
            accounts.setdefault(pace.account_of(migration.spec.model_of(Side.TO)), []).append(each)
    allotted: dict[int, int] = {}
    for sharing in accounts.values():
        if len(sharing) > 1:
            claims = [
                Claim(each.migration.id, each.schedule.priority, await _wanted(connection, each, limit, trust))
                for each in sharing
            ]
            # Whoever has nothing to hand out now waits for nobody's sake.
            allotted |= share(limit, [each for each in claims if each.wanted])
    return allotted


async def _wanted(connection: AsyncConnection, standing: Standing, limit: int, trust: Trust) -> int:
    """Return how many batches could be under way; none while it rests, by the hour or by the last look at signals."""
    migration, reading = standing.migration, standing.reading
    throttled = not reading.is_stale and reading.binding is not None
    if throttled or await hours.binding(connection, migration, standing.schedule) is not None:
        return 0
    return await batches.wanted(connection, migration.id, limit, trust)
