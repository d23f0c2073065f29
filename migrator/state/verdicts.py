"""Verdicts: what each gate measured, against which threshold, on which sample, and who waived it.

Floor 1. The newest verdict of a gate counts. It is stale, and no licence to swap, once somebody took it back, another
epoch began, it is older than `max_age_hours`, or so much was written since that it tells of another table. Writes
are what catch-up embedded since and what was inserted, whichever is more: an update of other columns changes no vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from sqlalchemy import Row, case, func, insert, null, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.migrations import Migration
from migrator.state.trust_tables import verdicts

#: Every gate that must have a verdict before a swap, in the order in which they are measured.
GATES = (
    "structure",
    "quarantined",
    "sentinel",
    "assignment",
    "ann_recall",
    "churn",
    "latency",
    "quality",
    "canary",
    "budget",
)
#: Rows written below which no verdict grows stale, whatever the share: as many as the assignment gate looks at.
FEWEST_WRITTEN = 300
#: Seconds for which a verdict holds whatever is written: a small table is rewritten in a moment, and measuring it again
#: and again would cost more than it tells. Each of those vectors landed by the hash of its text.
HOLDS_SECONDS = 600.0
#: Share of age and writes at which verdicts are renewed while the migration is `ready`, so that no cutover has to wait.
RENEW_AT = 0.8
_HOUR_SECONDS = 3600


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
    #: It failed only for rows without a vector: the backfill finds and embeds them by itself.
    mendable: bool = False
    #: What the figure was worked out from, as the report draws it: numbers only (P11).
    evidence: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Watermark:
    """What had been written to a table at one moment. Counts only ever grow, unless the server lost its statistics."""

    inserts: int
    #: Rows that catch-up embedded, since the beginning.
    embedded: int
    #: The oldest transaction at work: it and later ones write what is not counted here; None where it was not kept.
    xid: str | None = None

    @classmethod
    def restore(cls, data: dict[str, Any] | None) -> Self | None:
        """Read back what was stored."""
        return cls(**data) if data else None

    def written_since(self, earlier: Watermark) -> int | None:
        """Return how many rows were written since then, at least; None where the statistics do not reach back."""
        if self.inserts < earlier.inserts or self.embedded < earlier.embedded:
            return None
        return max(self.inserts - earlier.inserts, self.embedded - earlier.embedded)


async def record(
    connection: AsyncConnection, migration_id: int, epoch: int, verdict: Verdict, watermark: Watermark | None = None
) -> None:
    """Store a verdict; `watermark`: what had been written before it was measured.

    The newest of a gate alone keeps its evidence, so that verdicts renewed for weeks stay small.
    """
    of_gate = (verdicts.c.migration_id == migration_id) & (verdicts.c.gate == verdict.gate)
    await connection.execute(update(verdicts).where(of_gate, verdicts.c.evidence.is_not(None)).values(evidence=null()))
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
            watermark=asdict(watermark) if watermark is not None else None,
            evidence=verdict.evidence,
        )
    )


async def newest(connection: AsyncConnection, migration_id: int) -> Sequence[Row[Any]]:
    """Return each gate's newest verdict in the gates' order, with its age in seconds beside it, without evidence."""
    told = [column for column in verdicts.c if column.name != "evidence"]
    age = func.extract("epoch", func.clock_timestamp() - verdicts.c.at).label("age_seconds")
    found = (
        select(*told, age)
        .where(verdicts.c.migration_id == migration_id, verdicts.c.gate.in_(GATES))
        .ext(distinct_on(verdicts.c.gate))
        .order_by(verdicts.c.gate, verdicts.c.id.desc())
        .subquery()
    )
    place = case({gate: number for number, gate in enumerate(GATES)}, value=found.c.gate)
    return (await connection.execute(select(found).order_by(place))).all()


async def evidence(connection: AsyncConnection, migration_id: int) -> dict[str, dict[str, Any]]:
    """Return what each gate's newest verdict was worked out from, where that was kept."""
    query = select(verdicts.c.gate, verdicts.c.evidence)
    query = query.where(verdicts.c.migration_id == migration_id, verdicts.c.evidence.is_not(None))
    return {row.gate: row.evidence for row in await connection.execute(query.order_by(verdicts.c.id))}


def why_stale(row: Row[Any], migration: Migration, now: Watermark | None, *, share: float = 1.0) -> str | None:
    """Say why a verdict is no licence to swap any more, or None; `share` of the thresholds is enough to say so."""
    gates = migration.spec.gates
    if row.retired:
        return "it was taken back to be measured again"
    if row.epoch != migration.epoch:
        return "it was measured before the last swap"
    if row.age_seconds > share * gates.max_age_hours * _HOUR_SECONDS:
        return f"it is {float(row.age_seconds) / _HOUR_SECONDS:.1f} h old, and {gates.max_age_hours:g} h are allowed"
    then = Watermark.restore(row.watermark)
    young = row.age_seconds <= share * HOLDS_SECONDS
    return None if young or now is None or then is None else _overwritten(migration, now.written_since(then), share)


def _overwritten(migration: Migration, written: int | None, share: float) -> str | None:
    if written is None:
        return "the server lost its statistics since, so nobody knows what was written"
    rows = migration.proved_rows or int(migration.plan.get("rows", 0))
    allowed = max(migration.spec.gates.max_written_share * rows, FEWEST_WRITTEN)
    if written <= share * allowed:
        return None
    return f"{written:,} rows were written since, and {allowed:,.0f} are allowed"


def is_settled(row: Row[Any]) -> bool:
    """Say whether a verdict lets a swap pass, fresh as it may be."""
    return bool(row.passed or row.waived_by is not None)


async def retire(connection: AsyncConnection, migration_id: int) -> None:
    """Take every verdict back: all of them are to be measured again."""
    await connection.execute(
        update(verdicts)
        .where(verdicts.c.migration_id == migration_id, verdicts.c.retired.is_(False))
        .values(retired=True)
    )


async def waive(connection: AsyncConnection, verdict_id: int, *, reason: str, actor: str) -> None:
    """Sign that a verdict may be passed over."""
    statement = update(verdicts).where(verdicts.c.id == verdict_id).values(waived_by=actor, waiver=reason)
    await connection.execute(statement)
