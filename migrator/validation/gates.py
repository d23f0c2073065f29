"""Gate `assignment`: a sample of rows embedded again.

Floor 2. Promise: a gate reads the table and writes only its verdict; what it measured, against which threshold, on
which sample and with which seed is stored. The assignment gate catches what no count can: vectors that are whole, of
the right dimensions, and in the wrong rows. How far one text's vectors lie apart where the same model is asked twice is
measured first, so that a provider that is not steady fails no table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.measures import cosine
from migrator.provider.embedder import Embedder
from migrator.spending.asking import make_embedder
from migrator.spending.worker import Worker
from migrator.state.budget import Purpose
from migrator.state.canary import SAME_COSINE
from migrator.state.connection import driver, transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.statements import compose
from migrator.target import column_types, vectors
from migrator.target.relation import Target
from migrator.validation import asking

_FILE = "validation/gates.sql"
ASSIGNMENT = "assignment"
#: Sample more than is wanted: some of the rows drawn have no vector, or were truncated.
_OVERSAMPLE = 3.0
#: Texts that are asked twice, to learn how steady the provider is: two requests more.
_CALIBRATED = 20
#: How much farther than the farthest of those any of the sample may lie: the tail of 300 reaches about twice as far as
#: that of 20, where it falls off exponentially (ln 300 / ln 20 = 1.9), and half as much again since the twenty may have
#: stood well: where jitter grows along a request, backwards is never the end beside the end.
_FARTHER = 3.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """Texts and the vectors that stand beside them. Shape of `stored`: texts x dims."""

    texts: list[str]
    stored: np.ndarray[tuple[int, int], np.dtype[np.float32]]


def _parts(migration: Migration) -> Mapping[str, sql.Composable]:
    target = Target.of(migration)
    return {
        "table": target.table_id,
        "column": sql.Identifier(migration.column_of(Side.TO)),
        "key": target.key_of("t"),
        "text": target.text_of("t"),
        "in_scope": target.in_scope("t", migration.column_of(Side.FROM)),
    }


async def assigned(worker: Worker, migration: Migration, lease: Lease, seed: int) -> list[Verdict]:
    """Embed a sample again; no transaction is open while the provider is asked.

    Raises: what the provider and the purse raise.
    """
    # As many as the proof counted: rows that came since make the sample no smaller.
    rows = migration.proved_embedded or 0
    async with transaction(worker.engine, read_only=True) as connection:
        sampled = await sample(connection, migration, rows=rows, seed=seed)
    embedder = await make_embedder(worker, migration, Side.TO, lease, Purpose.VALIDATION)
    return [await assignment(embedder, migration, sampled, embedded=rows, seed=seed)]


async def sample(connection: AsyncConnection, migration: Migration, *, rows: int, seed: int) -> Sampled:
    """Draw the assignment gate's sample: text and vector of a row come from one snapshot."""
    wanted = migration.spec.gates.assignment_sample
    values = {
        "percent": min(100.0, 100.0 * _OVERSAMPLE * wanted / max(rows, 1)),
        "seed": seed,
        "wanted": wanted,
        "migration_id": migration.id,
    }
    raw = await driver(connection)
    async with raw.cursor(row_factory=dict_row, binary=True) as cursor:
        await cursor.execute(compose(_FILE, "sample", _parts(migration)), values)
        found = await cursor.fetchall()
    dims = migration.to_generation.dims
    kind = column_types.of(migration, Side.TO)
    stored = vectors.decode_all([row["vector"] for row in found], kind, dims)
    return Sampled([row["body"] for row in found], stored)


async def assignment(
    embedder: Embedder, migration: Migration, sampled: Sampled, *, embedded: int, seed: int
) -> Verdict:
    """Embed the sample's texts again and compare with what is stored, on a table with that many vectors.

    Cost: one embedding per sampled row, and a second one of the first _CALIBRATED of them, booked as validation.
    Raises: what the provider and the purse raise.
    """
    began = time.monotonic()
    again = await asking.embed(embedder, sampled.texts, sampled.stored.shape[1])
    # Backwards: neither in the same places of a request nor beside the same texts.
    twice = (await asking.embed(embedder, sampled.texts[:_CALIBRATED][::-1], sampled.stored.shape[1]))[::-1]
    steady = Steadiness.of(again[:_CALIBRATED], twice)
    threshold = steady.threshold(migration.spec.gates.assignment_min_cosine)
    cosines = cosine.paired(again, sampled.stored)
    count, bad = len(cosines), int((cosines < threshold).sum())
    lowest = float(cosines.min()) if count else 1.0
    # A sample much smaller than was asked for proves little, and must not pass by being small.
    enough = count >= min(migration.spec.gates.assignment_sample, embedded) / 2
    detail = f"{bad:,} of {count:,} sampled rows hold another text's vector"
    if count and not bad:
        detail += f"; so fewer than {min(100.0, 300 / count):.1f} % of all rows do, at 95 %"
    elif not enough:
        detail += f"; too few of {embedded:,} were drawn"
    if steady.texts:
        detail += f"; {steady.texts} texts asked twice: cosine {steady.lowest:.5f} at the lowest"
    if threshold < migration.spec.gates.assignment_min_cosine:
        detail += f", so {threshold:.5f} is asked for and not {migration.spec.gates.assignment_min_cosine:g}"
    passed = enough and bad == 0
    return Verdict(ASSIGNMENT, passed, lowest, threshold, count, seed, detail, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Steadiness:
    """How near to each other two answers for one text lie, at the least of so many texts."""

    texts: int
    lowest: float

    @classmethod
    def of(cls, first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> Steadiness:
        """Compare two answers for the same texts; one that was refused is a row of zeros, and says nothing."""
        answered = np.any(first != 0, axis=1) & np.any(second != 0, axis=1)
        cosines = cosine.paired(first[answered], second[answered])
        return cls(len(cosines), float(cosines.min()) if len(cosines) else 1.0)

    def threshold(self, wanted: float) -> float:
        """Return the cosine that can be asked for: what is wanted, or as much as a provider so unsteady allows.

        Never below that of another text's vector: however unsteady it is, a wrong row is none of that.
        """
        allowed = 1 - _FARTHER * (1 - self.lowest)
        return min(wanted, max(allowed, SAME_COSINE))
