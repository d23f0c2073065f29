"""Searching either column the way an application does: through its index, by the operator that the index serves.

Floor 2. Promise: it only reads; no transaction lasts longer than a moment or one search, so that the horizon moves on;
every search has a time limit. What is exact says so to the planner, and nothing else is said to it: an index that the
planner would not use is not used here either, unless a gate asks what the index itself is worth.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.spending.worker import Worker
from migrator.state.connection import LockBusy, driver, fetch, run, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import column_types, dependents, facts, vectors
from migrator.target.dependents import LiveIndex
from migrator.target.relation import SUFFIX, Target
from migrator.target.renaming import renamed
from migrator.throttle import weigh

_FILE = "validation/searching.sql"
#: How deep rankings are compared; what searches show on their first page.
DEPTH = 10
#: Queries after which the two columns take turns.
TURN = 10
#: Seconds after which a transaction of many searches ends, so that the horizon moves on.
_MOMENT_SECONDS = 1.0
#: Draw more than is wanted: some of the rows drawn lack one of the vectors.
_OVERSAMPLE = 3.0
#: SQLSTATE query_canceled, by statement_timeout.
_TIMED_OUT = "57014"
#: pgvector's operators; what an index of another class orders by is nothing that we know to search with.
_OPERATORS = frozenset({"<->", "<#>", "<=>", "<+>", "<~>", "<%>"})
#: For the exact search: no index may order the rows.
EXACT = {"enable_indexscan": "off", "enable_indexonlyscan": "off", "enable_bitmapscan": "off"}
#: For what an index itself is worth, on a table so small that the planner would do without.
BY_INDEX = {"enable_seqscan": "off"}
#: Stands for the column in an index's expression until it is known what is put there; a plain name that nobody uses.
_OPERAND = "operand__migrator"
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """One search's rows, nearest first, and the milliseconds that the statement took."""

    keys: list[Key]
    distances: list[float]
    milliseconds: float

    def without(self, key: Key | None) -> Found:
        """Return the first DEPTH of them, without the row whose own vector was the query."""
        kept = [place for place, each in enumerate(self.keys) if each != key][:DEPTH]
        return Found([self.keys[place] for place in kept], [self.distances[place] for place in kept], self.milliseconds)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows that have both vectors. Shape of `old` and `new`: rows x dims."""

    keys: list[Key]
    texts: list[str]
    vectors: dict[Side, NDArray[np.float32]]

    def first(self, count: int) -> Pairs:
        """Return the first of them: they come in random order."""
        return Pairs(self.keys[:count], self.texts[:count], {side: each[:count] for side, each in self.vectors.items()})


@dataclass(frozen=True, slots=True)
class Search:
    """How the target is searched: by which index of how many, with which operator."""

    migration: Migration
    operator: tuple[str, str]
    index: LiveIndex | None
    indexes: int

    def parts(self, side: Side) -> dict[str, sql.Composable]:
        """Return what the statements are composed from."""
        migration, target = self.migration, Target.of(self.migration)
        schema, kind = migration.plan["vector_schema"], column_types.of(migration, side)
        # Both come from the catalog, the operator is one of pgvector's; neither is input.
        name: Any = self.operator[1]
        arrays, names = target.key_arrays()
        vector = sql.SQL("%(query)b::{}").format(sql.Identifier(schema, kind))
        predicate: Any = ((self.index.predicate if self.index is not None else None) or "true").replace("%", "%%")
        return {
            "table": target.table_id,
            "key": target.key_of("t"),
            "key_arrays": arrays,
            "key_names": names,
            "key_equals": target.key_equals("t", "v"),
            "text": target.text_of("t"),
            "in_scope": target.in_scope("t", migration.column_of(Side.FROM)),
            "column": sql.Identifier(migration.column_of(side)),
            "old": sql.Identifier(migration.column_of(Side.FROM)),
            "new": sql.Identifier(migration.column_of(Side.TO)),
            "schema": sql.Identifier(self.operator[0]),
            "operator": sql.SQL(name),
            "searched": self._over(sql.SQL("t.{}").format(sql.Identifier(migration.column_of(side)))),
            "asked": self._over(vector),
            "predicate": sql.SQL(predicate),
        }

    def _over(self, operand: sql.Composable) -> sql.Composable:
        """Return a column or a vector as the index has it: itself, or what the index's expression makes of it.

        Both sides' indexes say the same but for the column's name, so an expression of the live one serves either.
        """
        if self.index is None or self.index.expression is None:
            return operand
        # PostgreSQL's own words (pg_get_indexdef), not input.
        told: Any = renamed(self.index.expression, self.migration.target_column, _OPERAND).replace("%", "%%")
        words: list[Any] = told.split(_OPERAND)
        return sql.Composed([sql.SQL(words[0]), *(each for word in words[1:] for each in (operand, sql.SQL(word)))])

    @property
    def by(self) -> str:
        """What is searched by, for people."""
        if self.index is None:
            return "no index"
        more = f", 1 of {self.indexes}" if self.indexes > 1 else ""
        return f"{self.index.name} ({self.index.method}{more})"

    @property
    def breadth(self) -> dict[str, str]:
        """Return what the application sets before it searches, as the spec says."""
        gates = self.migration.spec.gates
        said = {"hnsw.ef_search": gates.ef_search, "ivfflat.probes": gates.probes}
        return {name: str(value) for name, value in said.items() if value is not None}


async def prepare(worker: Worker, migration: Migration) -> Search:
    """Find out how the target is searched: by the largest index over its live column, the whole one if there is one."""
    async with transaction(worker.engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        columns = await facts.columns(connection, relation.oid) if relation is not None else {}
        live = columns.get(migration.target_column)
        found = await dependents.indexes(connection, relation.oid, live) if relation is not None and live else []
        mine = [
            each
            for each in found
            if _serves_the_column(each, migration.target_column) and not each.name.endswith(SUFFIX)
        ]
        mine.sort(key=lambda each: (each.predicate is not None, -each.bytes))
        for each in mine:
            operator = await _operator(connection, each)
            if operator is not None:
                return Search(migration, operator, each, len(mine))
    return Search(migration, (migration.plan["vector_schema"], "<=>"), None, 0)


def _serves_the_column(index: LiveIndex, column: str) -> bool:
    """Say whether a search by the column, or by an expression over it, can use an index."""
    if not index.valid or index.columns != 1:
        return False
    if index.expression is None:
        return index.on_column and not index.has_expressions
    # Of the column and of nothing else that this could not write: an index may only be partial by it.
    return renamed(index.expression, column, _OPERAND) != index.expression


async def _operator(connection: AsyncConnection, index: LiveIndex) -> tuple[str, str] | None:
    values = {"opclass_schema": index.opclass_schema, "opclass": index.opclass, "method": index.method}
    rows = await fetch(connection, compose(_FILE, "operator"), values)
    return next(((row["schema"], row["name"]) for row in rows if row["name"] in _OPERATORS), None)


async def pairs(worker: Worker, search: Search, *, wanted: int, seed: int) -> Pairs:
    """Draw rows that have both vectors, none of them zero: those have no direction, and no index holds them."""
    migration = search.migration
    rows = migration.proved_rows or int(migration.plan["rows"])
    percent = min(100.0, 100.0 * _OVERSAMPLE * wanted / max(rows, 1))
    values = {"percent": percent, "seed": seed, "wanted": wanted}
    async with transaction(worker.engine, read_only=True) as connection:
        raw = await driver(connection)
        async with raw.cursor(row_factory=dict_row, binary=True) as cursor:
            await cursor.execute(compose(_FILE, "pairs", search.parts(Side.TO)), values)
            drawn = await cursor.fetchall()
    kinds = {"old": column_types.of(migration, Side.FROM), "new": column_types.of(migration, Side.TO)}
    dims = {"old": migration.from_generation.dims, "new": migration.to_generation.dims}
    # Vectors of other dimensions are the structure gate's to tell.
    found = [row for row in drawn if all(vectors.kind_of(row[name], dims[name]) == kinds[name] for name in dims)]
    old = vectors.decode_all([row["old"] for row in found], kinds["old"], migration.from_generation.dims)
    new = vectors.decode_all([row["new"] for row in found], kinds["new"], migration.to_generation.dims)
    kept = np.flatnonzero(np.any(old != 0, axis=1) & np.any(new != 0, axis=1))
    return Pairs(
        [tuple(found[place]["key"]) for place in kept],
        [found[place]["body"] for place in kept],
        {Side.FROM: old[kept], Side.TO: new[kept]},
    )


async def still(worker: Worker, search: Search, keys: Sequence[Key]) -> dict[Key, str]:
    """Return the texts of those rows that have both vectors now."""
    values = Target.of(search.migration).key_values(list(keys))
    async with transaction(worker.engine, read_only=True) as connection:
        rows = await fetch(connection, compose(_FILE, "still", search.parts(Side.TO)), values)
    return {tuple(row["key"]): row["body"] for row in rows}


@dataclass(slots=True)
class Searcher:
    """Searches under one time limit, a moment's worth in each transaction."""

    worker: Worker
    search: Search
    #: On the loop's clock.
    until: float

    @classmethod
    def start(cls, worker: Worker, search: Search) -> Searcher:
        """Begin: the gate's time runs from here."""
        seconds = search.migration.spec.gates.search_seconds
        return cls(worker, search, asyncio.get_running_loop().time() + seconds)

    @property
    def left_seconds(self) -> float:
        """Seconds that are left."""
        return self.until - asyncio.get_running_loop().time()

    async def find(
        self, side: Side, queries: NDArray[np.float32], settings: dict[str, str] | None = None
    ) -> list[Found]:
        """Search one side's column for each query; returns fewer where the time was over.

        Raises: Throttled.
        """
        loop = asyncio.get_running_loop()
        wires = vectors.encode(queries, column_types.of(self.search.migration, side)) if len(queries) else []
        statement = compose(_FILE, "search", self.search.parts(side))
        found: list[Found] = []
        while len(found) < len(wires) and self.left_seconds > 0:
            await weigh.require(self.worker.engine, self.search.migration)
            moment = min(loop.time() + _MOMENT_SECONDS, self.until)
            try:
                async with transaction(
                    self.worker.engine, read_only=True, statement_timeout_seconds=max(self.left_seconds, 0.001)
                ) as connection:
                    await self._set(connection, settings or {})
                    while len(found) < len(wires) and loop.time() < moment:
                        found.append(await _one(connection, statement, wires[len(found)]))
            except LockBusy as error:
                if _TIMED_OUT not in error.what:
                    raise
                break  # the statement's time limit is the gate's
        return found

    async def in_turns(self, old: NDArray[np.float32], new: NDArray[np.float32]) -> tuple[list[Found], list[Found]]:
        """Search both columns for the same things, a few at a time, so that a time limit cuts both at one place.

        Raises: Throttled.
        """
        found: tuple[list[Found], list[Found]] = ([], [])
        for start in range(0, len(old), TURN):
            before = await self.find(Side.FROM, old[start : start + TURN])
            after = await self.find(Side.TO, new[start : start + TURN])
            done = min(len(before), len(after))
            found[0].extend(before[:done])
            found[1].extend(after[:done])
            if done < len(old[start : start + TURN]):
                break
        return found

    async def _set(self, connection: AsyncConnection, settings: dict[str, str]) -> None:
        await vectors.register(await driver(connection), self.search.migration.plan["vector_schema"])
        said = {**self.search.breadth, **settings}
        values = {"names": list(said), "values": list(said.values())}
        await run(connection, compose(_FILE, "settings"), values)

    async def breadth(self) -> str:
        """Return how far an approximate search looks, for people."""
        if self.search.index is None:
            return "exact"
        async with transaction(self.worker.engine, read_only=True) as connection:
            await self._set(connection, {})
            row = (await fetch(connection, compose(_FILE, "breadth")))[0]
        if self.search.index.method == "ivfflat":
            return f"ivfflat.probes {row['probes'] or 1}"
        return f"hnsw.ef_search {row['ef_search'] or 40}"


async def _one(connection: AsyncConnection, statement: sql.Composed, query: vectors.WireVector) -> Found:
    raw = await driver(connection)
    async with raw.cursor() as cursor:
        began = time.perf_counter()
        await cursor.execute(statement, {"query": query, "depth": DEPTH + 1})
        rows = await cursor.fetchall()
        took = 1000 * (time.perf_counter() - began)
    return Found([tuple(row[0]) for row in rows], [float(row[1]) for row in rows], took)


def cut(done: int, wanted: int, seconds: float) -> str:
    """Say that there was no time for all, where that was so."""
    return "" if done >= wanted else f"; cut short after {seconds:g} s at {done} of {wanted}"


def few(done: int, wanted: Sequence[object]) -> bool:
    """Say whether so little was measured in time that it proves nothing."""
    return done < min(len(wanted), DEPTH)
