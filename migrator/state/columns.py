"""What the tables share: the schema, its naming, and the columns of a right to work, limited in time.

Floor 1. Promise: batches and duties are leased by the same columns under the same checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    Text,
    event,
    text,
)

from migrator.state import timeline

SCHEMA = "migrator"
metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ck": "%(table_name)s_%(constraint_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    },
)

event.listen(metadata, "after_create", DDL(timeline.FUNCTION))  # type: ignore[no-untyped-call]

Time = DateTime(timezone=True)
Usd = Numeric(20, 10)
now = text("now()")
#: Rows of these tables are updated in place for days: room on the page keeps the updates HOT, and vacuum comes
#: after 1,000 dead rows whatever the table's size.
BUSY: dict[str, Any] = {
    "postgresql_with": {
        "fillfactor": 50,
        "autovacuum_vacuum_scale_factor": 0.01,
        "autovacuum_vacuum_threshold": 1000,
    }
}


def one_of(column: str, values: Iterable[str]) -> str:
    """Return the condition that a column holds one of these words."""
    words = ", ".join(f"'{value}'" for value in sorted(values))
    return f"{column} IN ({words})"


def lease_columns() -> list[Column[Any]]:
    """Return the columns of a right to work, limited in time: the same for batches and duties (`state.leases`)."""
    return [
        Column("status", Text, nullable=False, server_default="pending"),
        Column("holder", Text),
        Column("leased_at", Time),
        Column("lease_until", Time),
        #: A ticket for it was given to the broker and need not be given again before then.
        Column("ticket_until", Time),
        #: Grows by one with every claim; whoever holds an older number holds nothing.
        Column("fence", BigInteger, nullable=False, server_default="0"),
        Column("attempts", Integer, nullable=False, server_default="0"),
        #: Attempts that ended in silence: the lease ran out and nobody said why. Work that kills its worker shows here.
        Column("deaths", Integer, nullable=False, server_default="0"),
        Column("not_before", Time),
        Column("failure", Text),
    ]


def lease_checks() -> list[CheckConstraint]:
    """Return what must never be false of them."""
    return [
        CheckConstraint(one_of("status", ["pending", "leased", "done", "failed"]), name="status_known"),
        # Prevents a lease that nobody holds, and a holder whose right never ends.
        CheckConstraint(
            "(status = 'leased') = (holder IS NOT NULL) AND (holder IS NULL) = (lease_until IS NULL)",
            name="leased_iff_held",
        ),
    ]
