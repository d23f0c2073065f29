"""What a writing transaction of ours says of itself before it touches the operator's table.

Floor 1. Promise (H3, H4): the fence learns which generation's vectors come, the watch of written vectors that they
were compared with the provider's answer, or are none at all, and the users' own triggers stay silent where the plan
found that they may. It holds until the transaction ends.
"""

from __future__ import annotations

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.state.connection import Statement, run
from migrator.state.migrations import Migration

#: One statement, by whether triggers are silenced: it stands in every landing.
_DECLARE = {
    False: sql.SQL(
        "SELECT set_config('migrator.generation', %(generation)s, true),"
        " set_config('migrator.internal', 'landing', true)"
    ),
    True: sql.SQL(
        "SELECT set_config('migrator.generation', %(generation)s, true),"
        " set_config('migrator.internal', 'landing', true), set_config('session_replication_role', 'replica', true)"
    ),
}


def declaring(migration: Migration, side: Side) -> Statement:
    """Return the statement that declares that what is written is of a side's generation, in whichever column."""
    values = {"generation": str(migration.generation(side))}
    return _DECLARE[bool(migration.plan.get("silence_triggers"))], values


async def declare(connection: AsyncConnection, migration: Migration, side: Side) -> None:
    """Declare that what is written is of a side's generation."""
    await run(connection, *declaring(migration, side))
