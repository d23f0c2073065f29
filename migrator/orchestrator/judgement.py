"""Verdicts, and the canary, as they are told: each gate's newest, whether it still holds, and a line for people.

Floor 3. Promise: what is shown as passed is what cutover would go by at this moment; who waived what, and why, is never
left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.spending.worker import Worker
from migrator.state import dispositions, migrations, verdicts
from migrator.state.canary import STEADY_COSINE, Canary
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.target import watermark

#: What of a verdict is told in JSON.
_TOLD = ("gate", "passed", "figure", "threshold", "sample", "seed", "detail", "stale", "waived_by", "waiver")


async def read(connection: AsyncConnection, migration: Migration) -> list[dict[str, Any]]:
    """Return each gate's newest verdict, with why it is stale beside it (None where it is not).

    After the cutover they are what it went by; nobody cuts over on them any more.
    """
    now = await watermark.read(connection, migration)
    done = migration.live_side is Side.TO
    return [
        {**row._mapping, "stale": None if done else verdicts.why_stale(row, migration, now)}  # noqa: SLF001 - public
        for row in await verdicts.newest(connection, migration.id)
    ]


def as_json(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the shape of `verdicts` in `status --json`; its keys stay."""
    return [{**{name: each[name] for name in _TOLD}, "at": each["at"].isoformat()} for each in found]


def unsigned(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the gates that failed and that nobody waived."""
    return [each["gate"] for each in found if not (each["passed"] or each["waived_by"])]


async def cautions(worker: Worker, name: str) -> list[str]:
    """Return what to know before a swap: each gate that is passed over (who signed that, why, what was measured).

    And rows that will be absent from search, since nobody could embed them (H24).

    Raises: MigrationUnknown.
    """
    async with transaction(worker.engine, read_only=True) as connection:
        migration = await migrations.get(connection, name)
        newest = await verdicts.newest(connection, migration.id)
        found = await dispositions.counts(connection, migration.id)
    rows = sum(count for (kind, _), count in found.items() if kind == dispositions.QUARANTINED)
    absent = f"{rows:,} quarantined rows have no new vector: no search finds them (migrator rows {name})"
    return [absent] * bool(rows) + [
        f"gate {row.gate} was waived by {row.waived_by} ({row.waiver}): it is {row.figure:.6g}"
        f" against {row.threshold:.6g}, {row.detail}"
        for row in newest
        if row.waived_by
    ]


def line(each: Mapping[str, Any]) -> str:
    """Return a verdict for people."""
    waived = f"waived by {each['waived_by']} ({each['waiver']})" if each["waived_by"] else None
    word = "passed" if each["passed"] else waived or "FAILED"
    stale = f"; stale: {each['stale']}" if each["stale"] else ""
    return f"{each['gate']} {word}: {each['figure']:.6g} against {each['threshold']:.6g}, {each['detail']}{stale}"


def canary_as_json(found: Canary | None) -> dict[str, Any] | None:
    """Return the shape of `canary` in `status --json`; its keys stay."""
    if found is None:
        return None
    return {
        "moved": found.moved_cosine is not None,
        "steady": found.lowest_cosine >= STEADY_COSINE,
        "lowest_cosine": found.lowest_cosine,
        "checks": found.checks,
        "good_at": found.good_at.isoformat(),
        "old_model_answers_otherwise": found.told_apart,
    }
