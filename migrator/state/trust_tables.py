"""The tables of what vectors are trusted by: canary, provenance, the rule that tells generations, gates' verdicts.

Floor 1. They belong to `tables.metadata` and are a file of their own for their size's sake.
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
    LargeBinary,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from migrator.generation import Side
from migrator.state.columns import BUSY, Time, metadata, one_of
from migrator.state.tables import migrations

canaries = Table(
    "canaries",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    #: The texts that are asked again and again. Ours, never a row's.
    Column("probes", ARRAY(Text), nullable=False),
    #: Their vectors when the migration began: little-endian float32, probe after probe.
    Column("vectors", LargeBinary, nullable=False),
    #: Whether the old model answered otherwise; null where it could not be asked.
    Column("told_apart", Boolean),
    #: Whether answers are compared with the rows' old vectors; false once an operator signed that some are new already.
    Column("compares_replies", Boolean, nullable=False, server_default=text("true")),
    #: Nothing is sent before it was asked again: set by `resume`.
    Column("demanded", Boolean, nullable=False, server_default=text("false")),
    Column("checks", Integer, nullable=False, server_default="0"),
    #: The lowest cosine of any check that passed.
    Column("lowest_cosine", Float, nullable=False, server_default="1"),
    Column("good_at", Time, nullable=False, server_default=text("clock_timestamp()")),
    #: The oldest transaction id at work when the last good check was sent: it and later ones wrote what is suspect.
    Column("good_xid", BigInteger, nullable=False),
    Column("moved_at", Time),
    Column("moved_cosine", Float),
    # Prevents a canary that moved without saying how far.
    CheckConstraint("(moved_at IS NULL) = (moved_cosine IS NULL)", name="moved_with_cosine"),
    **BUSY,
)

provenances = Table(
    "provenances",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False, index=True),
    #: What was checked: a digest of target, template, scope and old generation; another spec needs another check.
    Column("subject", Text, nullable=False),
    #: fits, misfits, unknown (the old model could not be asked) or skipped.
    Column("outcome", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    #: The page as JSON: shares and row keys, never a text.
    Column("page", JSONB, nullable=False),
    Column("actor", Text, nullable=False),
    Column("waiver", Text),
    Column("at", Time, nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint(one_of("outcome", ["fits", "misfits", "unknown", "skipped"]), name="outcome_known"),
    # Prevents a check that was passed over without a reason.
    CheckConstraint("(outcome = 'skipped') = (waiver IS NOT NULL)", name="skipped_iff_waived"),
)

discriminants = Table(
    "discriminants",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("dims", Integer, nullable=False),
    #: Little-endian float32: direction, both means, then each space's directions (dims x few).
    Column("numbers", LargeBinary, nullable=False),
    #: What direction, old and new space weigh in the score.
    Column("weights", ARRAY(Float), nullable=False),
    Column("gate", Float, nullable=False),
    Column("cut", Float, nullable=False),
    #: Below it a vector of the old generation's column looks like the new one's; null where nobody can vouch for that.
    Column("old_cut", Float),
    Column("old_gate", Float),
    Column("held_out", Integer, nullable=False),
    #: Shares at 95 %: of the old generation's vectors that are missed, of the new one's that are accused.
    Column("miss_bound", Float, nullable=False),
    Column("alarm_bound", Float, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("at", Time, nullable=False, server_default=text("clock_timestamp()")),
)

#: A look at every vector that is under way: how far it is, and what it found until there.
looks = Table(
    "looks",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    #: The swap count it began under; under another one it is begun anew.
    Column("epoch", Integer, nullable=False),
    #: What is looked at: heaps with their pages, the windows' width, the transaction that it began in.
    Column("frame", JSONB, nullable=False),
    #: The rule by which it looks, without the rule itself.
    Column("learnt", JSONB, nullable=False),
    Column("found", JSONB, nullable=False),
    #: Windows that are done.
    Column("done", Integer, nullable=False),
    Column("at", Time, nullable=False, server_default=text("clock_timestamp()")),
    **BUSY,
)

#: What such a look keeps of rows, piece by piece: fingerprint, text's hash and place, 8 bytes each.
look_rows = Table(
    "look_rows",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False, index=True),
    Column("rows", LargeBinary, nullable=False),
)

#: Vectors that the application brought itself, and that nobody has looked at yet: append-only like `dirty`.
written = Table(
    "written",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", BigInteger, nullable=False),
    #: Which generation's column it went to.
    Column("side", String(4), nullable=False),
    Column("key", ARRAY(Text), nullable=False),
    Column("application", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("at", Time, nullable=False, server_default=text("clock_timestamp()")),
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
)

#: Keys of rows that were written while capture was off, until their vectors are taken back. Append-only: the update
#: trigger adds a row's new key where its key changes meanwhile.
unseen = Table(
    "unseen",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", BigInteger, nullable=False),
    Column("key", ARRAY(Text), nullable=False),
    Index("unseen_key", "migration_id", "key"),
)

#: Under `only_embedded`: rows that waited for a vector when they left the scope. Coming back they are owed it, which
#: nothing else of them says: both their vectors are gone.
parked = Table(
    "parked",
    metadata,
    Column("migration_id", BigInteger, primary_key=True),
    Column("key", ARRAY(Text), primary_key=True),
    Column("side", String(4), primary_key=True),
)

#: Those of them that look like the other generation's, until they are written anew, taken back or accepted.
suspects = Table(
    "suspects",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("side", String(4), primary_key=True),
    Column("key", ARRAY(Text), primary_key=True),
    Column("application", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("at", Time, nullable=False, server_default=text("clock_timestamp()")),
    #: When it was looked at last: it may have been mended since.
    Column("looked_at", Time, nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint(one_of("side", Side), name="side_known"),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False, index=True),
    Column("gate", Text, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("figure", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("sample", BigInteger, nullable=False),
    Column("seed", BigInteger, nullable=False),
    #: The swap count it was measured under; another epoch makes it stale.
    Column("epoch", Integer, nullable=False),
    Column("detail", Text, nullable=False),
    Column("waived_by", Text),
    Column("waiver", Text),
    Column("seconds", Float, nullable=False),
    Column("at", Time, nullable=False, server_default=text("clock_timestamp()")),
    #: What was written until then, as far as it tells (`verdicts.Watermark`); null where that could not be read.
    Column("watermark", JSONB(none_as_null=True)),
    #: What the figure was worked out from, for the report's plots: numbers only, never a text or a key of a row.
    Column("evidence", JSONB(none_as_null=True)),
    #: Taken back: somebody asked for a new measurement, whatever its age.
    Column("retired", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint("(waived_by IS NULL) = (waiver IS NULL)", name="waiver_signed"),
)

#: The operator's own queries, as the spec's `[gates] queries` had them when it was planned: workers have no such file.
queries = Table(
    "queries",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    #: Keys of the rows that it must find, each a list of its columns' texts; null where nobody said.
    Column("relevant", JSONB(none_as_null=True)),
)
