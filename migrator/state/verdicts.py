"""Verdicts: what each gate measured, against which threshold, on which sample, and who waived it.

Floor 1. The newest verdict of a gate counts. A verdict is fresh while the epoch it was measured under lasts and it is
younger than MAX_AGE_SECONDS; rows written since are watched by `dirty`, which cutover bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.tables import verdicts

#: A day: what was measured before an operator slept is measured again before the swap.
MAX_AGE_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Verdict:
    """One gate's outcome. `figure` and `threshold` are in the gate's own unit, named in `detail`."""

    gate: str
    passed: bool
    figure: float
    threshold: float
    sample: int
    seed: int
    detail: str
    seconds: float


async def record(connection: AsyncConnection, migration_id: int, epoch: int, verdict: Verdict) -> None:
    """Store a verdict."""
    await connection.execute(
        insert(verdicts).values(
            migration_id=migration_id,
            epoch=epoch,
            gate=verdict.gate,
            passed=verdict.passed,
            figure=verdict.figure,
            threshold=verdict.threshold,
            sample=verdict.sample,
            seed=verdict.seed,
            detail=verdict.detail,
            seconds=verdict.seconds,
        )
    )


async def newest(connection: AsyncConnection, migration_id: int) -> Sequence[Row[Any]]:
    """Return each gate's newest verdict, with `fresh` beside it."""
    fresh = verdicts.c.at > func.clock_timestamp() - timedelta(seconds=MAX_AGE_SECONDS)
    query = (
        select(verdicts, fresh.label("young"))
        .where(verdicts.c.migration_id == migration_id)
        .ext(distinct_on(verdicts.c.gate))
        .order_by(verdicts.c.gate, verdicts.c.id.desc())
    )
    return (await connection.execute(query)).all()


async def waive(connection: AsyncConnection, migration_id: int, gate: str, *, reason: str, actor: str) -> bool:
    """Sign that a gate's newest verdict may be passed over; False where it has none."""
    newest_id = (
        select(func.max(verdicts.c.id))
        .where(verdicts.c.migration_id == migration_id, verdicts.c.gate == gate)
        .scalar_subquery()
    )
    statement = update(verdicts).where(verdicts.c.id == newest_id).values(waived_by=actor, waiver=reason)
    return (await connection.execute(statement)).rowcount == 1
