"""Hands: which rows the holders of batches have read and are embedding, so that nobody else pays for them too.

Floor 1. Promise (P2): a row that the application moves to another page while a batch has it in hand is found in that
page's window as well; whoever finds it second leaves it to the first. It is a hint for the bill alone: a row that is
left by mistake (two hashes alike, a holder that dies) is found by the next pass.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format
from sqlalchemy import any_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import UserDefinedType

from migrator.state.connection import driver
from migrator.state.leases import Lease
from migrator.state.tables import batches

Key = tuple[str, ...]
#: Bytes of a key's hash: what a bigint holds; and the same on the wire, behind its length.
_HASH_BYTES = 8
_LENGTH = _HASH_BYTES.to_bytes(4, "big")
#: PostgreSQL's array_send: dimensions, whether there are NULLs, the elements' type, their number, the first's index.
_HEADER = struct.Struct(">iiIii")
_BIGINT = psycopg.postgres.types["int8"]


@dataclass(frozen=True, slots=True)
class Hand:
    """Keys and their hashes, made once for both questions below."""

    keys: Sequence[Key]
    #: A bigint[] on the wire: numbers made one by one, twice for each row, were a tenth of what a batch costs Python.
    data: bytes

    @classmethod
    def of(cls, keys: Sequence[Key]) -> Hand:
        """Hash the keys."""
        header = _HEADER.pack(1, 0, _BIGINT.oid, len(keys), 1) if keys else _HEADER.pack(0, 0, _BIGINT.oid, 0, 0)[:12]
        return cls(keys, header + b"".join([_LENGTH + _hash(key) for key in keys]))


def _hash(key: Key) -> bytes:
    # No text of PostgreSQL holds a zero byte.
    return hashlib.sha256("\0".join(key).encode()).digest()[:_HASH_BYTES]


class _HandDumper(Dumper):
    format = Format.BINARY
    oid = _BIGINT.array_oid

    def dump(self, obj: Hand) -> bytes:
        return obj.data


class _AsItIs(UserDefinedType[Hand]):
    """What SQLAlchemy hands to the driver untouched."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "bigint[]"


async def _register(connection: AsyncConnection) -> None:
    """Teach this one connection: the engine copied what all of them know when it was made, maybe before this module."""
    (await driver(connection)).adapters.register_dumper(Hand, _HandDumper)


async def take(connection: AsyncConnection, lease: Lease, hand: Hand) -> None:
    """Write down what the holder of a batch is about to embed, in the transaction that read it."""
    await _register(connection)
    await connection.execute(
        update(batches)
        .where(batches.c.id == lease.row_id, batches.c.fence == lease.fence)
        .values(in_hand=bindparam("hand", hand, type_=_AsItIs()))
    )


async def others(connection: AsyncConnection, migration_id: int, lease: Lease, hand: Hand) -> frozenset[Key]:
    """Return which of these rows the holder of another batch has in hand.

    To be asked after `take` was committed: of two who read one row at once, one at least then sees the other.
    """
    await _register(connection)
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
    mine = bindparam("mine", hand, type_=_AsItIs())
    found = set((await connection.execute(select(theirs.c.hash).where(theirs.c.hash == any_(mine)))).scalars())
    if not found:
        return frozenset()
    return frozenset(key for key in hand.keys if int.from_bytes(_hash(key), "big", signed=True) in found)
