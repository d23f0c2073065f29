"""Page lanes: which rows lack a vector, in which order they are embedded, and how a vector gets into its row.

Floor 1. Promise (P5, H4, H17, H19): a vector lands only in a row whose text is still the one that was embedded, never
over another vector, and never makes the application wait or deadlock. Lane order puts rows of one heap page into
different transactions, so that pruning frees the room that the next update of the page needs (HOT).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.state.connection import driver, fetch, run
from migrator.statements import compose
from migrator.target import vectors
from migrator.target.relation import Target

_FILE = "target/lanes.sql"


@dataclass(frozen=True, slots=True)
class Row:
    """A row to be embedded: its key as texts, and the text composed by the template."""

    key: tuple[str, ...]
    body: str
    all_null: bool

    @property
    def text_hash(self) -> bytes:
        """The sha256 of the composed text, which must still hold when the vector is written."""
        return hashlib.sha256(self.body.encode()).digest()


@dataclass(frozen=True, slots=True)
class KnownRow:
    """A row named by `dirty`, as it stands now."""

    row: Row
    missing: bool
    in_scope: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """What one statement over the whole table found."""

    rows: int
    embedded: int
    missing: int


@dataclass(frozen=True, slots=True)
class Lanes:
    """One column of one target, as rows are read from it and written to it under one epoch."""

    target: Target
    column: str
    #: The column that holds the old generation, which `only_embedded` looks at.
    from_column: str
    vector_schema: str
    type_name: str

    def _parts(self) -> Mapping[str, sql.Composable]:
        target = self.target
        arrays, names = target.key_arrays()
        return {
            "table": target.table_id,
            "column": sql.Identifier(self.column),
            "key": target.key_of("t"),
            "text": target.text_of("t"),
            "all_null": target.all_null("t"),
            "in_scope": target.in_scope("t", self.from_column),
            "key_arrays": arrays,
            "key_names": names,
            "key_equals": target.key_equals("t", "v"),
            "type": sql.Identifier(self.vector_schema, self.type_name),
        }

    async def lock_table(self, connection: AsyncConnection) -> None:
        """Take the lock that keeps every swap out until this transaction ends (H4)."""
        await run(connection, compose(_FILE, "lock_table", self._parts()))

    async def read_window(
        self, connection: AsyncConnection, migration_id: int, first_page: int, last_page: int
    ) -> list[Row]:
        """Return the rows of pages first..last that have no vector and no disposition, in lane order."""
        values = {"first": f"({first_page},0)", "beyond": f"({last_page + 1},0)", "migration_id": migration_id}
        rows = await fetch(connection, compose(_FILE, "read_window", self._parts()), values)
        return [Row(tuple(row["key"]), row["body"], row["all_null"]) for row in rows]

    async def read_keys(self, connection: AsyncConnection, keys: Sequence[tuple[str, ...]]) -> list[KnownRow]:
        """Return the rows of these keys that still exist, as they stand now."""
        rows = await fetch(connection, compose(_FILE, "read_keys", self._parts()), self.target.key_values(list(keys)))
        return [
            KnownRow(Row(tuple(row["key"]), row["body"], row["all_null"]), row["missing"], row["in_scope"])
            for row in rows
        ]

    async def write(
        self, connection: AsyncConnection, rows: Sequence[Row], embedded: NDArray[np.float32]
    ) -> list[tuple[str, ...]]:
        """Write vectors by compare-and-set; returns the keys of the rows that took theirs.

        Shape: len(rows) x dims.   Locks: the rows, until commit.
        """
        await vectors.register(await driver(connection), self.vector_schema)
        values: dict[str, Any] = {
            **self.target.key_values([row.key for row in rows]),
            "hashes": [row.text_hash for row in rows],
            "vectors": vectors.encode(embedded, self.type_name),
        }
        written = await fetch(connection, compose(_FILE, "write_rows", self._parts()), values)
        return [tuple(row["key"]) for row in written]

    async def prove(self, connection: AsyncConnection, migration_id: int, side: Side) -> Proof:
        """Look for a forgotten row in one statement, after pruning what no row stands behind."""
        values = {"migration_id": migration_id, "side": side.value}
        await run(connection, compose(_FILE, "prune_dispositions", self._parts()), values)
        return Proof(**(await fetch(connection, compose(_FILE, "proof", self._parts()), values))[0])


async def write_counters(connection: AsyncConnection, oid: int) -> dict[str, int]:
    """Return the table's update counters."""
    rows = await fetch(connection, compose(_FILE, "write_counters"), {"oid": oid})
    return rows[0] if rows else {"inserts": 0, "updates": 0, "hot_updates": 0, "dead_rows": 0, "live_rows": 0}


async def page_count(connection: AsyncConnection, target: Target) -> tuple[int, int, int]:
    """Return (oid, file, pages) of the table's heap now."""
    name = sql.Literal(f"{_quoted(target.schema)}.{_quoted(target.table)}")
    row = (await fetch(connection, compose(_FILE, "page_count", {"table_name": name})))[0]
    return row["oid"], row["file"], row["pages"]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
