"""Progress: the one reading that `status`, its JSON, the report and the exporter are made from.

Floor 3. Promise: where a migration is (`position`), rows that arrived since the start told apart, and always with the
reason and the next step. It takes no lock on the table, so it answers behind a waiting ALTER TABLE.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.lifecycle import NEXT_STEP, MigrationStatus
from migrator.orchestrator import diverted, judgement, position, readers, suspicious
from migrator.orchestrator.position import Position
from migrator.planning import calibration
from migrator.state import (
    account_caps,
    budget,
    canary,
    leases,
    migrations,
    schedules,
    signals,
    workers,
    written,
)
from migrator.state.account_caps import AccountCap
from migrator.state.canary import STEADY_COSINE, Canary
from migrator.state.migrations import Migration
from migrator.state.signals import Reading
from migrator.words import span

S = MigrationStatus


@dataclass(frozen=True, slots=True)
class Progress(Position):
    """Everything that is told about a migration; money is in US dollars."""

    debt_tokens: int
    hot_ratio: float | None
    #: Rows inserted since the start, by the table's statistics; None where those do not reach back.
    rows_arrived: int | None
    reading: Reading
    #: Batches and duties that somebody holds at the moment.
    in_hand: int
    live_since: Any
    verdicts: list[dict[str, Any]]
    #: What was noticed while indexes were built: a graph that did not fit into memory, with the mend.
    built: list[str]
    workers_alive: int
    strays: diverted.Strays
    suspects: suspicious.Writers
    readers: list[dict[str, Any]]
    canary: Canary | None
    #: Who is offered work first, among migrations of one provider account.
    priority: int
    #: The cap that it shares with others of its account.
    shared_cap: AccountCap | None

    @property
    def window_open(self) -> bool:
        """Whether the way back is open."""
        return S.COMPLETED in {self.migration.status, self.migration.paused_from}

    @property
    def reason(self) -> str | None:
        """Why it stands where it stands, when there is something to say."""
        return self.migration.reason

    @property
    def next_step(self) -> str:
        """What follows, or what the operator may do."""
        failed = judgement.unsigned(self.verdicts) if self.migration.status is S.READY else []
        if failed:
            return f"`migrator validate {self.migration.name}`, since cutover is refused: {', '.join(failed)}"
        if self.suspects:
            return f"`migrator rows {self.migration.name} --suspects`: see runbooks/suspect-vectors.md"
        return NEXT_STEP[self.migration.status].format(name=self.migration.name)


async def read(connection: AsyncConnection, migration: Migration) -> Progress:
    """Read how far a migration is, and everything that is told with it."""
    found = await position.read(connection, migration)
    live = await migrations.live_generation(
        connection, migration.target_schema, migration.target_table, migration.target_column
    )
    return Progress(
        **{each.name: getattr(found, each.name) for each in fields(found)},
        debt_tokens=_debt_tokens(migration, found.dirty_from),
        hot_ratio=_hot_ratio(migration, found.counters),
        rows_arrived=_arrived(migration, found.counters),
        reading=await signals.reading(connection, migration.id),
        in_hand=await leases.count_alive(connection, migration.id),
        live_since=live.since if live is not None else None,
        verdicts=await judgement.read(connection, migration),
        built=await _built(connection, migration),
        workers_alive=len(await workers.alive(connection)),
        strays=await diverted.seen(connection, migration),
        suspects=await written.writers(connection, migration.id),
        readers=await readers.read(connection, migration),
        canary=await canary.find(connection, migration.id),
        shared_cap=await account_caps.find(connection, migration.spec.to),
        priority=(await schedules.find(connection, migration.id)).priority,
    )


async def _built(connection: AsyncConnection, migration: Migration) -> list[str]:
    return [each for each in await migrations.notes(connection, migration.id, S.INDEXING) if each.startswith("index ")]


def _debt_tokens(migration: Migration, rows: int) -> int:
    """Estimate what settling the rollback debt takes, from the plan's tokens per row: it is owed to the old model."""
    return int(rows * calibration.tokens_per_row(migration.plan, Side.FROM))


def _arrived(migration: Migration, now: dict[str, int]) -> int | None:
    """Return how many rows were inserted since the start; a crash or a reset takes the statistics away."""
    before = (migration.write_baseline or {}).get("inserts")
    if before is None or not now or now["inserts"] < before:
        return None
    return now["inserts"] - before


def _hot_ratio(migration: Migration, now: dict[str, int]) -> float | None:
    """Return the share of HOT updates since the backfill began, the application's own included."""
    baseline = migration.write_baseline
    if not baseline or not now:
        return None
    updates = now["updates"] - baseline["updates"]
    return float(now["hot_updates"] - baseline["hot_updates"]) / updates if updates > 0 else None


def status_word(found: Progress) -> str:
    """Return the status as people read it: a pause with batches in hand is "pausing", until their leases end."""
    word = {S.PAUSED: "pausing", S.CANCELLED: "cancelling"}.get(found.migration.status)
    if word is not None and found.in_hand:
        return f"{word} ({found.in_hand} batches finishing)"
    return str(found.migration.status)


def exit_code(found: Progress) -> int:
    """Return what `status --exit-code` answers: 0 well, 3 a gate failed, 4 paused, 75 under way or not converging."""
    migration = found.migration
    if migration.status is S.PAUSED:
        return 3 if (migration.reason or "").startswith("a gate failed") else 4
    if found.suspects or (migration.status is S.READY and judgement.unsigned(found.verdicts)):
        return 3
    moving = {S.PLANNED, S.BACKFILLING, S.INDEXING, S.VALIDATING, S.CLEANING}
    return 75 if migration.status in moving or found.not_converging else 0


def as_json(found: Progress) -> dict[str, Any]:
    """Return the shape of `status --json`; its keys stay."""
    migration, counts = found.migration, found.counts
    return {
        "name": migration.name,
        "status": str(migration.status),
        "reason": found.reason,
        "since": migration.since.isoformat(),
        "next": found.next_step,
        "priority": found.priority,
        "rows": {
            "total": found.rows_total,
            "done": found.rows_done,
            "skipped": found.skipped,
            "quarantined": found.quarantined,
            "dirty": found.dirty_to,
            "remaining": found.remaining,
            "arrived": found.rows_arrived,
            "share": found.share,
        },
        "batches": {
            "total": counts.total,
            "done": counts.done,
            "leased": counts.leased,
            "pending": counts.pending,
            "failed": counts.failed,
        },
        "cost": _cost(found),
        "rate": {
            "rows_per_second": found.rows_per_second,
            "tokens_per_minute": found.tokens_per_minute,
            "eta_seconds": found.eta_seconds,
        },
        "catch_up": _catch_up(found),
        "throttle": {"binding": found.binding, "signals": [each.as_json() for each in found.reading.signals]},
        "writes": {"hot_ratio": found.hot_ratio},
        "live": {
            "generation": str(migration.live_generation),
            "since": found.live_since.isoformat() if found.live_since is not None else None,
        },
        "rollback": debt(found),
        "index": {"building": found.building, "built": found.built},
        "verdicts": judgement.as_json(found.verdicts),
        **diverted.as_json(migration, found.strays),
        "suspects": suspicious.as_json(migration, found.suspects),
        "readers": found.readers,
        "workers": found.workers_alive,
        "canary": judgement.canary_as_json(found.canary),
    }


def _cost(found: Progress) -> dict[str, Any]:
    account, plan = found.account, found.migration.plan
    return {
        "tokens": account.spent_tokens,
        "estimated_tokens": account.estimated_tokens,
        "unwritten_tokens": account.unwritten_tokens,
        "usd": float(account.spent_usd),
        "reserved_usd": float(account.reserved_usd),
        "possibly_billed_usd": float(account.possibly_billed_usd),
        "max_usd": float(account.max_usd),
        "account_max_usd": float(found.shared_cap.max_usd) if found.shared_cap else None,
        "account_usd": float(found.shared_cap.committed_usd) if found.shared_cap else None,
        "estimated_usd": [plan["cost_usd"]["low"], plan["cost_usd"]["high"]],
    }


def canary_line(found: Canary) -> str:
    """Return how the canary stands, for people."""
    if found.moved_cosine is not None:
        return f"MOVED to cosine {found.moved_cosine:.4f}; vectors since {found.good_at:%Y-%m-%d %H:%M:%S} are suspect"
    word = "steady" if found.lowest_cosine >= STEADY_COSINE else "unsteady"
    when = f"{found.checks} checks, the last {span(found.age_seconds)} ago"
    return f"{word}: lowest cosine {found.lowest_cosine:.5f} in {when}"


def _catch_up(found: Progress) -> dict[str, Any]:
    names = ("converging", "arrivals_per_second", "embeddings_per_second")
    return {name: getattr(found.flow, name, None) for name in names}


def debt(found: Progress) -> dict[str, Any]:
    """Return what going back would cost now: rows, and US dollars at the highest price."""
    price = found.migration.spec.model_of(Side.FROM).price_usd_per_mtok[1]
    rows, tokens = (found.dirty_from, found.debt_tokens) if found.window_open else (0, 0)
    usd = float(budget.price(tokens, price).usd)
    kept = found.migration.keep_fresh
    return {"window_open": found.window_open, "debt_rows": rows, "debt_usd": usd, "kept_fresh": kept}
