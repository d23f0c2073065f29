"""Gate `assignment`: a sample of rows embedded again.

Floor 2. Promise: a gate reads the table and writes only its verdict; what it measured, against which threshold, on
which sample and with which seed is stored. The assignment gate catches what no count can: vectors that are whole, of
the right dimensions, and in the wrong rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.measures import cosine
from migrator.provider.embedder import Answer, Embedder
from migrator.spending.asking import make_embedder
from migrator.spending.worker import Worker
from migrator.state.budget import Purpose
from migrator.state.connection import driver, transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.statements import compose
from migrator.target import vectors
from migrator.target.relation import Target

_FILE = "validation/gates.sql"
ASSIGNMENT = "assignment"
#: Sample more than is wanted: some of the rows drawn have no vector, or were truncated.
_OVERSAMPLE = 3.0


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
    kind = migration.plan["vector_type"]
    stored = vectors.decode_all([row["vector"] for row in found], kind, dims)
    return Sampled([row["body"] for row in found], stored)


async def assignment(
    embedder: Embedder, migration: Migration, sampled: Sampled, *, embedded: int, seed: int
) -> Verdict:
    """Embed the sample's texts again and compare with what is stored, on a table with that many vectors.

    Cost: one embedding per sampled row, booked as validation.
    Raises: what the provider and the purse raise.
    """
    began = time.monotonic()
    threshold = migration.spec.gates.assignment_min_cosine
    again = np.zeros_like(sampled.stored)
    for run in embedder.plan(sampled.texts):
        async for outcome in embedder.embed(sampled.texts, run):
            if isinstance(outcome, Answer):
                again[list(outcome.positions)] = outcome.vectors
                await embedder.purse.spend(outcome.request_id, outcome.used_tokens)
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
    passed = enough and bad == 0
    return Verdict(ASSIGNMENT, passed, lowest, threshold, count, seed, detail, time.monotonic() - began)
