"""What `migrator exporter` tells Prometheus: every metric by name, with the reading of a migration that it comes from.

Floor 3. Promise: one reading of Postgres, the same as `status`, so that a dashboard and an operator at a terminal never
disagree; labels are names of migrations and words of fixed lists, so their number is bounded whatever the table, the
application or the provider do; what is not known is left out, never told as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import progress
from migrator.orchestrator.progress import Progress
from migrator.signals import METRICS as SIGNALS
from migrator.state import batches, migrations, schema, workers
from migrator.state.connection import transaction

#: Seconds for which one reading may ask the database: Prometheus gives a scrape ten.
READ_SECONDS = 8.0
#: What can bind, as it is told by `status`, and its word as a label; a signal's phrase begins with the signal's label.
_LIMITS = {
    "requests/min": "requests",
    "tokens/min": "tokens",
    "window": "window",
    "start at": "start_at",
    "priority": "priority",
    "provider pause": "provider_pause",
    "breaker": "breaker",
    "the database's signals": "signals_unread",
    **{each.label: "signal" for each in SIGNALS.values()},
}
_OTHER = "other"

#: A sample: the label values after `migration`, and the value; None where nothing is known.
Sample = tuple[tuple[str, ...], float | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """One migration as it stands, and its batches in trouble by the class of their last failure."""

    progress: Progress
    troubled: dict[str, int]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, what it says, its labels besides `migration`, and where its samples come from."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Reading], Iterable[Sample]]

    def told(self, found: Reading) -> Iterator[tuple[tuple[str, ...], float]]:
        """Return (label values with the migration's name first, value) of what is known."""
        for labels, value in self.samples(found):
            if value is not None:
                yield (found.progress.migration.name, *labels), float(value)


async def read(engine: AsyncEngine) -> tuple[list[Reading], int]:
    """Return every migration that is not cleaned up, and how many workers live.

    Raises: SchemaMissing, SchemaOutdated, DatabaseUnreachable.
    """
    async with transaction(engine, read_only=True, statement_timeout_seconds=READ_SECONDS) as connection:
        await schema.require(connection)
        found = [each for each in await migrations.list_all(connection) if each.status is not MigrationStatus.CLEANED]
        readings = [
            Reading(await progress.read(connection, each), await batches.troubled(connection, each.id))
            for each in found
        ]
        return readings, len(await workers.alive(connection))


def one(read_value: Callable[[Progress], float | None]) -> Callable[[Reading], list[Sample]]:
    """Return the samples of a metric without labels of its own."""
    return lambda found: [((), read_value(found.progress))]


def several(read_values: Callable[[Progress], dict[str, float | None]]) -> Callable[[Reading], list[Sample]]:
    """Return the samples of a metric with one label."""
    return lambda found: [((label,), value) for label, value in read_values(found.progress).items()]


def _statuses(found: Progress) -> dict[str, float | None]:
    return {each.value: float(each is found.migration.status) for each in MigrationStatus}


def _rows(found: Progress) -> dict[str, float | None]:
    return {
        "total": found.rows_total, "done": found.rows_done, "skipped": found.skipped, "quarantined": found.quarantined,
        "remaining": found.remaining, "arrived": found.rows_arrived,
    }  # fmt: skip


def _batches(found: Progress) -> dict[str, float | None]:
    return {each: getattr(found.counts, each) for each in ("done", "leased", "pending", "failed")}


def _cost(found: Progress) -> dict[str, float | None]:
    account = found.account
    kinds = {
        "spent": account.spent_usd, "reserved": account.reserved_usd, "possibly_billed": account.possibly_billed_usd,
    }  # fmt: skip
    return {kind: float(value) for kind, value in kinds.items()}


def _tokens(found: Progress) -> dict[str, float | None]:
    account = found.account
    return {
        "spent": account.spent_tokens, "estimated": account.estimated_tokens, "unwritten": account.unwritten_tokens,
    }  # fmt: skip


def _catch_up(found: Progress) -> dict[str, float | None]:
    if found.flow is None:
        return {}
    return {"arriving": found.flow.arrivals_per_second, "embedded": found.flow.embeddings_per_second}


def _diverted(found: Progress) -> dict[str, float | None]:
    migration = found.migration
    live_is_old = migration.live_side is Side.FROM
    other = str(migration.to_generation if live_is_old else migration.from_generation)
    return {other: sum(each.writes for each in found.strays)}


def binds(words: str) -> str:
    """Return the label for what `status` says that binds."""
    return next((label for known, label in _LIMITS.items() if words.startswith(known)), _OTHER)


def _bound(found: Progress) -> dict[str, float | None]:
    bound = binds(found.binding) if found.binding is not None else None
    return {label: float(label == bound) for label in dict.fromkeys([*_LIMITS.values(), _OTHER])}


def _signals(name: str) -> Callable[[Reading], list[Sample]]:
    """Read the signals of a reading that counts: a migration at rest has none, and no word of what was once so."""

    def read_values(found: Progress) -> dict[str, float | None]:
        fresh = () if found.reading.is_stale else found.reading.signals
        return {each.signal.value: getattr(each, name) for each in fresh}

    return several(read_values)


def _gates(read_value: Callable[[dict[str, object]], bool]) -> Callable[[Reading], list[Sample]]:
    return several(lambda found: {str(each["gate"]): float(read_value(each)) for each in found.verdicts})


#: (name, help) of what is told once, without a label.
UP = ("migrator_up", "1 while the exporter can read schema migrator; nothing else is told while it can't.")
WORKERS = ("migrator_workers", "Workers that gave a sign of life in the last 35 seconds.")
#: For each migration that is not cleaned up; in the order in which docs/metrics.md lists them.
METRICS = (
    Metric("migrator_status", "1 for the status that the migration is in, 0 for all others.", ("status",),
           several(_statuses)),
    Metric("migrator_status_since_timestamp_seconds", "When the migration came to its status.", (),
           one(lambda found: found.migration.since.timestamp())),
    Metric("migrator_rows", "Rows, by what became of them.", ("state",), several(_rows)),
    Metric("migrator_progress_ratio", "Share of the backfill that is done; never goes back.", (),
           one(lambda found: found.share)),
    Metric("migrator_rows_per_second", "Rows that the backfill wrote a second, lately.", (),
           one(lambda found: found.rows_per_second)),
    Metric("migrator_tokens_per_minute", "Tokens that the backfill was billed a minute, lately.", (),
           one(lambda found: found.tokens_per_minute)),
    Metric("migrator_eta_seconds", "Seconds until the backfill is through; left out while unknown.", (),
           one(lambda found: found.eta_seconds)),
    Metric("migrator_batches", "Batches, by state.", ("state",), several(_batches)),
    Metric("migrator_batches_troubled", "Batches whose last attempt failed, by the class of the error.", ("error",),
           lambda found: [((kind,), count) for kind, count in found.troubled.items()]),
    Metric("migrator_dirty_rows", "Rows that wait for a vector of the new (to) or the old (from) generation.",
           ("side",), several(lambda found: {"to": found.dirty_to, "from": found.dirty_from})),
    Metric("migrator_catch_up_rows_per_second", "Rows that become dirty, and rows that catch-up embeds.",
           ("direction",), several(_catch_up)),
    Metric("migrator_not_converging", "1 while rows become dirty faster than they are embedded.", (),
           one(lambda found: found.not_converging)),
    Metric("migrator_cost_usd", "Money, by how sure it is.", ("kind",), several(_cost)),
    Metric("migrator_cost_cap_usd", "The cap that no request may pass.", (),
           one(lambda found: float(found.account.max_usd))),
    Metric("migrator_account_cost_usd", "What migrations of its provider account have committed; told with its cap.",
           (), one(lambda found: None if found.shared_cap is None else float(found.shared_cap.committed_usd))),
    Metric("migrator_account_cost_cap_usd", "The cap that it shares with them; left out where there is none.", (),
           one(lambda found: None if found.shared_cap is None else float(found.shared_cap.max_usd))),
    Metric("migrator_cost_estimated_usd", "What the plan expects, at the lowest and the highest.", ("bound",),
           several(lambda found: {bound: float(found.migration.plan["cost_usd"][bound]) for bound in ("low", "high")})),
    Metric("migrator_tokens", "Tokens: spent, of them by our own count, and for answers that were lost.", ("kind",),
           several(_tokens)),
    Metric("migrator_throttled", "1 for what holds new requests back at the moment.", ("limit",), several(_bound)),
    Metric("migrator_signal_value", "What a database signal says.", ("signal",), _signals("value")),
    Metric("migrator_signal_threshold", "The threshold of a database signal.", ("signal",), _signals("threshold")),
    Metric("migrator_signal_binds", "1 while a database signal holds new requests back, or can't be read.",
           ("signal",), _signals("binds")),
    Metric("migrator_hot_ratio", "Share of HOT updates of the table since the backfill began.", (),
           one(lambda found: found.hot_ratio)),
    Metric("migrator_gate_passed", "1 where a gate passed or was waived.", ("gate",),
           _gates(lambda each: bool(each["passed"] or each["waived_by"]))),
    Metric("migrator_gate_stale", "1 where a gate's verdict does not hold any more.", ("gate",),
           _gates(lambda each: each["stale"] is not None)),
    Metric("migrator_canary_moved", "1 once the same texts came back as other vectors.", (),
           one(lambda found: None if found.canary is None else found.canary.moved_cosine is not None)),
    Metric("migrator_canary_lowest_cosine", "The lowest cosine of any canary text with what it was at first.", (),
           one(lambda found: None if found.canary is None else found.canary.lowest_cosine)),
    Metric("migrator_live_generation", "1 for the generation that readers must use.", ("generation",),
           several(lambda found: {str(found.migration.live_generation): 1.0})),
    Metric("migrator_rollback_window_open", "1 while the way back is open.", (), one(lambda found: found.window_open)),
    Metric("migrator_rollback_debt_rows", "Rows that a rollback would have to embed with the old model.", (),
           one(lambda found: found.dirty_from if found.window_open else 0)),
    Metric("migrator_rollback_debt_usd", "What that would cost.", (),
           one(lambda found: float(progress.debt(found)["debt_usd"]))),
    Metric("migrator_diverted_writes", "Writes of the generation that is not live, in the last 24 hours.",
           ("generation",), several(_diverted)),
    Metric("migrator_suspect_vectors", "Vectors by writers that look like the other generation's.", (),
           one(lambda found: sum(rows for _, _, rows in found.suspects))),
    Metric("migrator_capture_off", "1 while `migrator unblock` has live writes unseen.", (),
           one(lambda found: found.migration.capture_off_at is not None)),
)  # fmt: skip
