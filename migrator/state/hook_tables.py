"""The tables of hooks: the outbox of events, and since when something has lasted that becomes one.

Floor 1. They belong to `tables.metadata` and are a file of their own for its size's sake.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Identity, Index, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import UUID

from migrator.events import Channel
from migrator.state.columns import BUSY, Time, metadata, now, one_of
from migrator.state.tables import migrations

#: An event for each channel that it is told by, written in the transaction that it tells of.
hook_events = Table(
    "hook_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    #: What receivers tell a repetition by: the same for both channels and for every try.
    Column("event_id", UUID(as_uuid=False), nullable=False),
    Column("migration_id", ForeignKey(migrations.c.id), nullable=False),
    Column("event", Text, nullable=False),
    Column("channel", Text, nullable=False),
    #: The migration's status then, and why, without a row's key.
    Column("status", Text, nullable=False),
    Column("reason", Text),
    #: What is told once: no second event of a migration has it.
    Column("mark", Text),
    Column("at", Time, nullable=False, server_default=text("clock_timestamp()")),
    #: Grows with every claim; whoever claimed with a smaller number settles nothing.
    Column("tries", Integer, nullable=False, server_default="0"),
    #: When it may be claimed (again).
    Column("not_before", Time, nullable=False, server_default=now),
    Column("told_at", Time),
    Column("given_up_at", Time),
    Column("failure", Text),
    CheckConstraint(one_of("channel", Channel), name="channel_known"),
    # Prevents an event that was told from being called lost.
    CheckConstraint("told_at IS NULL OR given_up_at IS NULL", name="told_or_given_up"),
    Index("hook_events_once", "migration_id", "channel", "mark", unique=True),
    Index("hook_events_due", "not_before", postgresql_where=text("told_at IS NULL AND given_up_at IS NULL")),
    **BUSY,
)

#: Since when something has lasted, as ticks saw it.
hook_watches = Table(
    "hook_watches",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    Column("event", Text, primary_key=True),
    Column("since", Time, nullable=False),
    Column("seen_at", Time, nullable=False),
    Column("told_at", Time),
    **BUSY,
)
