"""How far a migration is: the one reading that `status`, its JSON, and the tick's line in Flower are made from.

Floor 3. Promise: cheap (no scan of the table), honest (no ETA from less than 1 %, a rate only from batches that were
finished lately), monotonic (the share never goes backwards; rows that arrived since the start are told apart), and
always with the reason and the next step. It takes no lock on the table, so it answers behind a waiting ALTER TABLE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.lifecycle import NEXT_STEP, MigrationStatus
from migrator.orchestrator import diverted, judgement, readers, suspicious
from migrator.planning import calibration
from migrator.state import (
    account_caps,
    batches,
    budget,
    canary,
    dirty,
    dispositions,
    flows,
    leases,
    migrations,
    schedules,
    signals,
    tallies,
    workers,
    written,
)
from migrator.state.account_caps import AccountCap
from migrator.state.budget import Account
from migrator.state.canary import STEADY_COSINE, Canary
from migrator.state.flows import Flow
from migrator.state.migrations import Migration
from migrator.state.signals import Reading
from migrator.state.tallies import Counts
from migrator.target import index, lanes
from migrator.target.signals import table_oid
from migrator.words import span

S = MigrationStatus
#: Seconds over which a rate is told, and the share of rows below which no ETA is.
RATE_SECONDS, ETA_FROM = 120.0, 0.01


@dataclass(frozen=True, slots=True)
class Progress:
    """Everything that is told about a migration. Rates are per second and per minute, money is in US dollars."""

    migration: Migration
    counts: Counts
    account: Account
    dispositions: dict[tuple[str, str], int]
    dirty_to: int
    dirty_from: int
    debt_tokens: int
    rows_total: int
    rows_done: int
    rows_per_second: float
    tokens_per_minute: float
    binding: str | None
    hot_ratio: float | None
    #: pg_stat counters of the table and its partitions; empty where it is gone.
    counters: dict[str, int]
    #: Rows inserted since the start, by the table's statistics; None where those do not reach back.
    rows_arrived: int | None
    reading: Reading
    #: Batches and duties that somebody holds at the moment.
    in_hand: int
    live_since: Any
    verdicts: list[dict[str, Any]]
    building: str | None
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
    #: Catch-up's rates; None where too little is known to tell.
    flow: Flow | None = None

    @property
    def not_converging(self) -> bool:
        """Whether rows become dirty faster than they are embedded."""
        return self.flow is not None and not self.flow.converging

    @property
    def skipped(self) -> int:
        """Rows without text, and rows outside `where`: as many as the proof found, or the plan before it."""
        return sum(count for (kind, _), count in self.dispositions.items() if kind == "skipped") + self.filtered

    @property
    def filtered(self) -> int:
        """Rows outside the scope, when they were last counted."""
        proved = self.migration.proved_filtered
        return int(self.migration.plan["skipped"]["filtered"] if proved is None else proved)

    @property
    def quarantined(self) -> int:
        """Rows that the provider will not embed."""
        return sum(count for (kind, _), count in self.dispositions.items() if kind == "quarantined")

    @property
    def remaining(self) -> int:
        """Rows that the backfill still has to embed; 0 once it was proved."""
        if self.migration.proved_at is not None and self.migration.status is not S.BACKFILLING:
            return 0
        return max(0, self.rows_total - self.rows_done - self.skipped - self.quarantined)

    @property
    def rows_covered(self) -> int:
        """Rows that were there at the start and got a vector or a disposition from a batch; only ever grows."""
        counts = self.counts
        return min(counts.rows_done + counts.rows_skipped + counts.rows_quarantined, self.rows_in_scope)

    @property
    def rows_in_scope(self) -> int:
        """Rows that were there at the start and that the spec's `where` holds."""
        planned = self.migration.plan
        return max(0, int(planned["rows"]) - int(planned["skipped"]["filtered"]))

    @property
    def share(self) -> float:
        """The share of the backfill that is done; it never goes backwards, also not by rows that arrive or are left."""
        if self.migration.proved_at is not None:
            return 1.0
        return self.rows_covered / max(self.rows_in_scope, 1)

    @property
    def window_open(self) -> bool:
        """Whether the way back is open."""
        return S.COMPLETED in {self.migration.status, self.migration.paused_from}

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the backfill is through, or None where that is not known."""
        if self.migration.status is not S.BACKFILLING or self.rows_per_second <= 0:
            return None
        if self.share < ETA_FROM:
            return None
        return self.remaining / self.rows_per_second

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
    """Read how far a migration is."""
    counts = await tallies.counts(connection, migration.id)
    found = await dispositions.counts(connection, migration.id)
    rows, tokens, span = await batches.recent(connection, migration.id, seconds=RATE_SECONDS)
    per_second = rows / max(span, 1.0) if migration.status is S.BACKFILLING else 0.0
    names = (migration.target_schema, migration.target_table, migration.target_column)
    live = await migrations.live_generation(connection, *names)
    dirty_to, dirty_from = [(await dirty.count(connection, migration.id, each))[0] for each in (Side.TO, Side.FROM)]
    oid = await table_oid(connection, *names[:2])
    counters = await lanes.write_counters(connection, oid) if oid is not None else {}
    total = int(migration.plan["rows"])
    done = min(counts.rows_done, total)
    if migration.proved_at and migration.proved_rows is not None and migration.status is not S.BACKFILLING:
        total = migration.proved_rows
        # Rows that were dirty at the proof have their vector by now, unless they are dirty still.
        absent = sum(count for (kind, _), count in found.items() if kind != "truncated")
        without = absent + (migration.proved_filtered or 0) + dirty_to
        done = max(migration.proved_embedded or 0, total - without)
    return Progress(
        migration=migration,
        counts=counts,
        account=await budget.account(connection, migration.id),
        dispositions=found,
        dirty_to=dirty_to,
        dirty_from=dirty_from,
        debt_tokens=_debt_tokens(migration, dirty_from),
        rows_total=total,
        rows_done=done,
        rows_per_second=per_second,
        tokens_per_minute=60 * tokens / max(span, 1.0) if migration.status is S.BACKFILLING else 0.0,
        binding=await _binding(connection, migration),
        hot_ratio=_hot_ratio(migration, counters),
        counters=counters,
        rows_arrived=_arrived(migration, counters),
        reading=await signals.reading(connection, migration.id),
        in_hand=await leases.count_alive(connection, migration.id),
        live_since=live.since if live is not None else None,
        verdicts=await judgement.read(connection, migration),
        building=await index.progress(connection, oid) if oid and migration.status is S.INDEXING else None,
        built=await _built(connection, migration),
        workers_alive=len(await workers.alive(connection)),
        strays=await diverted.seen(connection, migration),
        suspects=await written.writers(connection, migration.id),
        readers=await readers.read(connection, migration),
        canary=await canary.find(connection, migration.id),
        shared_cap=await account_caps.find(connection, migration.spec.to),
        priority=(await schedules.find(connection, migration.id)).priority,
        flow=await flows.read(connection, migration.id),
    )


async def _built(connection: AsyncConnection, migration: Migration) -> list[str]:
    return [each for each in await migrations.notes(connection, migration.id, S.INDEXING) if each.startswith("index ")]


def _debt_tokens(migration: Migration, rows: int) -> int:
    """Estimate what settling the rollback debt takes, from the plan's tokens per row: it is owed to the old model."""
    return int(rows * calibration.tokens_per_row(migration.plan, Side.FROM))


async def _binding(connection: AsyncConnection, migration: Migration) -> str | None:
    if migration.binding is None or migration.binding_at is None:
        return None
    age = (await migrations.database_now(connection) - migration.binding_at).total_seconds()
    return migration.binding if age <= migrations.BINDING_SECONDS else None


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


def line(found: Progress) -> str:
    """Return the progress bar: one line for Flower and for plain terminals."""
    migration = found.migration
    if migration.status is not S.BACKFILLING:
        words = [f"{migration.name} {migration.status}"]
        if found.building is not None:
            words.append(found.building)
        if found.dirty_to or found.dirty_from:
            words.append(f"dirty {found.dirty_to + found.dirty_from:,}")
    else:
        told = f"{_short(found.rows_covered)}/{_short(found.rows_in_scope)}"
        words = [f"{migration.name} {100 * found.share:.1f} % {told}"]
        words.append(f"{_short(found.rows_per_second)} rows/s")
        words.append(f"ETA {eta(found)}")
    words.append(f"${found.account.committed_usd:.2f} of ${found.account.max_usd:.2f}")
    if found.binding is not None:
        words.append(f"binds: {found.binding}")
    if found.not_converging:
        words.append(str(found.flow))
    return " | ".join(words)


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1000 if letter == 'k' else size):.1f}{letter}"
    return f"{number:.0f}"


def eta(found: Progress) -> str:
    """Return how long it will take yet, for people, or that nobody can tell."""
    return "unknown" if found.eta_seconds is None else span(found.eta_seconds)


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
