"""Page lanes: which rows lack a vector, in which order they are embedded, and how a vector gets into its row.

Floor 1. Promise (P5, H4, H17, H19): a vector lands only in a row whose text is still the one that was embedded, never
over another vector, and never makes the application wait or deadlock. Lane order puts rows of one heap page into
different transactions, so that pruning frees the room that the next update of the page needs (HOT).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.state.connection import Statement, driver, fetch, run
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import column_types, vectors
from migrator.target.facts import Heap
from migrator.target.relation import Target

_FILE = "target/lanes.sql"


@dataclass(frozen=True, slots=True)
class Row:
    """A row to be embedded: its key as texts, and the text composed by the template."""

    key: tuple[str, ...]
    body: str
    all_null: bool
    #: (oid of its heap, page) as it lay when it was read; None where nobody asked.
    place: tuple[int, int] | None = None

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
    #: Whether it waits outside of `where`, and nothing but its hint says so (`only_embedded`).
    parks: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What one landing wrote."""

    #: Keys of the rows that took their vector.
    keys: list[tuple[str, ...]]
    #: The highest cosine of a vector that was compared and what its row holds of the old generation, where one was.
    likeness: float | None


@dataclass(frozen=True, slots=True)
class Proof:
    """What one statement over the whole table found."""

    rows: int
    embedded: int
    missing: int
    #: Rows without text that have a vector.
    wordless: int
    filtered: int


@lru_cache(maxsize=1024)
def _statement(lanes: Lanes, name: str) -> sql.SQL:
    """Return a statement as text, made once for a column: a landing runs four of them, and filling one costs more."""
    text: Any = compose(_FILE, name, lanes.parts()).as_string(None)
    return sql.SQL(text)


@dataclass(frozen=True, slots=True)
class Lanes:
    """One column of one target, as rows are read from it and written to it under one epoch."""

    target: Target
    column: str
    #: The column that holds the old generation.
    from_column: str
    vector_schema: str
    type_name: str
    #: The one partition that is read and written, (schema, table); None for the whole table.
    partition: tuple[str, str] | None = None

    @classmethod
    def of(cls, migration: Migration, side: Side, heap: Heap | None = None) -> Lanes:
        """Return the column that holds a side's vectors under this migration's row, in one heap or in all of them."""
        return cls(
            target=Target.of(migration),
            column=migration.column_of(side),
            from_column=migration.column_of(Side.FROM),
            vector_schema=migration.plan["vector_schema"],
            type_name=column_types.of(migration, side),
            partition=(heap.schema, heap.table) if heap is not None and heap.level > 0 else None,
        )

    def parts(self) -> Mapping[str, sql.Composable]:
        """Return what fills the statements' placeholders."""
        target = self.target
        arrays, names = target.key_arrays()
        return {
            "table": target.table_id,
            "heap": sql.Identifier(*self.partition) if self.partition else target.table_id,
            "column": sql.Identifier(self.column),
            "from_column": sql.Identifier(self.from_column),
            "key": target.key_of("t"),
            "text": target.text_of("t"),
            "all_null": target.all_null("t"),
            "in_scope": target.in_scope("t", target.column, target.shadow),
            "owed": self._owed(),
            "parks": self._parks(),
            "key_arrays": arrays,
            "key_names": names,
            "key_equals": target.key_equals("t", "v"),
            "type": sql.Identifier(self.vector_schema, self.type_name),
            "vector": sql.Identifier(self.vector_schema, "vector"),
            "dims": sql.Identifier(self.vector_schema, "vector_dims"),
            "vector_schema": sql.Identifier(self.vector_schema),
        }

    def _owed(self) -> sql.Composable:
        """Return whether a row is still to have a vector: under `only_embedded` it has one, or a hint says so."""
        target = self.target
        if not target.only_embedded:
            return target.in_where("t")
        return sql.SQL(
            "({where} AND ({embedded} OR EXISTS (SELECT FROM migrator.dirty AS d"
            " WHERE d.migration_id = %(migration_id)s AND d.key = {key})))"
        ).format(
            where=target.in_where("t"),
            embedded=target.embedded("t", target.column, target.shadow),
            key=target.key_of("t"),
        )

    def _parks(self) -> sql.Composable:
        target = self.target
        if not target.only_embedded or not target.where:
            return sql.SQL("false")
        embedded = target.embedded("t", target.column, target.shadow)
        return sql.SQL("(NOT {where} AND NOT {embedded})").format(where=target.in_where("t"), embedded=embedded)

    def _statement(self, name: str) -> sql.SQL:
        return _statement(self, name)

    async def lock_table(self, connection: AsyncConnection) -> None:
        """Take the lock that keeps every swap out until this transaction ends (H4)."""
        await run(connection, *self.locking)

    @property
    def locking(self) -> Statement:
        """The statement that takes that lock, for whoever does more in one round trip."""
        return self._statement("lock_table"), None

    async def read_window(
        self,
        connection: AsyncConnection,
        migration_id: int,
        first_page: int,
        last_page: int,
        *,
        first_item: int = 0,
        last_item: int | None = None,
    ) -> list[Row]:
        """Return the rows of pages first..last that have no vector and no disposition, in lane order.

        Where a batch was split inside a page, `first_item` and `last_item` are the line pointers it keeps to there.
        """
        rows = await self._window(connection, migration_id, (first_page, first_item), (last_page, last_item))
        return [_row(row) for row in rows]

    async def read_places(
        self, connection: AsyncConnection, migration_id: int, first: tuple[int, int], last: tuple[int, int | None]
    ) -> list[tuple[int, int, tuple[str, ...]]]:
        """Return (page, item, key) of what `read_window` returns, as it lies in the heap."""
        rows = await self._window(connection, migration_id, first, last)
        return sorted((int(row["page"]), int(row["item"]), tuple(row["key"])) for row in rows)

    async def _window(
        self, connection: AsyncConnection, migration_id: int, first: tuple[int, int], last: tuple[int, int | None]
    ) -> list[dict[str, Any]]:
        page, item = last
        beyond = (page + 1, 0) if item is None else (page, item + 1)
        values = {"first": str(first), "beyond": str(beyond), "migration_id": migration_id}
        return await fetch(connection, self._statement("read_window"), values)

    async def read_keys(
        self, connection: AsyncConnection, migration_id: int, keys: Sequence[tuple[str, ...]]
    ) -> list[KnownRow]:
        """Return the rows of these keys that still exist, as they stand now."""
        values = self.target.key_values(list(keys)) | {"migration_id": migration_id}
        rows = await fetch(connection, self._statement("read_keys"), values)
        return [KnownRow(_row(row), row["missing"], row["in_scope"], row["parks"]) for row in rows]

    async def free_keys(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, ...]]
    ) -> frozenset[tuple[str, ...]]:
        """Return which of these rows nobody else holds now.

        Locks: those rows, until commit.
        """
        rows = await fetch(connection, self._statement("free_keys"), self.target.key_values(list(keys)))
        return frozenset(tuple(row["key"]) for row in rows)

    async def write(
        self,
        connection: AsyncConnection,
        migration_id: int,
        rows: Sequence[Row],
        embedded: NDArray[np.float32],
        *,
        answers: Sequence[int],
        compared: int,
    ) -> Written:
        """Write vectors by compare-and-set, and compare some of them with what their rows hold of the old generation.

        `answers` says which answer each came with; of those of an answer that are written so many are `compared`.
        Shape: len(rows) x dims, and len(rows).   Locks: the rows, until commit.
        """
        await vectors.register(await driver(connection), self.vector_schema)
        values: dict[str, Any] = {
            **self.target.key_values([row.key for row in rows]),
            "migration_id": migration_id,
            "hashes": [row.text_hash for row in rows],
            "vectors": vectors.encode(embedded, self.type_name),
            "answers": answers,
            "compared": compared,
        }
        found = await fetch(connection, self._statement("write_rows"), values)
        # Of a vector of no length there is no distance: not a number.
        likeness = [1.0 - each["distance"] for each in found if each["distance"] is not None]
        return Written(
            [rows[each["number"] - 1].key for each in found],
            max((each for each in likeness if not math.isnan(each)), default=None),
        )

    async def prove(self, connection: AsyncConnection, migration_id: int, side: Side) -> Proof:
        """Look for a forgotten row in one statement, after pruning what no row stands behind."""
        values = {"migration_id": migration_id, "side": side.value}
        await run(connection, self._statement("prune_dispositions"), values)
        return Proof(**(await fetch(connection, self._statement("proof"), values))[0])

    async def left_in_heap(self, connection: AsyncConnection, migration_id: int) -> int:
        """Count rows of one heap that lack a vector, and that nobody knows of."""
        rows = await fetch(connection, self._statement("left_in_heap"), {"migration_id": migration_id})
        return int(rows[0]["left"])


async def write_counters(connection: AsyncConnection, schema: str, table: str) -> dict[str, int]:
    """Return the counters of what was written to the table and its partitions; empty where it is gone."""
    rows = await fetch(connection, compose(_FILE, "write_counters"), {"schema": schema, "table": table})
    return rows[0] if rows else {}


def _row(found: Mapping[str, Any]) -> Row:
    return Row(tuple(found["key"]), found["body"], found["all_null"], (found["heap"], found["page"]))
