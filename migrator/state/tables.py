"""The tables of schema `migrator`, in the target's own database, so that vectors and checkpoint commit together.

Floor 1. Promise: what must never be false is a constraint here, each with a comment on what it prevents.
`migrations/` makes the same tables (a test compares them). Times are the database's, statuses are text.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from migrator.generation import Side
from migrator.lifecycle import FINAL, OPEN, PAUSABLE, MigrationStatus
from migrator.state.columns import BUSY as _BUSY
from migrator.state.columns import SCHEMA, metadata
from migrator.state.columns import Time as _Time
from migrator.state.columns import Usd as _Usd
from migrator.state.columns import lease_checks as _lease_checks
from migrator.state.columns import lease_columns as _lease_columns
from migrator.state.columns import now as _now
from migrator.state.columns import one_of as _one_of

#: Raised when the meaning of a stored row changes; an older or newer tool then refuses it by name.
FORMAT_VERSION = 1

__all__ = ["SCHEMA", "metadata"]

migrations = Table(
    "migrations",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("target_schema", Text, nullable=False),
    Column("target_table", Text, nullable=False),
    Column("target_column", Text, nullable=False),
    Column("shadow_column", Text, nullable=False),
    Column("key_columns", ARRAY(Text), nullable=False),
    Column("key_types", ARRAY(Text), nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("plan", JSONB, nullable=False),
    #: What the catalog said about the target when it was planned: {part: text}.
    Column("fingerprint", JSONB, nullable=False),
    Column("from_generation", Text, nullable=False),
    Column("to_generation", Text, nullable=False),
    #: Which generation the column of the target's own name holds. Moves in the swap's own transaction.
    Column("live_side", Text, nullable=False, server_default=Side.FROM.value),
    #: Swaps so far. A writer that resolved its column under another epoch must not write (H4).
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("status", Text, nullable=False),
    Column("paused_from", Text),
    Column("reason", Text),
    Column("since", _Time, nullable=False, server_default=_now),
    Column("format_version", Integer, nullable=False),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("windows", ARRAY(Text), nullable=False, server_default="{}"),
    #: Thresholds that were changed live, over the spec's table [throttle].
    Column("throttle", JSONB, nullable=False, server_default="{}"),
    #: When every signal was read last, and until when somebody who is reading them has the turn.
    Column("signals_at", _Time),
    Column("signals_until", _Time),
    #: What keeps the work from going faster at the moment, in one line; null when nothing does.
    Column("binding", Text),
    Column("binding_at", _Time),
    Column("pass_number", Integer, nullable=False, server_default="0"),
    #: Counted by the last proof, in the same statement that proved: rows of the table, and with a vector.
    Column("proved_rows", BigInteger),
    Column("proved_embedded", BigInteger),
    Column("proved_filtered", BigInteger),
    #: Snapshots that are older may not see every vector: cutover waits for them.
    Column("proved_at", _Time),
    #: Passes in a row that found rows and wrote none: the way to tell a table that can't be finished.
    Column("idle_passes", Integer, nullable=False, server_default="0"),
    #: Rows that were settled and quarantined when too many were: {settled, quarantined}; `resume` counts from there.
    Column("quarantine_seen", JSONB),
    #: The server's timeline when it was started: another one means that a failover may have rolled back what this
    #: schema remembers (H27). Null until a tick saw one, and after `resume` accepted the change.
    Column("timeline", Integer),
    #: Whether the rollback debt is settled as it comes, while the window is open.
    Column("keep_fresh", Boolean, nullable=False, server_default=text("false")),
    #: The live column's NOT NULL, by its name, while a swap has taken it off: cleanup puts it back.
    Column("not_null", Text),
    #: When an operator took the capture off, and the oldest transaction that may have written unseen since.
    Column("capture_off_at", _Time),
    Column("capture_off_xid", BigInteger),
    #: Raised whenever capture is taken off or put on: whoever acts on an older turn was overtaken.
    Column("capture_turn", BigInteger, nullable=False, server_default="0"),
    #: Whose sessions write which generation where they declare none themselves: {role: generation}.
    Column("writers", JSONB, nullable=False, server_default="{}"),
    #: pg_stat counters when the backfill began: {updates, hot_updates}.
    Column("write_baseline", JSONB),
    Column("started_at", _Time),
    Column("finished_at", _Time),
    Column("created_at", _Time, nullable=False, server_default=_now),
    CheckConstraint(_one_of("status", MigrationStatus), name="status_known"),
    CheckConstraint(_one_of("live_side", Side), name="live_side_known"),
    # Prevents a pause that `resume` could not lead back from.
    CheckConstraint(
        "(status = 'paused') = (paused_from IS NOT NULL)"
        f" AND (paused_from IS NULL OR {_one_of('paused_from', PAUSABLE)})",
        name="paused_from_iff_paused",
    ),
    # Prevents readers being told of a generation that the status contradicts.
    CheckConstraint(
        "status NOT IN ('planned', 'backfilling', 'indexing', 'validating', 'ready', 'rolled_back', 'cancelled')"
        f" OR live_side = '{Side.FROM.value}'",
        name="old_is_live_before_cutover",
    ),
    CheckConstraint(f"status <> 'completed' OR live_side = '{Side.TO.value}'", name="new_is_live_after_cutover"),
    CheckConstraint(f"({_one_of('status', FINAL)}) = (finished_at IS NOT NULL)", name="finished_iff_final"),
    # Prevents a step that builds on what nobody saw being written.
    CheckConstraint(
        "(capture_off_at IS NULL) = (capture_off_xid IS NULL) AND (capture_off_at IS NULL"
        " OR status IN ('paused', 'rolled_back', 'cancelled', 'cleaning', 'cleaned'))",
        name="capture_off_rests",
    ),
    CheckConstraint("cardinality(key_columns) = cardinality(key_types)", name="key_columns_typed"),
    CheckConstraint("from_generation <> to_generation", name="generations_differ"),
)

# Prevents two migrations from writing the same column: one open migration per target column.
Index(
    "migrations_one_open_per_target",
    migrations.c.target_schema,
    migrations.c.target_table,
    migrations.c.target_column,
    unique=True,
    postgresql_where=text(_one_of("status", OPEN)),
)

transitions = Table(
    "transitions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False, index=True),
    Column("from_status", Text),
    #: Equal to from_status in a note: something worth telling that moved nothing (a failed cutover try).
    Column("to_status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", _Time, nullable=False, server_default=text("clock_timestamp()")),
)

batches = Table(
    "batches",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False),
    Column("number", Integer, nullable=False),
    Column("pass_number", Integer, nullable=False),
    #: The heap the pages belong to: a partition's own oid, and its relfilenode when the window was planned.
    Column("relation_oid", BigInteger, nullable=False),
    Column("relation_file", BigInteger, nullable=False),
    Column("first_page", BigInteger, nullable=False),
    Column("last_page", BigInteger, nullable=False),
    #: Line pointers inside the first and the last page, where a batch was split inside one; null is the page's end.
    Column("first_item", Integer, nullable=False, server_default="0"),
    Column("last_item", Integer),
    *_lease_columns(),
    #: Hashes of the keys that the holder is embedding: 8 bytes each, null when it is done. Kept out of line.
    Column("in_hand", ARRAY(BigInteger)),
    #: Done, and added to `tallies`: nothing counts it again.
    Column("folded", Boolean, nullable=False, server_default=text("false")),
    Column("rows_written", BigInteger, nullable=False, server_default="0"),
    Column("rows_skipped", BigInteger, nullable=False, server_default="0"),
    Column("rows_quarantined", BigInteger, nullable=False, server_default="0"),
    Column("tokens", BigInteger, nullable=False, server_default="0"),
    Column("finished_at", _Time),
    *_lease_checks(),
    CheckConstraint("0 <= first_page AND first_page <= last_page", name="window_not_empty"),
    CheckConstraint("(status = 'done') = (finished_at IS NOT NULL)", name="finished_iff_done"),
    Index("batches_number", "migration_id", "number", unique=True),
    Index("batches_pending", "migration_id", "id", postgresql_where=text("status = 'pending'")),
    # Not on lease_until: renewals must stay HOT.
    Index("batches_leased", "migration_id", postgresql_where=text("status = 'leased'")),
    Index("batches_ticketed", "migration_id", postgresql_where=text("status = 'pending' AND ticket_until IS NOT NULL")),
    # What somebody had in hand and `tallies` does not hold yet: all that counting has to read, whatever is planned.
    Index(
        "batches_touched", "migration_id", postgresql_where=text("NOT folded AND (status <> 'pending' OR fence > 0)")
    ),
    Index("batches_finished", "migration_id", "finished_at", postgresql_where=text("status = 'done'")),
    **_BUSY,
)

#: How many batches a migration has, and the sums over those that are done: so that a million of them are counted by
#: reading one row and what is in hand.
tallies = Table(
    "tallies",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("total", BigInteger, nullable=False, server_default="0"),
    Column("done", BigInteger, nullable=False, server_default="0"),
    Column("rows_written", BigInteger, nullable=False, server_default="0"),
    Column("rows_skipped", BigInteger, nullable=False, server_default="0"),
    Column("rows_quarantined", BigInteger, nullable=False, server_default="0"),
    Column("tokens", BigInteger, nullable=False, server_default="0"),
    **_BUSY,
)

duties = Table(
    "duties",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False),
    #: Work that one holder at a time does for the whole migration (see `state.leases.Duty`).
    Column("duty", Text, nullable=False),
    *_lease_columns(),
    #: Rows that catch-up embedded, since the beginning.
    Column("rows_embedded", BigInteger, nullable=False, server_default="0"),
    *_lease_checks(),
    Index("duties_one_each", "migration_id", "duty", unique=True),
    **_BUSY,
)

#: Append-only, and without a foreign key or a unique key, so that the application's INSERT into it, made by the
#: capture trigger, can never conflict, wait or fail. A row is a hint: "this key may lack that side's vector".
dirty = Table(
    "dirty",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", BigInteger, nullable=False),
    Column("side", String(4), nullable=False),
    Column("key", ARRAY(Text), nullable=False),
    Column("at", _Time, nullable=False, server_default=text("clock_timestamp()")),
    #: Tries of this hint alone that ended in silence, on the side of the old generation, which has no dispositions.
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Index("dirty_key", "migration_id", "key"),
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
)

#: Catch-up's backlog and what it had embedded, seen by the tick every few seconds and kept for two minutes: what rates
#: are told from, and whether it converges.
flows = Table(
    "flows",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False, index=True),
    Column("backlog", BigInteger, nullable=False),
    Column("embedded", BigInteger, nullable=False),
    Column("at", _Time, nullable=False, server_default=text("clock_timestamp()")),
    **_BUSY,
)

#: Vectors that a session of the other generation wrote to the live column: append-only like `dirty`.
strays = Table(
    "strays",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", BigInteger, nullable=False),
    #: The generation that was written: whoever writes the live one is no stray any more.
    Column("generation", Text, nullable=False),
    Column("application", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("at", _Time, nullable=False, server_default=text("clock_timestamp()")),
)

dispositions = Table(
    "dispositions",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("key", ARRAY(Text), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="1"),
    Column("at", _Time, nullable=False, server_default=_now),
    CheckConstraint(_one_of("kind", ["skipped", "quarantined", "truncated"]), name="kind_known"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("max_usd", _Usd, nullable=False),
    #: Reserved + spent + possibly billed, over all purposes: the sum that never passes max_usd (P7).
    Column("committed_usd", _Usd, nullable=False, server_default="0"),
    # Prevents a refund that was never charged.
    CheckConstraint("committed_usd >= 0", name="never_negative"),
    **_BUSY,
)

ledger = Table(
    "ledger",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("purpose", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False, server_default="0"),
    Column("spent_tokens", BigInteger, nullable=False, server_default="0"),
    #: Of `spent_tokens`, those of replies that told no usage: our own count, an upper bound.
    Column("estimated_tokens", BigInteger, nullable=False, server_default="0"),
    #: Of `spent_tokens`, those of answers whose vectors were lost with a lease or a connection: asked again.
    Column("unwritten_tokens", BigInteger, nullable=False, server_default="0"),
    Column("spent_usd", _Usd, nullable=False, server_default="0"),
    **_BUSY,
)

reservations = Table(
    "reservations",
    metadata,
    #: Sent to the provider as X-Request-Id, so that its bill and ours can be laid side by side.
    Column("id", Text, primary_key=True),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False, index=True),
    Column("purpose", Text, nullable=False),
    #: An upper bound of what the request can cost, at the highest price.
    Column("tokens", BigInteger, nullable=False),
    Column("usd", _Usd, nullable=False),
    #: Whose request it is ("batch:17#3": kind, id, fence); a rescue of that lease makes it possibly billed.
    Column("lease", Text, nullable=False, index=True),
    #: True once its outcome can't be known any more: it stays counted for good.
    Column("possibly_billed", Boolean, nullable=False, server_default=text("false")),
    #: True where the reply told no usage: what will be settled is our own count.
    Column("estimated", Boolean, nullable=False, server_default=text("false")),
    Column("at", _Time, nullable=False, server_default=_now),
    **_BUSY,
)

paces = Table(
    "paces",
    metadata,
    #: Host, key and model in one digest: what the provider counts its limits by (H28).
    Column("account", Text, primary_key=True),
    #: Who keeps the pace (`spending.pacing`): the name of a Redis memory, or null for the columns below.
    Column("keeper", Text),
    Column("keeper_at", _Time),
    #: The theoretical arrival times of a generic cell rate algorithm, one per limit.
    Column("requests_at", _Time, nullable=False),
    Column("tokens_at", _Time, nullable=False),
    #: When sending began after a minute's rest, and what was sent lately: decaying counts as of counted_at.
    Column("started_at", _Time, nullable=False, server_default=_now),
    Column("counted_at", _Time, nullable=False, server_default=_now),
    Column("recent_requests", Float, nullable=False, server_default="0"),
    Column("recent_tokens", Float, nullable=False, server_default="0"),
    Column("pause_until", _Time, nullable=False),
    Column("pause_reason", Text),
    #: Limits learnt from the provider's own refusals; null until it spoke.
    Column("max_texts", Integer),
    Column("max_text_tokens", Integer),
    Column("max_request_tokens", Integer),
    #: How long this model's vectors were found to be, by dimensions; 0 where each has a length of its own.
    Column("norms", JSONB, nullable=False, server_default=text("'{}'")),
    #: Per minute, as they were after the last 429 that named them; time raises them again.
    *(Column(f"{limit}_ceiling", Float) for limit in ("requests", "tokens")),
    *(Column(f"{limit}_lowered_at", _Time) for limit in ("requests", "tokens")),
    #: Outcomes since counting_since, and who failed; then the breaker itself, null while it is closed.
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("answers", Integer, nullable=False, server_default="0"),
    Column("failing", ARRAY(Text), nullable=False, server_default="{}"),
    Column("counting_since", _Time),
    Column("breaker_since", _Time),
    Column("breaker_reason", Text),
    Column("probe_at", _Time),
    # Prevents an open breaker that nothing could ever close.
    CheckConstraint(
        "(breaker_since IS NULL) = (probe_at IS NULL) AND (breaker_since IS NULL) = (breaker_reason IS NULL)",
        name="open_breaker_has_a_probe",
    ),
    **_BUSY,
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("version", Text, nullable=False),
    #: Names of the key variables that are set there; never their values.
    Column("keys_present", ARRAY(Text), nullable=False),
    Column("last_seen", _Time, nullable=False, server_default=_now),
)

#: For `status` and LISTEN only: readers' functions carry the generation as a constant (H10).
live = Table(
    "live",
    metadata,
    Column("target_schema", Text, primary_key=True),
    Column("target_table", Text, primary_key=True),
    Column("target_column", Text, primary_key=True),
    Column("generation", Text, nullable=False),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False),
    Column("since", _Time, nullable=False, server_default=_now),
)
