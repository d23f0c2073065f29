"""The sample of a pilot: random rows, stratified by language and length, each with its text and its old vector.

Floor 2. Promise: it reads random pages only, in read-only statements with a time limit, and takes no lock beyond a
reader's. Texts stay in memory; what is stored of a row is its key (P11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.measures import languages, stratification
from migrator.state.connection import driver, fetch, transaction
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
#: Seconds that one statement may take.
_SECONDS = 60.0
#: Rows that are read by key in one transaction: 4 kB of vector each, in a few milliseconds.
_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Sampled:
    """A row of the sample as it stands. `old` is None where the live column holds no vector of the old dimensions."""

    row: Row
    body: str
    old: NDArray[np.float32] | None


async def draw(engine: AsyncEngine, target: Target, relation: Relation, *, wanted: int, seed: int) -> list[Row]:
    """Draw rows: their keys, strata and weights.

    Raises: LockBusy, where one statement took longer than a minute.
    """
    pooled = min(_MOST_IN_POOL, _POOL * wanted)
    percent = _percent(relation, pooled)
    while True:
        pool = await _pool(engine, target, {"percent": percent, "seed": seed, "wanted": pooled})
        if len(pool) >= pooled or percent >= 100:  # noqa: PLR2004 - all of it
            break
        percent = min(100.0, _WIDER * percent)
    middle = stratification.thirds([letters for _, letters, _ in pool])
    strata = [
        f"{languages.language_of(beginning)}, {stratification.third(letters, middle)}" for _, letters, beginning in pool
    ]
    drawn = stratification.draw(strata, wanted, seed=seed)
    return [Row(pool[each.position][0], strata[each.position], each.weight) for each in drawn]


async def _pool(
    engine: AsyncEngine, target: Target, values: dict[str, float]
) -> list[tuple[tuple[str, ...], int, str]]:
    statement = compose(_FILE, "pool", parts(target))
    async with transaction(engine, read_only=True, statement_timeout_seconds=_SECONDS) as connection:
        rows = await fetch(connection, statement, {**values, "letters": languages.LETTERS})
    return [(tuple(row["key"]), row["letters"], row["beginning"]) for row in rows]


def _percent(relation: Relation, pooled: int) -> float:
    """Return the share of pages to look at; a table that was never analysed is looked at as a whole."""
    if relation.estimated_rows <= 0:
        return 100.0
    return min(100.0, 100.0 * _OVERSAMPLE * pooled / relation.estimated_rows)


async def read(engine: AsyncEngine, target: Target, rows: Sequence[Row], *, dims: int) -> list[Sampled]:
    """Read the rows as they stand; those that are gone, out of scope or without a text are left out."""
    found: dict[tuple[str, ...], tuple[str, NDArray[np.float32] | None]] = {}
    statement = compose(_FILE, "rows", parts(target))
    for start in range(0, len(rows), _TOGETHER):
        values = target.key_values([each.key for each in rows[start : start + _TOGETHER]])
        async with transaction(engine, read_only=True, statement_timeout_seconds=_SECONDS) as connection:
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
