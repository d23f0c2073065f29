"""The tables that things are counted in: sums, and what came since they were last added up.

Floor 1. They belong to `tables.metadata`. A trigger of `dispositions` writes a line per statement, kind and reason
(migrations/versions/0016); `dispositions.fold` adds the lines to the sums. Diverted writes are lines themselves, which
`strays.fold` adds up by the hour.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Table, Text

from migrator.state.columns import BUSY, Time, metadata
from migrator.state.tables import migrations

disposition_sums = Table(
    "disposition_sums",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("rows", BigInteger, nullable=False),
    **BUSY,
)

#: No key: lines are only added, by whoever, and taken away all together. None waits for another.
disposition_changes = Table(
    "disposition_changes",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    #: Rows that came, less those that went.
    Column("rows", BigInteger, nullable=False),
    **BUSY,
)

#: Diverted writes by the hour in which they came: the last day is a few rows, however busy a forgotten writer is.
stray_sums = Table(
    "stray_sums",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("hour", Time, primary_key=True),
    Column("application", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("generation", Text, primary_key=True),
    Column("writes", BigInteger, nullable=False),
    Column("last_seen", Time, nullable=False),
    **BUSY,
)
