"""Hands: which rows the holders of batches have read and are embedding, so that nobody else pays for them too.

Floor 1. Promise (P2): a row that the application moves to another page while a batch has it in hand is found in that
page's window as well; whoever finds it second leaves it to the first. It is a hint for the bill alone: a row that is
left by mistake (two hashes alike, a holder that dies) is found by the next pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import ARRAY, BigInteger, any_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.leases import Lease
from migrator.state.tables import batches

Key = tuple[str, ...]
#: Bytes of a key's hash: what a bigint holds.
_HASH_BYTES = 8


def _hash(key: Key) -> int:
    # No text of PostgreSQL holds a zero byte.
    digest = hashlib.sha256("\0".join(key).encode()).digest()
    return int.from_bytes(digest[:_HASH_BYTES], "big", signed=True)


async def take(connection: AsyncConnection, lease: Lease, keys: Sequence[Key]) -> None:
    """Write down what the holder of a batch is about to embed, in the transaction that read it."""
    await connection.execute(
        update(batches)
        .where(batches.c.id == lease.row_id, batches.c.fence == lease.fence)
        .values(in_hand=[_hash(key) for key in keys])
    )


async def others(connection: AsyncConnection, migration_id: int, lease: Lease, keys: Sequence[Key]) -> frozenset[Key]:
    """Return which of these rows the holder of another batch has in hand.

    To be asked after `take` was committed: of two who read one row at once, one at least then sees the other.
    """
    hashes = {_hash(key): key for key in keys}
    theirs = (
        select(func.unnest(batches.c.in_hand).label("hash"))
        .where(
            batches.c.migration_id == migration_id,
            batches.c.status == "leased",
            batches.c.lease_until > func.clock_timestamp(),
            batches.c.id != lease.row_id,
        )
        .subquery()
    )
    mine = bindparam("mine", list(hashes), type_=ARRAY(BigInteger))
    found = await connection.execute(select(theirs.c.hash).where(theirs.c.hash == any_(mine)))
    return frozenset(hashes[each] for each in found.scalars())
