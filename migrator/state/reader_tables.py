"""The table of readers: which applications search a column, and what each can embed its queries with.

Floor 1. It belongs to `tables.metadata` and is a file of its own for its size's sake.
"""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, Column, Identity, Table, Text, text

from migrator.state.columns import Time, metadata

#: Signs of life, written by applications through migrator.reader_ready (target/readers.sql). Append-only, and without a
#: foreign key or a unique key, like `dirty`: it is written in transactions of theirs, at any isolation level.
readers = Table(
    "readers",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("migration_id", BigInteger, nullable=False),
    Column("application", Text, nullable=False),
    Column("role", Text, nullable=False),
    #: Which of the application's processes; what it said last counts.
    Column("instance", Text, nullable=False),
    #: Those of the migration's two generations that it can embed queries with.
    Column("generations", ARRAY(Text), nullable=False),
    Column("last_seen", Time, nullable=False, index=True, server_default=text("clock_timestamp()")),
)
