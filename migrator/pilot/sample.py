"""The sample of a pilot: random rows, stratified by language and length, each with its text and its old vector.

Floor 2. Promise: it reads random pages only, so many and for so long at the most, whatever the table's size; in
read-only statements, with no lock beyond a reader's. Texts stay in memory; what is stored of a row is its key (P11).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import TransientError
from migrator.measures import languages, stratification
from migrator.state.connection import LockBusy, driver, fetch, transaction
from migrator.state.pilots import Row
from migrator.statements import compose
from migrator.target import vectors
from migrator.target.facts import Relation
from migrator.target.relation import Target

_FILE = "pilot/sample.sql"
#: Rows that are looked at for each that is drawn: what is one row in a hundred is there ten times in a hundred drawn.
_POOL = 10
#: Rows that are looked at in all, at the most: their beginnings are held in memory.
_MOST_IN_POOL = 50_000
#: Draw more pages than that takes: rows out of scope, or without a text, lie on them, too.
_OVERSAMPLE = 1.5
#: By how much more of the table is looked at where too few of the rows were in scope.
_WIDER = 8
#: Pages that are looked at, at the most: 40 s of a cold disk at 1 ms each. A table of up to 320 MB is looked at whole.
_MOST_PAGES = 40_000
#: Seconds that drawing may take in all, and the share of them that one statement may: what was too much is tried with
#: less of the table.
_SECONDS, _STATEMENT_SHARE = 60.0, 1 / 3
#: The SQLSTATE of a statement whose time was over.
_TIMED_OUT = "57014"
#: Rows that are read by key in one transaction: 4 kB of vector each, in a few milliseconds.
_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Sampled:
    """A row of the sample as it stands. `old` is None where the live column holds no vector of the old dimensions."""

    row: Row
    body: str
    old: NDArray[np.float32] | None


@dataclass(eq=False)
class SampleTooSlow(TransientError):
    """Random rows could not be read in the time that is given to it."""

    table: str
    seconds: float

    runbook = "pilot"
    happened = "Random rows of {table} could not be read within {seconds:.0f} s."
    state = "Nothing was asked and nothing was paid for; your table was only read."
    next = "Run `migrator pilot SPEC` when the server has less to do, or with fewer --rows."


async def draw(engine: AsyncEngine, target: Target, relation: Relation, *, wanted: int, seed: int) -> list[Row]:
    """Draw rows: their keys, strata and weights; fewer than wanted where the pages that are looked at hold no more.

    Raises: SampleTooSlow, LockBusy.
    """
    pool = await _pooled(engine, target, relation, wanted=min(_MOST_IN_POOL, _POOL * wanted), seed=seed)
    middle = stratification.thirds([letters for _, letters, _ in pool])
    strata = [
        f"{languages.language_of(beginning)}, {stratification.third(letters, middle)}" for _, letters, beginning in pool
    ]
    drawn = stratification.draw(strata, wanted, seed=seed)
    return [Row(pool[each.position][0], strata[each.position], each.weight) for each in drawn]


async def _pooled(
    engine: AsyncEngine, target: Target, relation: Relation, *, wanted: int, seed: int
) -> list[tuple[tuple[str, ...], int, str]]:
    """Read random rows to draw from: wider where too few were in scope, narrower where it took too long."""
    percent, most = _shares(relation, wanted)
    until = time.monotonic() + _SECONDS
    found: list[tuple[tuple[str, ...], int, str]] = []
    too_slow = False
    while (left := until - time.monotonic()) > 0:
        values = {"percent": percent, "seed": seed, "wanted": wanted, "letters": languages.LETTERS}
        try:
            async with _reading(engine, target, min(left, _STATEMENT_SHARE * _SECONDS)) as connection:
                rows = await fetch(connection, compose(_FILE, "pool", parts(target)), values)
        except SampleTooSlow:
            if found:
                break
            too_slow, percent = True, percent / _WIDER
            continue
        found = [(tuple(row["key"]), row["letters"], row["beginning"]) for row in rows]
        if too_slow or len(found) >= wanted or percent >= most:
            break
        percent = min(most, _WIDER * percent)
    if too_slow and not found:
        raise SampleTooSlow(f"{target.schema}.{target.table}", _SECONDS)
    return found


@asynccontextmanager
async def _reading(engine: AsyncEngine, target: Target, seconds: float) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that reads for so long at the most.

    Raises: SampleTooSlow, LockBusy.
    """
    try:
        async with transaction(engine, read_only=True, statement_timeout_seconds=max(seconds, 0.001)) as connection:
            yield connection
    except LockBusy as error:
        if _TIMED_OUT not in error.what:
            raise
        raise SampleTooSlow(f"{target.schema}.{target.table}", seconds) from None


def _shares(relation: Relation, pooled: int) -> tuple[float, float]:
    """Return the share of pages to look at first, and the most; a table that was never analysed has a row a page."""
    pages = max(relation.pages, 1)
    most = min(100.0, 100.0 * _MOST_PAGES / pages)
    rows = relation.estimated_rows if relation.estimated_rows > 0 else pages
    return min(most, 100.0 * _OVERSAMPLE * pooled / rows), most


async def read(engine: AsyncEngine, target: Target, rows: Sequence[Row], *, dims: int) -> list[Sampled]:
    """Read the rows as they stand; those that are gone, out of scope or without a text are left out.

    Raises: SampleTooSlow, LockBusy.
    """
    found: dict[tuple[str, ...], tuple[str, NDArray[np.float32] | None]] = {}
    statement = compose(_FILE, "rows", parts(target))
    for start in range(0, len(rows), _TOGETHER):
        values = target.key_values([each.key for each in rows[start : start + _TOGETHER]])
        async with _reading(engine, target, _SECONDS) as connection:
            raw = await driver(connection)
            async with raw.cursor(row_factory=dict_row, binary=True) as cursor:
                await cursor.execute(statement, values)
                for row in await cursor.fetchall():
                    found[tuple(row["key"])] = (row["body"], _vector(row["vector"], dims))
    return [Sampled(row, *found[row.key]) for row in rows if row.key in found and found[row.key][0].strip()]


def _vector(data: bytes | None, dims: int) -> NDArray[np.float32] | None:
    kind = vectors.kind_of(data, dims) if data is not None else None
    if data is None or kind is None:
        return None
    vector = vectors.decode(data, kind)
    return vector if vector.any() else None


def parts(target: Target) -> dict[str, sql.Composable]:
    """Return what the statements are composed from."""
    arrays, names = target.key_arrays()
    return {
        "table": target.table_id,
        "key": target.key_of("t"),
        "text": target.text_of("t"),
        "in_scope": target.in_scope("t", target.column),
        "column": sql.Identifier(target.column),
        "key_arrays": arrays,
        "key_names": names,
        "key_equals": target.key_equals("t", "v"),
    }
