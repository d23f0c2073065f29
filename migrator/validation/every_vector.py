"""Every vector of the column, once: windows of heap pages, each a short transaction of its own.

Floor 2. Promise: no snapshot is held for longer than a window of some 20,000 rows takes (P12); memory does not grow
with the table; what moved while the windows were read is looked at in the end, wherever it went. A row that was looked
at and then moved is looked at twice, never not at all.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.errors import Defect
from migrator.generation import Side
from migrator.measures import sharing
from migrator.spending.worker import Worker
from migrator.state.connection import driver, fetch, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import arrays, column_types, facts, vectors
from migrator.target.relation import Target

_FILE = "validation/every_vector.sql"
#: Rows a window aims at: 0.15 s of reading at 1,024 dimensions, and 1 MB on the wire.
WINDOW_ROWS = 20_000
#: Vectors that are fetched at a time, where any are: 4 MB at 1,024 dimensions.
_FETCH_ROWS = 1_024
#: A page that no heap has.
_BEYOND = 2**32 - 1

Vectors = NDArray[np.float32]
Key = tuple[str, ...]


def parts(migration: Migration) -> Mapping[str, sql.Composable]:
    """Return what the statements on both columns of a target are composed from."""
    target = Target.of(migration)
    schema = migration.plan["vector_schema"]
    column, old = migration.column_of(Side.TO), migration.column_of(Side.FROM)
    key_arrays, names = target.key_arrays()
    return {
        "table": target.table_id,
        "column": sql.Identifier(column),
        "old_column": sql.Identifier(old),
        "whole": _whole(schema, column_types.of(migration, Side.TO), column),
        "whole_old": _whole(schema, column_types.of(migration, Side.FROM), old),
        "key": target.key_of("t"),
        "text": target.text_of("t"),
        "key_arrays": key_arrays,
        "key_names": names,
        "key_equals": target.key_equals("t", "v"),
        "dims_of": sql.Identifier(schema, "vector_dims"),
        "norm": sql.Identifier(schema, "vector_norm"),
    }


def parts_of(migration: Migration, side: Side) -> Mapping[str, sql.Composable]:
    """Return the same with `column` and `whole` meaning one side's column."""
    names = parts(migration)
    return {**names, "column": names["old_column"], "whole": names["whole_old"]} if side is Side.FROM else names


def along(migration: Migration, *, sized: bool) -> sql.Composable:
    """Return the product of a vector with a direction; NaN at other dimensions, where the type lets them in.

    Not asked where the column's type settles it: the look at each vector's size doubles what arithmetic costs here.
    """
    schema, dims = migration.plan["vector_schema"], migration.to_generation.dims
    names = {
        "product": sql.Identifier(schema, "inner_product"),
        "direction": sql.Placeholder("direction", format="b"),
        "vector": sql.Identifier(schema, "vector"),
        "dims_of": sql.Identifier(schema, "vector_dims"),
        "dims": sql.Literal(dims),
    }
    product = sql.SQL("{product}(s.vector, {direction}::{vector})").format(**names)
    if sized:
        return product
    case = sql.SQL("CASE WHEN {dims_of}(s.vector) = {dims} THEN {whole_product} ELSE 'NaN' END")
    return case.format(**names, whole_product=product)


def _whole(schema: str, kind: str, column: str) -> sql.Composable:
    """Return a column as a vector in memory: an element of an array was taken out of TOAST, and so was what is cast."""
    if kind == "vector":
        return sql.SQL("(ARRAY[t.{}])[1]").format(sql.Identifier(column))
    return sql.SQL("t.{}::{}").format(sql.Identifier(column), sql.Identifier(schema, "vector"))


@dataclass(frozen=True, slots=True)
class Span:
    """Pages of one heap, or with `since` what was written to the table by that transaction or later ones.

    `sized`: the column's type lets no vector of other dimensions in.
    """

    heap: sql.Identifier
    number: int
    sized: bool
    first_page: int
    beyond_page: int
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """What a look goes over: heaps (oid, file, schema, table, pages) in windows of so many pages, as it began.

    `since`: the oldest transaction that was at work then; the last window is what it and later ones wrote.
    """

    heaps: tuple[tuple[int, int | None, str, str, int], ...]
    table: tuple[str, str]
    width: int
    sized: bool
    since: str

    @property
    def files(self) -> tuple[tuple[int, int | None], ...]:
        """Which heaps there are, each with its file: a rewrite gives it another."""
        return tuple((oid, file) for oid, file, *_ in self.heaps)

    @property
    def spans(self) -> list[Span]:
        """Its windows, and last the one of what was written meanwhile."""
        found = [
            Span(sql.Identifier(schema, table), number, self.sized, first, first + self.width)
            for number, (_, _, schema, table, pages) in enumerate(self.heaps)
            for first in range(0, pages, self.width)
        ]
        written = Span(sql.Identifier(*self.table), len(self.heaps), self.sized, 0, _BEYOND, self.since)
        return [*found, written]

    def as_json(self) -> dict[str, Any]:
        """Return it for `looks`."""
        return asdict(self)

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> Self:
        """Read it back."""
        heaps = tuple((oid, file, schema, table, pages) for oid, file, schema, table, pages in data["heaps"])
        schema, table = data["table"]
        return cls(heaps, (schema, table), data["width"], data["sized"], data["since"])


def by_chance(dims: int, seed: int) -> Vectors:
    """Return a direction for fingerprints, where none was learnt."""
    drawn: Vectors = np.random.default_rng(seed).standard_normal(dims).astype(np.float32) / np.float32(math.sqrt(dims))
    return drawn


@dataclass(frozen=True, slots=True)
class Window:
    """What one window's vectors are: one element per row in each array. `along` is NaN at other dimensions."""

    connection: AsyncConnection
    migration: Migration
    span: Span
    places: NDArray[np.void]
    norms: NDArray[np.float64]
    along: NDArray[np.float64]
    prints: NDArray[np.uint64]
    texts: NDArray[np.uint64]
    wordless: NDArray[np.bool_]

    def numbered(self) -> NDArray[np.uint64]:
        """Return each row's place as one number: 16 bits for the heap, 32 for the page, 16 for the item."""
        page, item = self.places["page"].astype(np.uint64), self.places["item"].astype(np.uint64)
        return np.uint64(self.span.number << 48) | (page << np.uint64(16)) | item

    async def keys(self, which: NDArray[np.bool_], most: int) -> list[Key]:
        """Return the keys of some of its rows."""
        places = arrays.tids(self.places[which][:most])
        statement = compose(_FILE, "keys", {**parts(self.migration), "heap": self.span.heap})
        rows = await fetch(self.connection, statement, {"places": places})
        return [tuple(row["key"]) for row in rows]

    async def closely(self, which: NDArray[np.bool_], dims: int) -> list[tuple[list[Key], Vectors, Vectors]]:
        """Return keys, vectors and old vectors (zeros where there are none) of some of its rows, in groups."""
        places = arrays.tids(self.places[which])
        statement = compose(_FILE, "closely", {**parts(self.migration), "heap": self.span.heap})
        raw = await driver(self.connection)
        found = []
        for start in range(0, len(places), _FETCH_ROWS):
            async with raw.cursor(row_factory=dict_row, binary=True) as cursor:
                await cursor.execute(statement, {"places": places[start : start + _FETCH_ROWS]})
                rows = [row for row in await cursor.fetchall() if vectors.kind_of(row["vector"], dims) == "vector"]
            nothing = np.zeros((1, dims), dtype=np.float32)
            old = [_vector(row["old"], dims, nothing) for row in rows]
            new = vectors.decode_all([row["vector"] for row in rows], "vector", dims)
            found.append(([tuple(row["key"]) for row in rows], new, np.concatenate([nothing[:0], *old])))
        return found


def _vector(data: bytes | None, dims: int, nothing: Vectors) -> Vectors:
    if data is None or vectors.kind_of(data, dims) != "vector":
        return nothing
    return vectors.decode(data, "vector")[np.newaxis]


async def frame(worker: Worker, migration: Migration) -> Frame:
    """Return what is to be looked at, as the table is."""
    async with transaction(worker.engine, read_only=True) as connection:
        since = str((await fetch(connection, compose(_FILE, "since")))[0]["xid"])
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        if relation is None:
            raise Defect(f"{migration.target} is gone")
        heaps = await facts.heaps(connection, relation.oid)
        column = (await facts.columns(connection, relation.oid))[migration.column_of(Side.TO)]
    sized = facts.dims_of(column) == migration.to_generation.dims
    per_page = max(relation.estimated_rows, 1) / max(relation.pages, 1)
    # A table that was never analysed says that it has no rows: 20 to a page, at vectors out of line, is the most.
    width = max(1, math.floor(WINDOW_ROWS / (per_page if relation.estimated_rows > 0 else 20)))
    found = tuple((heap.oid, heap.file, heap.schema, heap.table, heap.pages) for heap in heaps)
    return Frame(found, (migration.target_schema, migration.target_table), width, sized, since)


async def read(connection: AsyncConnection, migration: Migration, span: Span, direction: Vectors) -> Window:
    """Read one window."""
    raw = await driver(connection)
    await vectors.register(raw, migration.plan["vector_schema"])
    values = {
        "first": f"({span.first_page},0)",
        "beyond": f"({span.beyond_page},0)",
        "since": span.since,
        "direction": vectors.encode(direction[np.newaxis], "vector")[0],
    }
    async with raw.cursor(binary=True) as cursor:
        names = {**parts(migration), "heap": span.heap, "along": along(migration, sized=span.sized)}
        await cursor.execute(compose(_FILE, "window", names), values)
        result = cursor.pgresult
        cells: Sequence[bytes | None] = [result.get_value(0, number) if result else None for number in range(5)]
    norms, products = (arrays.read(cell, ">f8").astype(np.float64) for cell in cells[1:3])
    return Window(
        connection=connection,
        migration=migration,
        span=span,
        places=arrays.read(cells[0], arrays.PLACE),
        norms=norms,
        along=products,
        prints=sharing.fingerprints(norms, products),
        texts=arrays.read(cells[3], ">i8").astype(np.int64).view(np.uint64),
        wordless=arrays.read(cells[4], "?").astype(np.bool_),
    )


class Looking(Protocol):
    """What is asked of every window."""

    async def take(self, window: Window) -> None:
        """Look at one."""


async def look(
    worker: Worker,
    migration: Migration,
    spans: Sequence[Span],
    direction: Vectors,
    looking: Sequence[Looking],
    *,
    first: int = 0,
    between: Callable[[int], Awaitable[None]] | None = None,
) -> None:
    """Read windows from `first` on, each in a transaction of its own, and have all look at each.

    `between` is told before each window how many are done.
    """
    for number, span in enumerate(spans[first:], start=first):
        if between is not None:
            await between(number)
        async with transaction(worker.engine, read_only=True) as connection:
            window = await read(connection, migration, span, direction)
            for each in looking:
                await each.take(window)


async def folded(
    worker: Worker, migration: Migration, heap: sql.Identifier, places: Sequence[str]
) -> dict[str, tuple[Key, int]]:
    """Return keys and hashes of some rows' texts, without case and spaces, by their places."""
    statement = compose(_FILE, "folded", {**parts(migration), "heap": heap})
    async with transaction(worker.engine, read_only=True) as connection:
        rows = await fetch(connection, statement, {"places": list(places)})
    return {row["place"]: (tuple(row["key"]), int(row["text"])) for row in rows}


async def of_keys(
    connection: AsyncConnection,
    migration: Migration,
    keys: Sequence[Key],
    side: Side = Side.TO,
    *,
    taking: bool = False,
) -> tuple[list[Key], Vectors]:
    """Return those of the keys that have a vector of a generation's dimensions in its column, and the vectors.

    Locks: none, or with `taking` the rows, until commit; those that somebody else holds are left out.
    """
    dims, names = migration.generation(side).dims, parts_of(migration, side)
    statement = compose(_FILE, "take", names) if taking else compose(_FILE, "by_keys", names)
    values = Target.of(migration).key_values(list(keys))
    raw = await driver(connection)
    async with raw.cursor(row_factory=dict_row, binary=True) as cursor:
        await cursor.execute(statement, values)
        rows = [row for row in await cursor.fetchall() if vectors.kind_of(row["vector"], dims) == "vector"]
    return [tuple(row["key"]) for row in rows], vectors.decode_all([row["vector"] for row in rows], "vector", dims)


async def pairs(
    connection: AsyncConnection, migration: Migration, *, percent: float, seed: int, teaching: bool, wanted: int
) -> AsyncIterator[tuple[Vectors, Vectors]]:
    """Yield both vectors of random rows, some at a time: old and new, each rows x dims."""
    dims = migration.to_generation.dims
    values = {"percent": percent, "seed": seed, "teaching": teaching, "dims": dims, "wanted": wanted}
    raw = await driver(connection)
    async with raw.cursor("pairs", binary=True) as cursor:
        await cursor.execute(compose(_FILE, "pairs", parts(migration)), values)
        while rows := await cursor.fetchmany(_FETCH_ROWS):
            old, new = (vectors.decode_all([row[side] for row in rows], "vector", dims) for side in (0, 1))
            yield old, new
