"""What a writing transaction of ours says of itself before it touches the operator's table.

Floor 1. Promise (H3, H4): the fence learns which generation's vectors come, the watch of written vectors that they
were compared with the provider's answer, or are none at all, and the users' own triggers stay silent where the plan
found that they may. It holds until the transaction ends.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.state.migrations import Migration

#: One statement, by whether triggers are silenced: it stands in every landing.
_DECLARE = {
    False: text(
        "SELECT set_config('migrator.generation', :generation, true), set_config('migrator.internal', 'landing', true)"
    ),
    True: text(
        "SELECT set_config('migrator.generation', :generation, true), set_config('migrator.internal', 'landing', true),"
        " set_config('session_replication_role', 'replica', true)"
    ),
}


async def declare(connection: AsyncConnection, migration: Migration, side: Side) -> None:
    """Declare that what is written is of a side's generation; call it once the columns can't change places any more."""
    statement = _DECLARE[bool(migration.plan.get("silence_triggers"))]
    await connection.execute(statement, {"generation": str(migration.generation(side))})
