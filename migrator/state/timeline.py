"""The server's timeline: the part of every fence that a failover can't roll back (H27).

Floor 1. Promise: after a standby was promoted, nothing that was claimed before can be committed, even where the fence
that had grown was lost with the old server and grew again for somebody else.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

#: 0 where the server does not tell: some hosted ones hide their write-ahead log. A function, so that every fenced
#: statement can compare it, at the cost of a look into shared memory. The control file would know it only after the
#: promoted server's first checkpoint.
FUNCTION = """
CREATE OR REPLACE FUNCTION migrator.timeline() RETURNS integer LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer;
EXCEPTION WHEN feature_not_supported OR insufficient_privilege OR object_not_in_prerequisite_state THEN
    RETURN 0;
END $$
"""

now = func.migrator.timeline()


async def read(connection: AsyncConnection) -> int:
    """Return the server's timeline, 0 where it is not known."""
    return int((await connection.execute(select(now))).scalar_one())
