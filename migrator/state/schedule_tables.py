"""The table of schedules.

Floor 1. It belongs to `tables.metadata` and is a file of its own for its size's sake.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Table, Text

from migrator.state.columns import Time, metadata
from migrator.state.tables import migrations

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
)
