"""The table of a migration's history: how far it was, what it had cost, and what held it back, moment by moment.

Floor 1. It belongs to `tables.metadata` and is a file of its own for its size's sake.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Table, Text

from migrator.state.columns import Time, Usd, metadata
from migrator.state.tables import migrations

#: Written by the tick, thinned by `state.samples`. It stays with its migration, like the transitions: a report is made
#: of it long after the cleanup.
samples = Table(
    "samples",
    metadata,
    Column("migration_id", ForeignKey(migrations.c.id), primary_key=True),
    #: 1, 2, 3 ... as they were taken; which of them are kept follows from it.
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Time, nullable=False),
    Column("status", Text, nullable=False),
    #: Rows that batches settled: written, skipped or quarantined. They only ever grow.
    Column("rows_settled", BigInteger, nullable=False),
    #: Rows that catch-up embedded.
    Column("rows_caught_up", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("spent_usd", Usd, nullable=False),
    Column("committed_usd", Usd, nullable=False),
    #: Rows that lack a vector: of the new generation, of the old one.
    Column("dirty_to", BigInteger, nullable=False),
    Column("dirty_from", BigInteger, nullable=False),
    #: pg_stat counters of the table, of all its writers; null where the table was gone.
    Column("updates", BigInteger),
    Column("hot_updates", BigInteger),
    Column("dead_rows", BigInteger),
    #: What kept the work from going faster just then.
    Column("binding", Text),
)
