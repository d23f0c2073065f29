"""Which migrations at rest still have something to be tidied up: one statement for all of them, every few seconds.

Floor 1. Promise: a lease that is held, a request whose outcome is not known and a diverted write that is not added up
are never overlooked; a deployment at rest asks for little else.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.tables import SCHEMA

_QUERY = text(
    f"""
SELECT m.id FROM unnest(CAST(:ids AS bigint[])) AS m (id)
 WHERE EXISTS (SELECT FROM {SCHEMA}.batches AS b WHERE b.migration_id = m.id AND b.status = 'leased')
    OR EXISTS (SELECT FROM {SCHEMA}.duties AS d WHERE d.migration_id = m.id AND d.status = 'leased')
    OR EXISTS (SELECT FROM {SCHEMA}.reservations AS r WHERE r.migration_id = m.id AND NOT r.possibly_billed)
    OR EXISTS (SELECT FROM {SCHEMA}.strays AS s WHERE s.migration_id = m.id)
"""  # noqa: S608 # nosec B608 - our own schema's name
)


async def among(connection: AsyncConnection, migration_ids: Sequence[int]) -> frozenset[int]:
    """Return those of the migrations that a tick has to look after, though nobody carries them on."""
    if not migration_ids:
        return frozenset()
    return frozenset((await connection.execute(_QUERY, {"ids": list(migration_ids)})).scalars())
