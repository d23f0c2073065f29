"""The table of what the database said against more work, signal by signal.

Floor 1. It belongs to `tables.metadata` and is a file of its own for its size's sake.
"""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, Float, ForeignKey, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from migrator.state.columns import BUSY, Time, metadata
from migrator.state.tables import migrations

#: One row per migration and signal: what the last reading said. Workers look here instead of into the catalogs.
signals = Table(
    "signals",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("signal", Text, primary_key=True),
    Column("value", Float),
    Column("threshold", Float, nullable=False),
    #: Whether new requests wait because of it.
    Column("binds", Boolean, nullable=False),
    #: Who or what it is about: a standby's name, a pid.
    Column("detail", Text, nullable=False),
    #: Why it could not be read.
    Column("problem", Text),
    #: What the next reading is compared with.
    Column("memory", JSONB, nullable=False, server_default="{}"),
    Column("at", Time, nullable=False),
    # Prevents a signal that can't be read from letting work through.
    CheckConstraint("problem IS NULL OR binds", name="unread_binds"),
    **BUSY,
)
