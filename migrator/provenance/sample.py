"""The sample: a few random rows with their text, the texts of their columns, and the vector that stands beside them.

Floor 2. Promise: it reads at most SAMPLE_PAGES pages, picked by a seed that is told, in one read-only statement with
a time limit. Texts stay in memory: what leaves this package are keys and shares (P11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.connection import driver
from migrator.statements import compose
from migrator.target import vectors
from migrator.target.facts import Column, Relation
from migrator.target.relation import TEXT_TYPES, Target

_FILE = "provenance/sample.sql"
#: Rows that are embedded again: 50 that all fit leave less than 6 % for what does not, at 95 %.
SAMPLE_ROWS = 50
#: Pages that are read for them: at 7 to 20 rows a page there are 30 times as many rows to draw from.
SAMPLE_PAGES = 200
#: Columns that templates are tried with: the spec's, then other texts of the table; their permutations grow fast.
MAX_COLUMNS = 4
_NUMBERS = frozenset({"smallint", "integer", "bigint", "uuid"})


@dataclass(frozen=True, slots=True)
class Sampled:
    """One row. `vector` is None where the stored one has other dimensions than the old generation."""

    key: tuple[str, ...]
    body: str
    pieces: Mapping[str, str]
    vector: NDArray[np.float32] | None


def columns_to_try(target: Target, columns: Mapping[str, Column]) -> list[str]:
    """Return the template's columns, then other texts of the table."""
    others = [name for name, each in columns.items() if each.type in TEXT_TYPES - _NUMBERS]
    keys = set(target.key_columns)
    return list(dict.fromkeys([*target.template.columns, *(name for name in others if name not in keys)]))[:MAX_COLUMNS]


async def draw(
    connection: AsyncConnection, target: Target, relation: Relation, names: Sequence[str], *, dims: int, seed: int
) -> list[Sampled]:
    """Draw the sample from the live column."""
    pieces = [sql.SQL("coalesce(t.{}::text, '')").format(sql.Identifier(name)) for name in names]
    parts = {
        "key": target.key_of("t"),
        "text": target.text_of("t"),
        "pieces": sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(pieces)),
        "column": sql.Identifier(target.column),
        "in_scope": target.in_scope("t", target.column),
        "table": target.table_id,
    }
    values = {"percent": _percent(relation), "seed": seed, "wanted": SAMPLE_ROWS}
    raw = await driver(connection)
    async with raw.cursor(row_factory=dict_row, binary=True) as cursor:
        await cursor.execute(compose(_FILE, "sample", parts), values)
        found = await cursor.fetchall()
    return [
        Sampled(
            tuple(row["key"]),
            row["body"],
            dict(zip(names, row["pieces"], strict=True)),
            vectors.decode(row["vector"], kind) if (kind := vectors.kind_of(row["vector"], dims)) else None,
        )
        for row in found
    ]


def _percent(relation: Relation) -> float:
    """Return the share of pages to look at; a partitioned table has none of its own, so its rows are the measure."""
    if relation.pages:
        return min(100.0, 100.0 * SAMPLE_PAGES / relation.pages)
    return min(100.0, 100.0 * SAMPLE_PAGES * 10 / relation.estimated_rows) if relation.estimated_rows > 0 else 100.0
