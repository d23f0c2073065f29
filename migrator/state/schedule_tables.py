"""The table of schedules.

Floor 1. It belongs to `tables.metadata` and is a file of its own for its size's sake.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, SmallInteger, Table, Text

from migrator.state.columns import Time, metadata
from migrator.state.tables import migrations

#: A few levels are enough to order a few migrations, below the default and above it.
LOWEST_PRIORITY, HIGHEST_PRIORITY = -9, 9

#: Written by `migrator schedule`; no row means: at once, and nothing is resumed by itself.
schedules = Table(
    "schedules",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    #: No bulk work before.
    Column("not_before", Time),
    #: "08:00 Asia/Shanghai": when what came to rest by a limit is tried again, each day.
    Column("resume_daily", Text),
    #: When that was done last, or asked for: earlier times of the day are over.
    Column("resumed_at", Time),
    #: Who is offered work first, among migrations that ask one provider account: the highest.
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    # Prevents a priority that `migrator schedule` could not set.
    CheckConstraint(f"priority BETWEEN {LOWEST_PRIORITY} AND {HIGHEST_PRIORITY}", name="priority_small"),
)
