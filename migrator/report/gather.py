"""Everything that a report tells of a migration, read once: from our own tables, and a look at the operator's.

Floor 4, below the doors. Promise: it works in every status, from planned to cleaned; what is not there is a None or a
sentence. It holds no text and no key of a row and no secret (P11), and it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator import __version__, words
from migrator.generation import Side
from migrator.measures.projection import Projection
from migrator.orchestrator import judgement, progress
from migrator.orchestrator.progress import Progress
from migrator.reasons import cut, without_keys
from migrator.report import drawing, timeline
from migrator.report.timeline import Span
from migrator.state import budget, migrations, provenance, samples, verdicts
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.state.samples import Taken

#: Lines of the log that a page holds: a migration has a dozen or two; somebody may pause one every hour for a month.
MAX_MOVES = 2_000
#: Seconds for any statement on our own tables.
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate's newest verdict; `outcome` in a word: passed, FAILED, waived, not measured."""

    gate: str
    outcome: str
    figure: float | None = None
    threshold: float | None = None
    sample: int | None = None
    seed: int | None = None
    seconds: float | None = None
    at: datetime | None = None
    detail: str = ""
    stale: str | None = None
    waived_by: str | None = None
    waiver: str | None = None
    evidence: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A line of the log; a note moved nothing."""

    at: datetime
    from_status: str | None
    to_status: str
    reason: str
    actor: str

    @property
    def is_note(self) -> bool:
        """Whether it moved nothing."""
        return self.from_status == self.to_status


@dataclass(frozen=True, slots=True)
class Report:
    """What is told. Money is in US dollars, times are the database's."""

    name: str
    target: str
    from_generation: str
    to_generation: str
    status: str
    reason: str | None
    since: datetime
    next_step: str
    made_at: datetime
    version: str
    started_at: datetime | None
    plan: dict[str, Any]
    #: What `status --json` tells, without what is told here in full.
    progress: dict[str, Any]
    rows_in_scope: int
    rows_settled: int
    #: (kind, reason, rows).
    dispositions: list[tuple[str, str, int]]
    verdicts: list[Verdict]
    moves: list[Move]
    samples: list[Taken]
    statuses: list[Span]
    swaps: list[Span]
    throttles: list[Span]
    #: (purpose, requests, tokens, USD).
    spending: list[tuple[str, int, int, float]]
    #: (kind, name, what becomes of it in the swap), as planned.
    dependents: list[tuple[str, str, str]]
    dependents_note: str
    projection: Projection | None
    #: When and from what the projection was made, or why there is none.
    projection_note: str
    #: Outcome, actor, waiver and moment of the provenance check; None where there was none.
    provenance: dict[str, Any] | None

    def verdict(self, gate: str) -> Verdict:
        """Return a gate's verdict."""
        return next(each for each in self.verdicts if each.gate == gate)

    def evidence(self, gate: str) -> dict[str, Any]:
        """Return what a gate's figure was worked out from; empty where nothing was kept."""
        return self.verdict(gate).evidence or {}

    def as_json(self) -> dict[str, Any]:
        """Return the shape of `report --json`."""
        found = asdict(self)
        found["samples"] = [{"at": each.at, **asdict(each.sample)} for each in self.samples]
        found["dispositions"] = [dict(zip(("kind", "reason", "rows"), each, strict=True)) for each in self.dispositions]
        names = ("purpose", "requests", "tokens", "usd")
        found["spending"] = [dict(zip(names, each, strict=True)) for each in self.spending]
        found["dependents"] = [dict(zip(("kind", "name", "action"), each, strict=True)) for each in self.dependents]
        return found


async def gather(engine: AsyncEngine, name: str) -> Report:
    """Read everything.

    Raises: MigrationUnknown.
    """
    async with transaction(engine, read_only=True, statement_timeout_seconds=_SECONDS) as connection:
        migration = await migrations.get(connection, name)
        found = await progress.read(connection, migration)
        now = await migrations.database_now(connection)
        moves = [_move(row) for row in await migrations.history(connection, migration.id, limit=MAX_MOVES)]
        taken = list(await samples.read(connection, migration.id))
        spent = await budget.purposes(connection, migration.id)
        checked = await provenance.last(connection, migration.id)
        told = await _verdicts(connection, migration)
    swaps = timeline.swaps(moves)
    made, note = await _projection(engine, migration, told)
    counts, planned = found.counts, migration.plan
    until = taken[-1].at if taken else now
    return Report(
        name=migration.name,
        target=migration.target,
        from_generation=str(migration.from_generation),
        to_generation=str(migration.to_generation),
        status=progress.status_word(found),
        reason=without_keys(migration.reason),
        since=migration.since,
        next_step=found.next_step,
        made_at=now,
        version=__version__,
        started_at=migration.started_at,
        plan={key: planned.get(key) for key in _PLANNED},
        progress=_progress(found),
        rows_in_scope=found.rows_in_scope,
        rows_settled=counts.rows_done + counts.rows_skipped + counts.rows_quarantined,
        dispositions=[(kind, reason, rows) for (kind, reason), rows in sorted(found.dispositions.items())],
        verdicts=told,
        moves=moves,
        samples=taken,
        statuses=timeline.statuses(moves, now),
        swaps=swaps,
        throttles=timeline.throttles(taken, until),
        spending=spent,
        dependents=[(each["kind"], each["name"], each["action"]) for each in planned.get("dependents", [])],
        dependents_note=_moved(migration, swaps),
        projection=made,
        projection_note=note,
        provenance=checked,
    )


#: What of the plan is told. Findings are left out: their words are the operator's SQL at times.
_PLANNED = ("rows", "rows_to_embed", "skipped", "tokens", "cost_usd", "hours", "hours_bound_by", "batches",
            "pages_per_batch", "disk_bytes", "wal_bytes", "index_build", "vector_type")  # fmt: skip
#: What of `status --json` is told as it is.
_TOLD = ("rows", "batches", "cost", "rate", "catch_up", "throttle", "writes", "live", "rollback", "index",
         "diverted", "suspects", "workers", "canary")  # fmt: skip


def _progress(found: Progress) -> dict[str, Any]:
    whole = progress.as_json(found)
    return {key: whole[key] for key in _TOLD}


def _move(row: Row[Any]) -> Move:
    return Move(row.at, row.from_status, row.to_status, without_keys(row.reason) or "", row.actor)


async def _verdicts(connection: AsyncConnection, migration: Migration) -> list[Verdict]:
    """Return a verdict for every gate, in the gates' order, measured or not."""
    measured = {each["gate"]: each for each in await judgement.read(connection, migration)}
    kept = await verdicts.evidence(connection, migration.id)
    return [_verdict(gate, measured.get(gate), kept.get(gate)) for gate in verdicts.GATES]


def _verdict(gate: str, row: Mapping[str, Any] | None, evidence: dict[str, Any] | None) -> Verdict:
    if row is None:
        return Verdict(gate, "not measured")
    outcome = "passed" if row["passed"] else "waived" if row["waived_by"] else "FAILED"
    summary = (evidence or {}).get("summary")
    kept = ("figure", "threshold", "sample", "seed", "seconds", "at", "stale", "waived_by", "waiver")
    values = {name: row[name] for name in kept}
    return Verdict(
        gate, outcome, **values, evidence=evidence, detail=summary if summary is not None else cut(row["detail"])
    )


async def _projection(
    engine: AsyncEngine, migration: Migration, told: Sequence[Verdict]
) -> tuple[Projection | None, str]:
    """Return the picture that the last validation made, else one of now: it outlives the column that it shows."""
    churn = next(each for each in told if each.gate == "churn")
    stored = (churn.evidence or {}).get("projection")
    if stored is not None and churn.at is not None:
        return Projection.restore(stored), f"the rows that the gate churn drew, {words.when(churn.at)}"
    if migration.started_at is None:
        return None, "it was not started yet: there is only one space"
    made, why = await drawing.draw(engine, migration)
    return made, why or "rows of a few random pages, drawn for this report"


def _moved(migration: Migration, swaps: Sequence[Span]) -> str:
    """Say whether what hangs on the column was taken along."""
    if not swaps:
        return "Nothing was moved yet: all of it goes along in the transaction that cuts over, or that is refused."
    last = swaps[-1]
    where = migration.generation(migration.live_side)
    side = "taken along" if migration.live_side is Side.TO else "taken back"
    return f"All of it was {side} in the transaction of the last {last.what}, {words.when(last.began)}: {where}."
