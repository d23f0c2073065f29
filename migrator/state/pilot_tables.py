"""The tables of pilots: which rows were drawn, what was paid for them, and what came out.

Floor 1. They belong to `tables.metadata` and are a file of their own for its size's sake.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from migrator.state.columns import Time, metadata, now
from migrator.state.tables import migrations

#: The newest one of a subject counts; one without an outcome is under way, or was killed and is gone on with.
pilots = Table(
    "pilots",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False, index=True),
    #: A digest of what it is about: target, template, scope, both models. Another spec needs another pilot.
    Column("subject", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    #: Rows that were asked for.
    Column("wanted", Integer, nullable=False),
    #: The drawn rows: [key, stratum, how many rows it stands for].
    Column("sample", JSONB, nullable=False),
    #: Billed over estimated, with what else the plan is mended by (`planning.calibration`); null while under way.
    Column("calibration", JSONB(none_as_null=True)),
    #: The page that was printed, without a text of a row or a query; null while under way.
    Column("page", JSONB(none_as_null=True)),
    Column("actor", Text, nullable=False),
    Column("began_at", Time, nullable=False, server_default=now),
    Column("finished_at", Time),
    # Prevents a pilot that counts as done and says nothing.
    CheckConstraint("(finished_at IS NULL) = (page IS NULL)", name="finished_iff_told"),
)

#: What was paid for, kept until `start`, so that a pilot that was killed, or is run again, pays for nothing twice.
pilot_vectors = Table(
    "pilot_vectors",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    #: A digest of the model as it was asked: name, dimensions, endpoint.
    Column("model", Text, primary_key=True),
    #: sha256 of the text that was sent.
    Column("text_hash", LargeBinary, primary_key=True),
    #: Little-endian single floats; null where the provider would not embed it, and then why.
    Column("vector", LargeBinary),
    Column("reason", Text),
    #: The request it was billed with, and its part of that bill by our own count; null where it was refused, or the
    #: provider told no usage. Unit: tokens.
    Column("request", Text),
    Column("tokens", Float, nullable=False),
    CheckConstraint("(vector IS NULL) = (reason IS NOT NULL)", name="vector_or_reason"),
)
